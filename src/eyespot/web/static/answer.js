// The answer to one image: what is in it, how sure that is, how long it took, and how to ask for it in a program.

import { number, percent, t } from "./i18n.js";
import { key } from "./key.js";
import { remembers } from "./model.js";
import { query } from "./images.js";
import * as picture from "./picture.js";

const byId = (id) => document.getElementById(id);
const SURE = 0.4; // below it, the likeliest class was wrong more often than right on 200 photographs
let say, fail; // how to tell what is waited for, and what went wrong
let shown; // { file, sent, answer, note, steps }; without a file, an answer that the server remembered

export const isSure = ({ predictions }) => predictions[0].confidence >= SURE;

export function listen(...callbacks) {
  [say, fail] = callbacks;
}

export async function show(result) {
  shown = result;
  const drawn = picture.show(result);
  render();
  byId("answer").hidden = false;
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
  byId("curl").textContent = curl();
  byId("link").href = `?sha256=${answer.image.sha256}`;
  byId("link").hidden = !remembers;
  byId("copy-json").onclick = ({ target }) => copy(JSON.stringify(answer, null, 2), target);
  byId("copy-curl").onclick = ({ target }) => copy(curl(), target);
  picture.render();
}

function row({ class_id, label, confidence }) {
  const row = document.createElement("li");
  const name = Object.assign(document.createElement("span"), { textContent: label });
  const share = Object.assign(document.createElement("span"), { textContent: percent(confidence) });
  const bar = Object.assign(document.createElement("meter"), { value: confidence, ariaHidden: "true" });
  row.append(name, share, bar);
  if (shown.sent) row.append(whyButton(class_id, label));
  return row;
}

function whyButton(class_id, label) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: t("why"), ariaLabel: t("why_class", { label }) });
  button.ariaPressed = String(picture.explains(class_id));
  button.onclick = async () => {
    await picture.toggleHeat(class_id, label, say).catch(fail);
    for (const other of byId("predictions").querySelectorAll("button")) other.ariaPressed = "false";
    button.ariaPressed = String(picture.explains(class_id));
  };
  return button;
}

function timing(answer, { decode, infer, whole }) {
  const [inModel, inAll] = [infer, whole].map((milliseconds) => number(milliseconds ?? 0, milliseconds < 10 ? 1 : 0));
  if (answer.cached || infer === undefined) return t("timing_cached", { whole: inAll });
  return t("timing", { decode: number(decode, 1), infer: inModel, whole: inAll });
}

/** The command that gets the same answer. */
function curl() {
  const { sent, answer } = shown;
  const header = key() ? ' -H "X-API-Key: $EYESPOT_API_KEY"' : "";
  const address = (path) => quoted(new URL(path, location.href.split("?")[0]).href);
  if (!sent) return `curl${header} ${address(`results/${answer.image.sha256}`)}`;
  return `curl${header} -F ${quoted(`file=@${sent.name}`)} ${address(query())}`;
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

async function copy(text, button) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else { // over plain HTTP, except from this machine
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const { text: name } = button.dataset;
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = t(name)), 1500);
}
