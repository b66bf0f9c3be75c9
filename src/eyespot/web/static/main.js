// The page: one image and its answer, or many in a gallery.

import * as answer from "./answer.js";
import { byId } from "./dom.js";
import * as gallery from "./gallery.js";
import { fill, other, problemText, t, use } from "./i18n.js";
import { recognise, withQuery } from "./images.js";
import { listen } from "./input.js";
import * as model from "./model.js";
import { read, rename } from "./names.js";
import { ask, Problem } from "./server.js";

let running = new AbortController(); // only the newest image is answered

/** Show, and read out, what the page is doing; `aside`, which changes often, is not read out. */
function say(text, aside = "", isProblem = false) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
  byId("aside").textContent = aside;
  byId("status").classList.toggle("problem", isProblem);
}

let retell; // says the same again, after a change of language
function tell(text, isProblem = false) {
  retell = () => say(text(), "", isProblem);
  retell();
}

function fail(error, name) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) {
    tell(() => t("unexpected"), true);
    throw error;
  }
  tell(() => (name ? t("about", { name, problem: problemText(error) }) : problemText(error)), true);
}

function begin() {
  running.abort();
  running = new AbortController();
  gallery.clear();
  retell = undefined;
  say("");
  document.body.classList.add("used");
  byId("clear").hidden = false;
  const { signal } = running;
  return { signal, say: (...words) => signal.aborted || say(...words) };
}

/** Recognise images; each is a file, or the promise of one. */
async function open(images, skipped = 0) {
  const options = begin();
  const { signal } = options;
  history.replaceState(null, "", location.pathname);
  if (images.length > 1) {
    answer.clear();
    gallery.open(images, skipped, { choose, record: model.record, say });
    return;
  }
  let file;
  try {
    file = await images[0];
    if (signal.aborted) return;
    tell(() => t("looking", { name: file.name }));
    answer.announce(file);
    const result = await recognise(file, options);
    await model.record(result);
    if (signal.aborted) return;
    retell = undefined;
    say(skipped ? t("skipped", { count: skipped }) : "");
    await answer.show({ ...result, file });
  } catch (error) {
    if (signal.aborted) return;
    answer.clear();
    fail(error, file?.name);
  }
}

async function choose(result) {
  await answer.show(result);
  if (!answer.shows(result)) return;
  byId("back").hidden = false;
  byId("answer").scrollIntoView();
  byId("says").focus({ preventScroll: true });
}

function clear() {
  begin();
  answer.clear();
  document.body.classList.remove("used");
  byId("clear").hidden = true;
  byId("choose").focus();
  history.replaceState(null, "", location.pathname);
}

/** The answer that a link names, if the server still has it. */
async function recall(sha256) {
  const options = begin();
  const started = performance.now();
  try {
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw new Problem("bad_link");
    const found = await read(await withQuery((asked) => ask(`results/${sha256}?${asked}`, options)));
    await answer.show({ answer: found, steps: { whole: performance.now() - started } });
  } catch (error) {
    if (options.signal.aborted) return;
    if (error.code === "not-found") tell(() => t("forgotten"), true);
    else fail(error);
  }
}

function offerLanguage() {
  const [code, name] = other();
  Object.assign(byId("language"), { textContent: name, lang: code });
  byId("language").onclick = async () => {
    await use(code);
    if (retell) retell();
    else say("");
    offerLanguage();
    model.render();
    const render = () => [answer, gallery].forEach((part) => part.render());
    render();
    await rename([...answer.answers(), ...gallery.answers()]);
    render();
  };
}

listen(open, (text) => tell(() => text, true));
answer.listen({ say, fail });
fill();
offerLanguage();
byId("clear").onclick = clear;
byId("terminal").querySelector("code").textContent = `curl -F file=@cat.jpg ${new URL("predict", location)}`;
model.watch();
model.load({ say }).then(answer.render, fail);
const wanted = new URLSearchParams(location.search).get("sha256");
if (wanted) recall(wanted);
