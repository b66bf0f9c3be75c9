// Many images: progress, a card for each, and their labels with counts.

import { isSure } from "./answer.js";
import { button, byId, element, readOut } from "./dom.js";
import { number, percent, problemText, t } from "./i18n.js";
import { recognise } from "./images.js";
import { saveCsv, saveJson } from "./records.js";
import { Problem } from "./server.js";
import * as thumbnails from "./thumbnails.js";

const AT_ONCE = 4; // requests; a browser keeps six connections to a server
const COUNT_EVERY = 250; // milliseconds
const NOT_SURE = Symbol("not sure");
const FAILED = Symbol("failed");

let items = []; // { file, card, result or problem when it is done }
let running; // aborts the requests that are under way
let filter; // a label, NOT_SURE, FAILED, or undefined for all
let counting; // timer
let skipped; // number of files that are not images
let callbacks; // { choose, record, say }
const chips = new Map(); // buttons by what they filter

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
  choose(byGroup().has(filter) ? filter : undefined); // none of the failed may be left
  sortChips();
  readOut(t("gallery_done", { done: number(items.length), failed: number(byGroup().get(FAILED) ?? 0) }));
}

function reset(item) {
  Object.assign(item, { taken: false, problem: undefined });
}

async function recogniseOne(item, { signal, say }) {
  item.taken = true;
  try {
    item.result = { ...(await recognise(item.file, { signal, say })), file: item.file };
    callbacks.record(item.result.steps.infer);
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
    const [{ label, confidence }] = result.answer.predictions;
    const sure = isSure(result.answer);
    card.classList.toggle("unsure", !sure);
    title.textContent = sure ? label : t("perhaps", { label });
    detail.textContent = sure ? percent(confidence) : `${t("not_sure")} · ${percent(confidence)}`;
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

function group({ result, problem }) {
  if (problem) return FAILED;
  return isSure(result.answer) ? result.answer.predictions[0].label : NOT_SURE;
}

const isDone = ({ result, problem }) => Boolean(result ?? problem);

function hide(item) {
  item.card.hidden = filter !== undefined && !(isDone(item) && group(item) === filter);
}

function byGroup() {
  const counts = new Map();
  for (const item of items.filter(isDone)) counts.set(group(item), (counts.get(group(item)) ?? 0) + 1);
  return counts;
}

function count() {
  clearTimeout(counting);
  counting = undefined;
  const counts = byGroup();
  const done = items.filter(isDone).length;
  const failed = counts.get(FAILED);
  Object.assign(byId("progress"), { max: items.length || 1, value: done });
  const parts = [t("done_of", { done: number(done), all: number(items.length) }), failed && t("failed_of", { failed: number(failed) })];
  if (skipped) parts.push(t("skipped", { count: number(skipped) }));
  byId("count").textContent = parts.filter(Boolean).join(" · ");
  const isOver = done === items.length;
  byId("stop").textContent = t(running ? "stop" : isOver ? "retry" : "go_on");
  if (byId("stop") === document.activeElement && isOver && !failed) byId("csv").focus();
  byId("progress").hidden = isOver;
  byId("stop").hidden = isOver && !failed;
  counts.set(undefined, done);
  for (const label of new Set([undefined, ...chips.keys(), ...counts.keys()])) chip(label, counts.get(label) ?? 0);
}

/** A button keeps its place while others join it, so that it can be pressed. */
function chip(label, many) {
  if (!chips.has(label)) {
    chips.set(label, button({ onclick: () => choose(label) }));
    byId("labels").append(chips.get(label));
  }
  const name = { [NOT_SURE]: t("not_sure"), [FAILED]: t("failed"), [undefined]: t("all") }[label] ?? label;
  Object.assign(chips.get(label), { textContent: `${name} ${number(many)}`, hidden: !many && label !== undefined, ariaPressed: String(filter === label) });
}

function choose(label) {
  filter = label;
  items.forEach(hide);
  count();
}

function sortChips() {
  const focused = document.activeElement;
  const first = (label) => [NOT_SURE, FAILED, filter].includes(label);
  const sorted = [...byGroup()].sort(([one, few], [other, many]) => first(other) - first(one) || many - few);
  byId("labels").append(...[undefined, ...sorted.map(([label]) => label)].map((label) => chips.get(label)));
  focused.focus({ preventScroll: true });
}

export function render() {
  if (!items.length) return;
  items.filter(isDone).forEach(describe);
  count();
}
