// Many images: progress, a card for each, and the answers with their counts.

import { button, byId, element, readOut } from "./dom.js";
import { number, percent, problemText, t } from "./i18n.js";
import { recognise } from "./images.js";
import { isUnsure, saidName } from "./names.js";
import { saveCsv, saveJson } from "./records.js";
import { Problem } from "./server.js";
import * as thumbnails from "./thumbnails.js";

const AT_ONCE = 4; // requests; a browser keeps six connections to a server
const COUNT_EVERY = 250; // milliseconds
const NOT_SURE = Symbol("not sure");
const FAILED = Symbol("failed");

let items = []; // { file, card, result or problem when it is done }
let running; // aborts the requests that are under way
let filter; // as `kindOf` returns it, or undefined for all
let counting; // timer
let skipped; // number of files that are not images
let callbacks; // { choose, record, say }
const chips = new Map(); // buttons by what they filter

export const answers = () => items.flatMap(({ result }) => result?.answer ?? []);

/** Recognise these files; `leftOut` is the number of others. `choose` is called with the result whose card is pressed. */
export function open(files, leftOut, { choose, record, say }) {
  callbacks = { choose, record, say };
  skipped = leftOut;
  items = files.map((file) => ({ file, card: card(file) }));
  byId("cards").replaceChildren(...items.map((item) => item.card));
  byId("gallery").hidden = false;
  for (const { card, file } of items) thumbnails.watch(card.querySelector("canvas"), file);
  byId("csv").onclick = () => saveCsv(items);
  byId("json").onclick = () => saveJson(items);
  byId("stop").onclick = () => (running ? stop() : go());
  go();
}

export function clear() {
  running?.abort();
  thumbnails.clear();
  chips.clear();
  byId("labels").replaceChildren();
  [items, running, filter] = [[], undefined, undefined];
  byId("gallery").hidden = true;
}

function stop(reason = "") {
  running.abort();
  running = undefined;
  callbacks.say(reason);
  count();
}

async function go() {
  const { signal } = (running = new AbortController());
  const say = (...words) => signal.aborted || callbacks.say(...words);
  if (items.every(isDone)) items.filter(({ problem }) => problem).forEach(reset);
  count();
  const work = async () => {
    for (let item; !signal.aborted && (item = items.find(({ taken }) => !taken)); ) await recogniseOne(item, { signal, say });
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (signal.aborted) return;
  running = undefined;
  choose(byKind().has(filter) ? filter : undefined); // none of the failed may be left
  sortChips();
  readOut(t("gallery_done", { done: number(items.length), failed: number(byKind().get(FAILED)?.length ?? 0) }));
}

function reset(item) {
  Object.assign(item, { taken: false, problem: undefined });
}

async function recogniseOne(item, { signal, say }) {
  item.taken = true;
  try {
    item.result = { ...(await recognise(item.file, { signal, say })), file: item.file };
    callbacks.record(item.result);
  } catch (error) {
    if (signal.aborted) return reset(item);
    if (["unauthorized", "rate-limited"].includes(error.code)) { // as all others would be
      reset(item);
      return stop(problemText(error));
    }
    item.problem = error instanceof Problem ? error : new Problem("unexpected");
  }
  describe(item);
  counting ??= setTimeout(count, COUNT_EVERY);
}

function card(file) {
  const name = element("small", { textContent: file.path ?? file.name });
  return element("li", {}, button({ disabled: true }, element("canvas"), element("strong"), element("span"), name));
}

function describe(item) {
  const { card, result, problem } = item;
  const [, title, detail] = card.firstChild.children;
  card.classList.toggle("failed", Boolean(problem));
  if (problem) {
    [title.textContent, detail.textContent] = [t("failed"), problemText(problem)];
  } else {
    const { says, predictions } = result.answer;
    card.classList.toggle("unsure", isUnsure(says));
    title.textContent = saidName(says);
    detail.textContent = isUnsure(says) ? t("perhaps", predictions[0]) : percent(says.confidence);
    Object.assign(card.firstChild, { disabled: false, onclick: () => pick(item) });
  }
  hide(item);
}

function pick({ card, result }) {
  for (const item of items) item.card.firstChild.ariaCurrent = String(item.card === card);
  byId("back").onclick = () => {
    if (card.hidden) choose(undefined);
    card.scrollIntoView({ block: "center" });
    card.firstChild.focus({ preventScroll: true });
  };
  callbacks.choose(result);
}

/** What an item counts as, in any language: FAILED, NOT_SURE, or the id of the class or group that is said. */
function kindOf({ result, problem }) {
  if (problem) return FAILED;
  const { says, predictions } = result.answer;
  return says.kind === "class" ? predictions[0].class_id : (says.id ?? NOT_SURE);
}

const isDone = ({ result, problem }) => Boolean(result ?? problem);

function hide(item) {
  item.card.hidden = filter !== undefined && !(isDone(item) && kindOf(item) === filter);
}

const byKind = () => Map.groupBy(items.filter(isDone), kindOf);

function count() {
  clearTimeout(counting);
  counting = undefined;
  const kinds = byKind();
  const done = items.filter(isDone).length;
  const failed = kinds.get(FAILED)?.length;
  Object.assign(byId("progress"), { max: items.length || 1, value: done });
  const parts = [t("done_of", { done: number(done), all: number(items.length) }), failed && t("failed_of", { failed: number(failed) })];
  if (skipped) parts.push(t("skipped", { count: number(skipped) }));
  byId("count").textContent = parts.filter(Boolean).join(" · ");
  const isOver = done === items.length;
  byId("stop").textContent = t(running ? "stop" : isOver ? "retry" : "go_on");
  if (byId("stop") === document.activeElement && isOver && !failed) byId("csv").focus();
  byId("progress").hidden = isOver;
  byId("stop").hidden = isOver && !failed;
  chip(undefined, t("all"), done);
  for (const each of chips.keys()) if (each !== undefined && !kinds.has(each)) chips.get(each).hidden = true;
  for (const [each, { length, 0: first }] of kinds) chip(each, each === FAILED ? t("failed") : saidName(first.result.answer.says), length);
}

/** A button keeps its place while others join it, so that it can be pressed. */
function chip(kind, name, many) {
  if (!chips.has(kind)) {
    chips.set(kind, button({ onclick: () => choose(kind) }));
    byId("labels").append(chips.get(kind));
  }
  Object.assign(chips.get(kind), { textContent: `${name} ${number(many)}`, hidden: false, ariaPressed: String(filter === kind) });
}

function choose(kind) {
  filter = kind;
  items.forEach(hide);
  count();
}

function sortChips() {
  const focused = document.activeElement;
  const first = (kind) => [NOT_SURE, FAILED, filter].includes(kind);
  const sorted = [...byKind()].sort(([one, few], [other, many]) => first(other) - first(one) || many.length - few.length);
  byId("labels").append(...[undefined, ...sorted.map(([kind]) => kind)].map((kind) => chips.get(kind)));
  focused.focus({ preventScroll: true });
}

export function render() {
  if (!items.length) return;
  items.filter(isDone).forEach(describe);
  count();
}
