// The page: one image and its answer, or many in a gallery.

import * as answer from "./answer.js";
import * as gallery from "./gallery.js";
import { recognise } from "./images.js";
import { explain, fill, other, t, use } from "./i18n.js";
import { listen } from "./input.js";
import * as model from "./model.js";
import { ask, Problem } from "./server.js";

const byId = (id) => document.getElementById(id);
let running = new AbortController(); // only the newest image is answered

function say(text, isProblem = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("problem", isProblem);
}

function fail(error, about = "") {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) throw error;
  say(`${about}${explain(error)}`, true);
}

function begin() {
  running.abort();
  running = new AbortController();
  gallery.clear();
  say("");
  document.body.classList.add("used");
  byId("clear").hidden = false;
  return running.signal;
}

async function open(files, skipped = 0) {
  const signal = begin();
  if (files.length > 1) {
    answer.clear();
    gallery.open(files, { choose, say, took: model.took });
    if (skipped) say(t("skipped", { count: skipped }));
    return;
  }
  const [file] = files;
  try {
    say(t("looking", { name: file.name }));
    const result = await recognise(file, { signal, say });
    model.took(result.steps.infer);
    say("");
    await answer.show({ ...result, file });
  } catch (error) {
    if (!signal.aborted) answer.clear();
    fail(error, `${file.name}: `);
  }
}

async function choose(result) {
  await answer.show(result);
  byId("answer").scrollIntoView({ block: "nearest" });
}

function clear() {
  begin();
  answer.clear();
  document.body.classList.remove("used");
  byId("clear").hidden = true;
  history.replaceState(null, "", "./");
}

/** The answer that a link names, if the server still has it. */
async function recall(sha256) {
  const signal = begin();
  const started = performance.now();
  try {
    const found = await (await ask(`results/${sha256}?top_k=5`, { signal, say })).json();
    await answer.show({ answer: found, steps: { whole: performance.now() - started } });
  } catch (error) {
    if (error.code === "not-found") say(t("forgotten"), true);
    else fail(error);
  }
}

function offerLanguage() {
  const [code, name] = other();
  Object.assign(byId("language"), { textContent: name, lang: code });
  byId("language").onclick = async () => {
    await use(code);
    for (const render of [offerLanguage, model.render, answer.render, gallery.render]) render();
  };
}

listen(open, (text) => say(text, true));
fill();
byId("clear").onclick = clear;
byId("terminal").querySelector("code").textContent = `curl -F file=@cat.jpg ${new URL("predict", location)}`;
answer.listen(say, fail);
offerLanguage();
document.documentElement.classList.add("filled");
model.watch();
model.load({ say }).then(answer.render, fail);
const wanted = new URLSearchParams(location.search).get("sha256");
if (wanted) recall(wanted);
