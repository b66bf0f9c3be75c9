// The model that answers: what it is, how often it is right, how fast it is here, and what it accepts.

import { byId } from "./dom.js";
import { language, number, t } from "./i18n.js";
import { ask, isReady, sleep } from "./server.js";

const POLL_SECONDS = 10;
const LABELS_OF_SAMPLES = "imagenet1k"; // another model would call them something else
const MOST_NAMED = 60; // classes of a model of one's own
export let limits = { max_bytes: Infinity, formats: ["jpeg", "png", "webp"], max_top_k: 5 };
export let recipe = { resize: 256, crop: 224 };
export let remembers = false; // whether answers are cached, so that a link to one works
export let explains = true; // whether the model has heat maps
let model;
let classes = []; // of a model of one's own
let ready;
const durations = []; // milliseconds in the model, of this page's own requests

export async function load(options) {
  model = await (await ask("model", options)).json();
  ({ limits, recipe, explains = true } = model);
  const own = model.labels !== LABELS_OF_SAMPLES;
  document.body.classList.toggle("own", own);
  byId("file").accept = ["image/*", ...limits.formats.map((name) => `.${name}`), ".heic", ".heif"].join();
  const { checks } = await (await ask("readyz?verbose", options)).json();
  remembers = checks.some(({ name, detail }) => name === "cache" && detail !== "off");
  classes = own && model.classes <= MOST_NAMED ? await (await ask("labels", options)).json() : [];
  render();
}

/** Show whether the server is ready, for as long as the page is open. It may come back with another model. */
export async function watch() {
  document.addEventListener("ready", ({ detail }) => {
    if (detail && ready === false && model) load().catch(() => {});
    ready = detail;
    render();
  });
  for (;;) {
    if (!document.hidden) await isReady();
    await sleep(POLL_SECONDS);
  }
}

export function render() {
  byId("health").hidden = ready === undefined;
  byId("health").classList.toggle("away", !ready);
  byId("health").textContent = ready ? t("ready") : t("away");
  if (!model) return;
  const { accuracy } = model;
  byId("model").textContent = [
    model.name,
    t("classes", { count: number(model.classes) }),
    accuracy && t("accuracy", { top1: number(accuracy.top1, 1), on: accuracy.on }),
    `${model.engine} ${model.precision}`,
    durations.length > 0 && t("speed", { milliseconds: number(median(durations)) }),
  ].filter(Boolean).join(" · ");
  byId("stand-in").hidden = !model.stand_in;
  const names = classes.filter(({ other }) => !other).map(({ en, zh }) => (language === "zh" && zh) || en);
  byId("classes").textContent = names.length ? t("knows", { names: names.join(t("comma")) }) : "";
}

/** Note who answered, and the inference time; there is none when the answer came from the cache. */
export async function record({ answer, steps }) {
  const isPresent = () => model?.digest === answer.model.digest && model.name === answer.model.name;
  if (!isPresent()) { // the server has switched models, or the key was given for the image
    durations.length = 0;
    await load().catch(() => {});
  }
  if (steps.infer === undefined || !isPresent()) return;
  durations.push(steps.infer);
  render();
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
