// An image on its way to the server: sent as it is, or as a JPEG that the browser makes of it.

import { ask } from "./server.js";
import { size, t, language } from "./i18n.js";
import { limits } from "./model.js";

const SIDE = 2000; // pixels of the longer side of what the browser makes; the network sees a few hundred
const QUALITY = 0.9;
const TOP = 5;
const REMEDIED = ["image-too-large", "body-too-large", "too-many-pixels", "too-much-memory", "unsupported-format", "too-many-scans"];
export const query = () => `predict?top_k=${TOP}${language === "en" ? "" : `&lang=${language}`}`;

/**
 * What the server says of an image: its `answer`, the `sent` blob, a `note` when that is not the file itself,
 * and milliseconds. Throws what `ask` throws.
 */
export async function recognise(file, options) {
  let sent = mustChange(file) ? await remade(file) : file;
  let reply;
  const started = performance.now();
  try {
    reply = await send(sent, query(), options);
  } catch (problem) {
    if (sent !== file || !REMEDIED.includes(problem.code)) throw problem;
    sent = await remade(file);
    if (sent === file) throw problem;
    reply = await send(sent, query(), options);
  }
  const steps = timings(reply);
  const answer = await reply.json();
  steps.whole = performance.now() - started;
  return { answer, sent, note: sent === file ? "" : note(file, sent), steps };
}

/** Send an image; as a form, which any proxy lets through. */
export function send(blob, path, options) {
  const body = new FormData();
  body.append("file", blob, blob.name ?? "image");
  return ask(path, { ...options, method: "POST", body });
}

const formatOf = (file) => (file.type.split("/")[1] ?? file.name.split(".").pop()).split(/[+;]/)[0].toUpperCase();

const mustChange = (file) => file.size > limits.max_bytes || (file.type && !limits.formats.includes(file.type.split("/")[1]));

/** The image as an upright JPEG within the limits; the file itself if the browser cannot decode it. */
async function remade(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright
  } catch {
    return file;
  }
  const { width, height } = bitmap;
  let scale = Math.min(1, SIDE / Math.max(width, height));
  for (;;) {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "white"; // as the server has it under what is transparent
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
    if (blob.size <= limits.max_bytes) {
      bitmap.close();
      return new File([blob], `${file.name.replace(/\.[^.]*$/, "")}.jpg`, { type: "image/jpeg" });
    }
    scale /= 2;
  }
}

function note(file, sent) {
  if (mustChange(file) && file.size <= limits.max_bytes) return t("converted", { format: formatOf(file) });
  return t("shrunk", { from: size(file.size), to: size(sent.size) });
}

/** Milliseconds of each step, from the header Server-Timing. */
function timings(reply) {
  const found = (reply.headers.get("Server-Timing") ?? "").matchAll(/(\w+)(?:;desc="[^"]*")?;dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(found, ([, step, milliseconds]) => [step, Number(milliseconds)]));
}
