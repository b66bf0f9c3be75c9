// The preview, the square that the model sees, and the heat map of one class.

import { byId, onWhite } from "./dom.js";
import { t } from "./i18n.js";
import { send } from "./images.js";
import { recipe } from "./model.js";
import { saidName } from "./names.js";
import { Problem } from "./server.js";

const SIDE = 960; // pixels of the canvas's longer side
const ZOOM = 16; // pixels of a cell of the map, before it is laid over the image
const PALETTE = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // as of POST /explain
let shown; // the result whose image this is
let heated; // the prediction whose map is shown
let wanted; // the prediction whose map is asked for
let placing = { file: undefined, share: 1, placed: Promise.resolve() };

export const shows = (class_id) => heated?.class_id === class_id;
export const waitsFor = (class_id) => wanted?.class_id === class_id;
export const isDrawn = () => !byId("image").hidden;

/** Draw the image, or nothing if there is none, or none that the browser can decode. */
export function place(file) {
  const share = recipe.crop / recipe.resize; // changes with the model
  if (file !== placing.file || share !== placing.share) placing = { file, share, placed: drawFile(file) };
  return placing.placed;
}

async function drawFile(file) {
  hideHeat();
  byId("image").classList.add("old");
  byId("caption").textContent = file?.name ?? "";
  const bitmap = file && (await createImageBitmap(file).catch(() => undefined));
  if (file !== placing.file) return;
  if (bitmap) draw(byId("image"), bitmap);
  byId("image").classList.remove("old");
  byId("image").hidden = !bitmap;
}

export async function show(result) {
  shown = result;
  await place(result.file);
  if (shown === result) render();
}

export function render() {
  const { file, note, answer } = shown;
  const { width, height, format } = answer.image;
  const facts = [file?.name, `${width} × ${height} ${format}`, note?.()].filter(Boolean).join(" · ");
  const hint = t(!file ? "remembered" : isDrawn() ? "outline" : "no_preview");
  byId("caption").textContent = t("caption", { facts, hint });
  byId("image").ariaLabel = t("preview", { name: file?.name ?? format, label: saidName(answer.says) });
  if (heated) byId("opacity").firstElementChild.textContent = t("heat", heated);
}

/** The square that the model sees: left, top and side, in pixels. */
function seen(width, height) {
  const side = (Math.min(width, height) * recipe.crop) / recipe.resize;
  return [(width - side) / 2, (height - side) / 2, side];
}

function draw(canvas, bitmap) {
  const scale = SIDE / Math.max(bitmap.width, bitmap.height); // a small one is enlarged, so that its outline stays thin
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const whole = [0, 0, canvas.width, canvas.height];
  const [left, top, side] = seen(canvas.width, canvas.height);
  const around = new Path2D();
  around.rect(...whole);
  around.rect(left, top, side, side);
  const context = onWhite(canvas);
  context.drawImage(bitmap, ...whole);
  bitmap.close();
  context.fillStyle = "rgb(15 23 42 / 45%)";
  context.fill(around, "evenodd");
  context.strokeStyle = "white";
  context.lineWidth = Math.max(1, canvas.width / 300);
  context.strokeRect(left, top, side, side);
}

/** Toggle the heat map of a class. */
export async function toggleHeat(prediction, say) {
  const { class_id } = prediction;
  if (shows(class_id)) return hideHeat();
  const of = shown;
  wanted = prediction;
  of.maps ??= new Map();
  try {
    if (!of.maps.has(class_id)) {
      const options = { say, headers: { Accept: "application/json" } };
      const reply = await send(of.sent, `explain?class_id=${class_id}`, options).catch((problem) => {
        throw problem.code === "invalid-parameter" ? new Problem("switched") : problem; // the other has fewer classes
      });
      const { map, model } = await reply.json();
      if (model.digest !== of.answer.model.digest) throw new Problem("switched");
      of.maps.set(class_id, map);
    }
    if (wanted === prediction) showHeat(prediction, of.maps.get(class_id));
  } finally {
    if (wanted === prediction) wanted = undefined;
  }
}

function hideHeat() {
  [heated, wanted] = [];
  byId("heat").hidden = byId("opacity").hidden = true;
}

function showHeat(of, map) {
  heated = of;
  const [canvas, image, slider] = [byId("heat"), byId("image"), byId("opacity").querySelector("input")];
  [canvas.width, canvas.height] = [image.width, image.height];
  const [left, top, side] = seen(canvas.width, canvas.height);
  canvas.getContext("2d").drawImage(coloured(map), left, top, side, side);
  slider.oninput = () => byId("preview").style.setProperty("--heat", slider.value / 100);
  slider.oninput();
  canvas.hidden = byId("opacity").hidden = false;
  render();
}

/** The map as an image, each cell enlarged smoothly; negative cells are transparent. */
function coloured(map) {
  const [rows, columns] = [map.length, map[0].length];
  const most = Math.max(...map.flat(), Number.MIN_VALUE);
  const shares = map.flat().flatMap((value) => [0, 0, 0, (255 * Math.max(0, value)) / most]);
  const cells = new OffscreenCanvas(columns, rows);
  cells.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(shares), columns, rows), 0, 0);
  const canvas = new OffscreenCanvas(columns * ZOOM, rows * ZOOM);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(cells, 0, 0, canvas.width, canvas.height);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < image.data.length; at += 4) image.data.set(colour(image.data[at + 3] / 255), at);
  context.putImageData(image, 0, 0);
  return canvas;
}

function colour(share) {
  const place = Math.min(share, 0.999) * (PALETTE.length - 1);
  const [from, to] = PALETTE.slice(Math.floor(place));
  return from.map((value, channel) => value + (to[channel] - value) * (place % 1));
}
