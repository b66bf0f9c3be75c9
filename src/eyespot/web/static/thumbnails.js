// Thumbnails, each drawn when it comes into sight, a few at a time.

import { onWhite } from "./dom.js";

const AT_ONCE = 2;
const [WIDTH, HEIGHT] = [300, 200]; // pixels, at most
const files = new WeakMap(); // by canvas
const waiting = [];
let drawing = 0;

const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    waiting.push(target);
    if (drawing < AT_ONCE) draw();
  }
}, { rootMargin: "300px" });

export function watch(canvas, file) {
  files.set(canvas, file);
  sight.observe(canvas);
}

export function clear() {
  sight.disconnect();
  waiting.length = 0;
}

async function draw() {
  drawing++;
  for (let canvas; (canvas = waiting.shift()); ) {
    const options = { resizeHeight: HEIGHT, resizeQuality: "low" };
    const bitmap = await createImageBitmap(files.get(canvas), options).catch(() => undefined);
    if (!bitmap) continue;
    [canvas.width, canvas.height] = [Math.min(WIDTH, bitmap.width), bitmap.height];
    // Not transferred: Chromium would forget to turn it upright.
    onWhite(canvas).drawImage(bitmap, (canvas.width - bitmap.width) / 2, 0);
    bitmap.close();
  }
  drawing--;
}
