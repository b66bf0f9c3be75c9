// The answer to one image: what it says, groups, classes and timings, and the request as a curl command.

import { button, byId, element, readOut } from "./dom.js";
import { number, percent, t } from "./i18n.js";
import { query } from "./images.js";
import { key } from "./key.js";
import { explains, remembers } from "./model.js";
import { isUnsure, saidName } from "./names.js";
import * as preview from "./preview.js";

let report; // { say, fail }
let shown; // { file, sent, answer, note, steps }; of a link, only the answer and its steps

export const shows = (result) => shown === result;
export const answers = () => (shown ? [shown.answer] : []);

/** Tell where to report progress and errors. */
export function listen(callbacks) {
  report = callbacks;
}

/** Show an image before its answer. */
export function announce(file) {
  clear();
  byId("answer").classList.add("waiting");
  byId("answer").classList.remove("alone");
  byId("answer").hidden = false;
  preview.place(file);
}

export async function show(result) {
  if (result.file !== shown?.file) byId("answer").classList.add("waiting"); // not the answer to another image
  shown = result;
  byId("answer").hidden = false; // before it is filled, or a screen reader would not announce it
  await preview.show(result);
  if (shown !== result) return;
  byId("answer").classList.remove("waiting");
  byId("answer").classList.toggle("alone", !result.file);
  render();
}

export function clear() {
  shown = undefined;
  byId("answer").hidden = byId("back").hidden = true;
  render();
}

export function render() {
  document.title = shown ? t("title_of", { label: saidName(shown.answer.says) }) : t("title");
  if (!shown) return;
  const { answer, steps } = shown;
  const { says, groups, predictions } = answer;
  const share = element("small", { textContent: percent(says.confidence) });
  byId("says").replaceChildren(saidName(says), ...(isUnsure(says) ? [] : [" ", share]));
  byId("guess").textContent = guess(says, predictions[0]);
  byId("groups").replaceChildren(...above(says, groups).toReversed().map(crumb));
  byId("predictions").replaceChildren(...predictions.map(row));
  byId("timing").textContent = timing(answer, steps);
  byId("copy-link").hidden = !remembers;
  byId("curl").textContent = curl();
  byId("curl").hidden = byId("copy-curl").hidden = !curl();
  byId("copy-json").onclick = ({ target }) => copy(JSON.stringify(answer, null, 2), target);
  byId("copy-link").onclick = ({ target }) => copy(`${home()}?sha256=${answer.image.sha256}`, target);
  byId("copy-curl").onclick = ({ target }) => copy(curl(), target);
  preview.render();
}

/** The likeliest class, unless it is said, or it may lie outside the group that is. */
function guess({ kind, confidence }, likeliest) {
  if (kind === "unsure" && confidence < likeliest.confidence) return t("none"); // the class that is none of the others
  const outside = kind === "group" && likeliest.confidence <= 1 - confidence;
  return kind === "class" || outside ? "" : t("perhaps", likeliest);
}

/** The groups above the answer; a class is below them all. */
const above = (says, groups) => (isUnsure(says) ? [] : groups.slice(groups.findIndex(({ id }) => id === says.id) + 1));

const crumb = ({ label, confidence }) => element("li", { textContent: `${label} ${percent(confidence)}` });

function row(prediction) {
  const { label, confidence } = prediction;
  const name = element("span", { textContent: label });
  const share = element("span", { textContent: percent(confidence) });
  const bar = element("meter", { value: confidence, ariaHidden: "true" });
  return element("li", {}, name, share, bar, ...(explains && preview.isDrawn() && shown.sent ? [why(prediction)] : []));
}

function why(prediction) {
  const { class_id, label } = prediction;
  const of = shown;
  const toggle = button({ textContent: t("why"), ariaLabel: t("why_class", { label }) });
  toggle.mark = () => Object.assign(toggle, { ariaPressed: String(preview.shows(class_id)), ariaBusy: String(preview.waitsFor(class_id)) });
  toggle.onclick = async () => {
    report.say("");
    const say = (...words) => shown === of && report.say(...words);
    const toggled = preview.toggleHeat(prediction, say).catch((error) => shown === of && report.fail(error));
    mark();
    await toggled;
    mark();
  };
  toggle.mark();
  return toggle;
}

function mark() {
  for (const toggle of byId("predictions").querySelectorAll("button")) toggle.mark();
}

function timing({ cached }, { decode, infer, whole }) {
  const rounded = (milliseconds) => number(milliseconds, milliseconds < 10 ? 1 : 0);
  if (cached || infer === undefined) return t("timing_cached", { whole: rounded(whole) });
  return t("timing", { decode: rounded(decode), infer: rounded(infer), whole: rounded(whole) });
}

const home = () => location.href.split(/[?#]/)[0];

/** The command that gets the same answer; "" if the image that was sent is not a file and no answer is remembered. */
function curl() {
  const { file, sent, answer } = shown;
  const header = key() ? ' -H "X-API-Key: $EYESPOT_API_KEY"' : "";
  const address = (path) => quoted(new URL(path, home()).href);
  if (sent && sent === file) return `curl${header} -F ${quoted(`file=@${formQuoted(file.name)}`)} ${address(`predict?${query()}`)}`;
  return remembers ? `curl${header} ${address(`results/${answer.image.sha256}?${query()}`)}` : "";
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`); // for a shell
const formQuoted = (name) => (/[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name); // for curl

async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // browsers offer the clipboard over HTTPS and on localhost only
    const field = element("textarea", { value: text });
    pressed.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    pressed.focus();
  }
  pressed.textContent = t("copied");
  readOut(t("copied"));
  setTimeout(() => {
    pressed.textContent = t(pressed.dataset.text);
    readOut("");
  }, 1500);
}
