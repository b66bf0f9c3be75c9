// The picture that was recognised, the square of it that the network sees, and the heat map of what speaks for a class.

import { send } from "./images.js";
import { recipe } from "./model.js";
import { number, t } from "./i18n.js";

const byId = (id) => document.getElementById(id);
const SIDE = 960; // pixels of the canvas's longer side
const PALETTE = [[40, 11, 84], [159, 42, 99], [237, 105, 37], [252, 255, 164]]; // "inferno", by Smith and van der Walt
let shown; // the result whose picture this is
let heated; // { class_id, label } whose map is shown

export const explains = (class_id) => heated?.class_id === class_id;

export async function show(result) {
  shown = result;
  heat(undefined);
  const canvas = byId("picture");
  const bitmap = result.sent && (await createImageBitmap(result.sent).catch(() => undefined));
  if (shown !== result) return;
  canvas.hidden = !bitmap;
  if (bitmap) draw(canvas, bitmap);
  render();
}

export function render() {
  const { file, note, answer } = shown;
  const { width, height, format } = answer.image;
  const facts = [file?.name, `${number(width)} × ${number(height)} ${format}`, note].filter(Boolean).join(" · ");
  const outline = t(!shown.sent ? "remembered" : byId("picture").hidden ? "no_preview" : "outline");
  byId("answer").querySelector("figcaption").textContent = `${facts}. ${outline}`;
  byId("picture").ariaLabel = t("preview", { name: file?.name ?? format });
  if (heated) byId("opacity").firstElementChild.textContent = t("heat", heated);
}

/** The square that the network sees, in shares of the picture's width and height. */
function seen(width, height) {
  const side = (Math.min(width, height) * recipe.crop) / recipe.resize;
  return [(width - side) / 2, (height - side) / 2, side];
}

function draw(canvas, bitmap) {
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  const square = [...seen(canvas.width, canvas.height)];
  const [left, top, side] = square;
  const whole = [0, 0, canvas.width, canvas.height];
  context.drawImage(bitmap, ...whole);
  bitmap.close();
  const around = new Path2D();
  around.rect(...whole);
  around.rect(left, top, side, side);
  context.fillStyle = "rgb(15 23 42 / 45%)";
  context.fill(around, "evenodd");
  context.strokeStyle = "white";
  context.lineWidth = Math.max(1, canvas.width / 300);
  context.strokeRect(left, top, side, side);
}

/** Show the map of a class, or hide it if it is the one that is shown. */
export async function toggleHeat(class_id, label, say) {
  const asked = shown;
  if (explains(class_id)) return heat(undefined);
  asked.maps ??= new Map();
  if (!asked.maps.has(class_id)) {
    const options = { say, headers: { Accept: "application/json" } };
    const { map } = await (await send(asked.sent, `explain?class_id=${class_id}`, options)).json();
    asked.maps.set(class_id, map);
  }
  if (shown === asked) heat({ class_id, label }, asked.maps.get(class_id));
}

function heat(of, map) {
  heated = of;
  byId("heat").hidden = byId("opacity").hidden = !of;
  if (!of) return;
  const [canvas, picture] = [byId("heat"), byId("picture")];
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top, side] = seen(canvas.width, canvas.height);
  context.drawImage(coloured(map), left, top, side, side);
  byId("opacity").querySelector("input").oninput = ({ target }) => (canvas.style.opacity = target.value / 100);
  canvas.style.opacity = byId("opacity").querySelector("input").value / 100;
  render();
}

/** The map as a small picture, each cell enlarged smoothly; what speaks against the class is clear. */
function coloured(map) {
  const [rows, columns, zoom] = [map.length, map[0].length, 16];
  const most = Math.max(...map.flat(), Number.MIN_VALUE);
  const image = new ImageData(columns * zoom, rows * zoom);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      const share = Math.max(0, between(map, (y + 0.5) / zoom - 0.5, (x + 0.5) / zoom - 0.5) / most);
      image.data.set([...colour(share), 255 * Math.min(1, 0.25 + share)], 4 * (y * image.width + x));
    }
  }
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function between(map, y, x) {
  const cell = (row, column) => map[Math.min(map.length - 1, Math.max(0, row))][Math.min(map[0].length - 1, Math.max(0, column))];
  const [row, column] = [Math.floor(y), Math.floor(x)];
  const [down, across] = [y - row, x - column].map((share) => share * share * (3 - 2 * share));
  const line = (of) => cell(of, column) * (1 - across) + cell(of, column + 1) * across;
  return line(row) * (1 - down) + line(row + 1) * down;
}

function colour(share) {
  const place = Math.min(share, 0.999) * (PALETTE.length - 1);
  const [from, to] = PALETTE.slice(Math.floor(place));
  return from.map((value, channel) => value + (to[channel] - value) * (place % 1));
}
