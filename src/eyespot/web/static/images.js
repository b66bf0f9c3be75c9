// An image on its way to the server: sent as it is, or converted by the browser.

import { onWhite } from "./dom.js";
import { language, size, t } from "./i18n.js";
import { limits, load } from "./model.js";
import { read } from "./names.js";
import { ask, Problem } from "./server.js";

const SIDE = 2000; // pixels of the longer side of what the browser makes; the model sees a few hundred
const QUALITY = 0.9;
const TOP = 5;
// Problems that may go away when the browser converts the image.
const REMEDIED = ["body-too-large", "image-too-large", "proxy_413", "too-many-pixels", "too-many-scans", "too-much-memory"];

/** The query of a recognition. */
export function query() {
  return `top_k=${Math.min(TOP, limits.max_top_k)}&lang=${language}`;
}

/** Ask with that query; and again, if the server has switched to a model with fewer classes. */
export async function withQuery(asking) {
  try {
    return await asking(query());
  } catch (problem) {
    if (problem.code !== "invalid-parameter") throw problem;
    await load();
    return asking(query());
  }
}

/** Recognise an image. Returns `answer`, the blob `sent`, a `note` if that is not the file, and `steps` in ms. */
export async function recognise(file, options) {
  const started = performance.now();
  let sent = needsConversion(file) ? await converted(file) : file;
  if (sent.size > limits.max_bytes) {
    throw new Problem("too_large", t("too_large", { size: size(sent.size), limit: size(limits.max_bytes) }));
  }
  const post = () => withQuery((asked) => send(sent, `predict?${asked}`, options));
  let reply;
  try {
    reply = await post();
  } catch (problem) {
    if (sent !== file || !REMEDIED.includes(problem.code)) throw problem;
    sent = await converted(file);
    if (sent === file) throw problem;
    reply = await post();
  }
  const steps = timings(reply);
  const answer = await read(reply);
  steps.whole = performance.now() - started;
  return { answer, sent, note: () => note(file, sent), steps };
}

/** Send an image; as a form, which any proxy lets through. */
export function send(blob, path, options) {
  const body = new FormData();
  body.append("file", blob, blob.name);
  return ask(path, { ...options, method: "POST", body });
}

const formatOf = (file) => (file.type.split("/")[1] ?? file.name.split(".").pop()).split(/[+;]/)[0];
const isAccepted = (file) => !file.type.startsWith("image/") || limits.formats.includes(formatOf(file));
const needsConversion = (file) => file.size > limits.max_bytes || !isAccepted(file);

/** The image upright, within the limits, in a format that is accepted; the file itself if the browser cannot decode it. */
async function converted(file) {
  const bitmap = await createImageBitmap(file).catch(() => undefined); // upright
  if (!bitmap) return file;
  const format = limits.formats.includes("jpeg") ? "jpeg" : limits.formats[0];
  const type = `image/${format}`;
  const { width, height } = bitmap;
  for (let scale = Math.min(1, SIDE / Math.max(width, height)); ; scale /= 2) {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    onWhite(canvas).drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type, quality: QUALITY });
    if (blob.size <= limits.max_bytes || canvas.width * canvas.height === 1) {
      bitmap.close();
      return new File([blob], `${file.name.replace(/\.[^.]*$/, "")}.${format}`, { type });
    }
  }
}

function note(file, sent) {
  if (sent === file) return "";
  const [from, to] = [file, sent].map((each) => formatOf(each).toUpperCase());
  if (!isAccepted(file) && file.size <= limits.max_bytes) return t("converted", { from, to });
  return t("shrunk", { from: size(file.size), to: size(sent.size) });
}

/** Milliseconds of each step, from the header Server-Timing. */
function timings(reply) {
  const found = (reply.headers.get("Server-Timing") ?? "").matchAll(/(\w+)(?:;desc="[^"]*")?;dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(found, ([, step, milliseconds]) => [step, Number(milliseconds)]));
}
