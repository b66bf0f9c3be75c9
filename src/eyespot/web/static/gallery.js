// Many images: progress, a card for each, labels with counts, and what was found as CSV or JSON.

import { explain, number, percent, t } from "./i18n.js";
import { recognise } from "./images.js";
import { isSure } from "./answer.js";

const byId = (id) => document.getElementById(id);
const AT_ONCE = 4; // requests; a browser keeps six connections to a server
const DRAWN_AT_ONCE = 2; // thumbnails
const THUMBNAIL = 200; // pixels of its longer side
const EVERY = 250; // milliseconds between two counts
const NOT_SURE = Symbol("not sure");
const FAILED = Symbol("failed");

let items = []; // { file, card, result?, problem? }
let next = 0;
let stopping; // aborts the requests that are under way
let filter; // a label, NOT_SURE, FAILED, or undefined for all
let counting;
let callbacks;

/** Recognise these files; `choose` is called with the result whose card is clicked. */
export function open(files, { choose, say, took }) {
  clear();
  callbacks = { choose, say, took };
  items = files.map((file) => ({ file, card: card(file) }));
  items.forEach((item) => (item.card.firstElementChild.onclick = () => item.result && choose(item.result)));
  byId("cards").replaceChildren(...items.map((item) => item.card));
  byId("gallery").hidden = false;
  for (const item of items) thumbnails.observe(item.card);
  byId("csv").onclick = () => save("eyespot.csv", "text/csv", csv());
  byId("json").onclick = () => save("eyespot.json", "application/json", JSON.stringify(records(), null, 1));
  byId("stop").onclick = () => (stopping ? stop() : go());
  go();
}

export function clear() {
  stop();
  thumbnails.disconnect();
  waiting.length = 0;
  [items, next, filter] = [[], 0, undefined];
  byId("gallery").hidden = true;
}

function stop() {
  stopping?.abort();
  stopping = undefined;
  count();
}

async function go() {
  const mine = (stopping = new AbortController());
  count();
  const work = async () => {
    for (let item; (item = items.find((each, index) => index >= next && !each.taken)) && !mine.signal.aborted; ) {
      await recogniseOne(item, mine.signal);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (stopping === mine) stop();
}

async function recogniseOne(item, signal) {
  item.taken = true;
  while (next < items.length && items[next].taken) next++;
  try {
    const result = await recognise(item.file, { signal, say: callbacks.say });
    item.result = { ...result, file: item.file };
    callbacks.took(result.steps.infer);
  } catch (problem) {
    if (signal.aborted) {
      item.taken = false;
      next = 0;
      return;
    }
    item.problem = problem;
  }
  describe(item);
  counting ??= setTimeout(count, EVERY);
}

function card(file) {
  const element = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const name = Object.assign(document.createElement("small"), { textContent: file.path ?? file.name });
  button.append(document.createElement("canvas"), document.createElement("strong"), document.createElement("span"), name);
  element.append(button);
  return element;
}

function describe(item) {
  const { card, result, problem } = item;
  const [, title, detail] = card.firstElementChild.children;
  card.classList.toggle("failed", Boolean(problem));
  if (problem) {
    [title.textContent, detail.textContent] = [t("failed"), explain(problem)];
  } else {
    const [{ label, confidence }] = result.answer.predictions;
    const sure = isSure(result.answer);
    card.classList.toggle("unsure", !sure);
    title.textContent = sure ? label : t("perhaps", { label });
    detail.textContent = sure ? percent(confidence) : `${t("not_sure")} · ${percent(confidence)}`;
  }
  hide(item);
}

const group = ({ result, problem }) =>
  problem ? FAILED : result && (isSure(result.answer) ? result.answer.predictions[0].label : NOT_SURE);

function hide(item) {
  item.card.hidden = filter !== undefined && group(item) !== filter;
}

function count() {
  clearTimeout(counting);
  counting = undefined;
  const counts = new Map();
  for (const item of items) counts.set(group(item), (counts.get(group(item)) ?? 0) + 1);
  const open = counts.get(undefined) ?? 0;
  counts.delete(undefined);
  const [done, failed] = [items.length - open, counts.get(FAILED) ?? 0];
  Object.assign(byId("progress"), { max: items.length || 1, value: done });
  byId("count").textContent = [
    t("done_of", { done: number(done), all: number(items.length) }),
    failed && t("failed_of", { failed: number(failed) }),
  ].filter(Boolean).join(" · ");
  byId("stop").textContent = t(stopping ? "stop" : "go_on");
  byId("stop").hidden = !open;
  const sorted = [...counts].sort(([, one], [, other]) => other - one);
  byId("labels").replaceChildren(chip(undefined, done), ...sorted.map(([label, many]) => chip(label, many)));
}

function chip(label, many) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const name = new Map([[undefined, t("all")], [NOT_SURE, t("not_sure")], [FAILED, t("failed")]]).get(label) ?? label;
  button.textContent = `${name} ${number(many)}`;
  button.ariaPressed = String(filter === label);
  button.onclick = () => {
    filter = label;
    items.forEach(hide);
    count();
  };
  return button;
}

export function render() {
  items.filter((item) => item.result || item.problem).forEach(describe);
  count();
}

// Thumbnails are drawn when they come into sight, a few at a time.
const waiting = [];
let drawing = 0;
const thumbnails = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    thumbnails.unobserve(target);
    waiting.push(target);
    if (drawing < DRAWN_AT_ONCE) drawWaiting();
  }
}, { rootMargin: "300px" });

async function drawWaiting() {
  drawing++;
  for (let target; (target = waiting.shift()); ) {
    const item = items.find(({ card }) => card === target);
    const bitmap = await createImageBitmap(item.file, { resizeHeight: THUMBNAIL, resizeQuality: "low" }).catch(() => undefined);
    if (!bitmap) continue;
    const canvas = target.querySelector("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  }
  drawing--;
}

function records() {
  return items.map(({ file, result, problem }) => ({
    file: file.path ?? file.name,
    ...(problem && { problem: { code: problem.code, detail: explain(problem) } }),
    ...result?.answer,
  }));
}

function csv() {
  const lines = records().map(({ file, predictions, image, problem }) => {
    const { label, confidence, class_id, wnid } = predictions?.[0] ?? {};
    return [file, label, confidence, class_id, wnid, image?.sha256, image?.width, image?.height, problem?.code, problem?.detail];
  });
  const heading = ["file", "label", "confidence", "class_id", "wnid", "sha256", "width", "height", "problem", "detail"];
  return [heading, ...lines].map((line) => line.map(quoted).join()).join("\r\n") + "\r\n"; // RFC 4180
}

const quoted = (value = "") => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
