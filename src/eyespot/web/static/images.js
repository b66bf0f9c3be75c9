// An image on its way to the server: sent as it is, or as a JPEG that the browser makes of it.

import { language, size, t } from "./i18n.js";
import { limits } from "./model.js";
import { ask } from "./server.js";

const SIDE = 2000; // pixels of the longer side of what the browser makes; the model sees a few hundred
const QUALITY = 0.9;
const TOP = 5;
// Problems that may go away with a smaller JPEG.
const REMEDIED = ["image-too-large", "body-too-large", "proxy_413", "too-many-pixels", "too-much-memory", "too-many-scans"];
export const query = () => `predict?top_k=${TOP}${language === "en" ? "" : `&lang=${language}`}`;

/** Recognise an image. Returns `answer`, the blob `sent`, a `note` if that is not the file, and `steps` in ms. */
export async function recognise(file, options) {
  const started = performance.now();
  let sent = needsConversion(file) ? await asJpeg(file) : file;
  let reply;
  try {
    reply = await send(sent, query(), options);
  } catch (problem) {
    if (sent !== file || ![...REMEDIED, "unsupported-format"].includes(problem.code)) throw problem;
    sent = await asJpeg(file);
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
  body.append("file", blob, blob.name);
  return ask(path, { ...options, method: "POST", body });
}

const formatOf = (file) => (file.type.split("/")[1] ?? file.name.split(".").pop()).split(/[+;]/)[0];
const isAccepted = (file) => !file.type || limits.formats.includes(formatOf(file));
const needsConversion = (file) => file.size > limits.max_bytes || !isAccepted(file);

/** The image as an upright JPEG within the limits; the file itself if the browser cannot decode it. */
async function asJpeg(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright
  } catch {
    return file;
  }
  const { width, height } = bitmap;
  for (let scale = Math.min(1, SIDE / Math.max(width, height)); ; scale /= 2) {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "white"; // the server puts white behind transparency too
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
    if (blob.size <= limits.max_bytes || canvas.width * canvas.height === 1) {
      bitmap.close();
      return new File([blob], `${file.name.replace(/\.[^.]*$/, "")}.jpg`, { type: "image/jpeg" });
    }
  }
}

function note(file, sent) {
  if (!isAccepted(file) && file.size <= limits.max_bytes) return t("converted", { format: formatOf(file).toUpperCase() });
  return t("shrunk", { from: size(file.size), to: size(sent.size) });
}

/** Milliseconds of each step, from the header Server-Timing. */
function timings(reply) {
  const found = (reply.headers.get("Server-Timing") ?? "").matchAll(/(\w+)(?:;desc="[^"]*")?;dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(found, ([, step, milliseconds]) => [step, Number(milliseconds)]));
}
