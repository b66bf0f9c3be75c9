// The model that answers: what it is, how often it is right, how fast it is here, and what it accepts.

import { ask, sleep } from "./server.js";
import { number, t } from "./i18n.js";

const LOOK_EVERY = 10; // seconds
const LOOK_AGAIN = 2; // seconds, while the server is away
export let limits = { max_bytes: Infinity, formats: ["jpeg", "png", "webp"] };
export let recipe = { resize: 256, crop: 224 };
export let remembers = false; // whether answers are cached, so that a link to one works
let model;
const durations = []; // milliseconds in the model, of this page's own requests

export async function load(options) {
  model = await (await ask("model", options)).json();
  ({ limits, recipe } = model);
  document.getElementById("file").accept = ["image/*", ...limits.formats.map((name) => `.${name}`), ".heic", ".heif"].join();
  const { checks } = await (await ask("readyz?verbose")).json();
  remembers = checks.some(({ name, detail }) => name === "cache" && detail !== "off");
  render();
}

/** Show whether the server answers, for as long as the page is open. */
export async function watch() {
  const light = document.getElementById("health");
  for (;;) {
    const ready = document.hidden || (await fetch("readyz").then(({ ok }) => ok, () => false));
    light.classList.toggle("away", !ready);
    light.textContent = t(ready ? "ready" : "away");
    await sleep(ready ? LOOK_EVERY : LOOK_AGAIN);
  }
}

export function render() {
  if (!model) return;
  const { accuracy } = model;
  const speed = durations.length > 0 && t("speed", { milliseconds: number(median(durations)) });
  document.getElementById("model").textContent = [
    model.name,
    t("classes", { count: number(model.classes) }),
    accuracy && t("accuracy", { top1: number(accuracy.top1, 1), on: accuracy.on }),
    `${model.engine} ${model.precision}`,
    speed,
  ].filter(Boolean).join(" · ");
  document.getElementById("stand-in").hidden = !model.stand_in;
}

/** Take note of how long the model took. */
export function took(milliseconds) {
  if (milliseconds === undefined) return; // the answer came from the cache
  durations.push(milliseconds);
  render();
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
