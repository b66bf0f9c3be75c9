// The answer to one image: what is in it, how sure that is, how long it took, and how to ask for it in a program.

import { button, byId, element } from "./dom.js";
import { number, percent, t } from "./i18n.js";
import { query } from "./images.js";
import { key } from "./key.js";
import { remembers } from "./model.js";
import * as preview from "./preview.js";

const SURE = 0.4; // below it, top-1 was wrong more often than right on 200 photographs
let report; // { say, fail }
let shown; // { file, sent, answer, note, steps }; of a link, only the answer and its steps

export const isSure = ({ predictions }) => predictions[0].confidence >= SURE;

/** Tell where to report progress and errors. */
export function listen(callbacks) {
  report = callbacks;
}

/** The image at once, before its answer. */
export function announce(file) {
  shown = undefined;
  byId("answer").classList.add("waiting");
  byId("answer").hidden = false;
  preview.announce(file);
}

export async function show(result) {
  byId("answer").classList.remove("waiting");
  shown = result;
  byId("answer").hidden = false; // before it is filled, or a screen reader would not announce it
  const drawn = preview.show(result);
  render();
  await drawn;
}

export function clear() {
  shown = undefined;
  byId("answer").hidden = true;
}

export function render() {
  if (!shown) return;
  const { answer, steps } = shown;
  const [{ label, confidence }] = answer.predictions;
  byId("says").textContent = isSure(answer) ? t("says", { label, percent: percent(confidence) }) : t("unsure", { label });
  byId("predictions").replaceChildren(...answer.predictions.map(row));
  byId("timing").textContent = timing(answer, steps);
  byId("link").href = `?sha256=${answer.image.sha256}`;
  byId("link").hidden = !remembers;
  byId("curl").textContent = curl();
  byId("curl").hidden = byId("copy-curl").hidden = !curl();
  byId("copy-json").onclick = ({ target }) => copy(JSON.stringify(answer, null, 2), target);
  byId("copy-curl").onclick = ({ target }) => copy(curl(), target);
  preview.render();
}

function row({ class_id, label, confidence }) {
  const name = element("span", { textContent: label });
  const share = element("span", { textContent: percent(confidence) });
  const bar = element("meter", { value: confidence, ariaHidden: "true" });
  return element("li", {}, name, share, bar, ...(shown.sent ? [why(class_id, label)] : []));
}

function why(class_id, label) {
  const ariaPressed = String(preview.shows(class_id));
  const toggle = button({ textContent: t("why"), ariaLabel: t("why_class", { label }), ariaPressed });
  toggle.onclick = async () => {
    await preview.toggleHeat(class_id, label, report.say).catch(report.fail);
    for (const other of byId("predictions").querySelectorAll("button")) other.ariaPressed = "false";
    toggle.ariaPressed = String(preview.shows(class_id));
  };
  return toggle;
}

function timing({ cached }, { decode, infer, whole }) {
  const rounded = (milliseconds) => number(milliseconds, milliseconds < 10 ? 1 : 0);
  if (cached || infer === undefined) return t("timing_cached", { whole: rounded(whole) });
  return t("timing", { decode: rounded(decode), infer: rounded(infer), whole: rounded(whole) });
}

/** The command that gets the same answer; "" if the image that was sent is not a file and no answer is remembered. */
function curl() {
  const { file, sent, answer } = shown;
  const header = key() ? ' -H "X-API-Key: $EYESPOT_API_KEY"' : "";
  const address = (path) => quoted(new URL(path, location.href.split("?")[0]).href);
  if (sent && sent === file) return `curl${header} -F ${quoted(`file=@${file.name}`)} ${address(query())}`;
  return remembers ? `curl${header} ${address(`results/${answer.image.sha256}`)}` : "";
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

async function copy(text, pressed) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else { // over plain HTTP, except from this machine
    const field = element("textarea", { value: text });
    pressed.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    pressed.focus();
  }
  pressed.textContent = t("copied");
  report.say(t("copied"));
  setTimeout(() => {
    pressed.textContent = t(pressed.dataset.text);
    report.say("");
  }, 1500);
}
