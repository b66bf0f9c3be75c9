// Short ways to find, make and paint elements.

export const byId = (id) => document.getElementById(id);

/** Have a screen reader say it, and nobody see it. */
export const readOut = (text) => (byId("told").textContent = text);

/** A new element with these properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The context of a canvas that is painted white, as the server puts white behind transparency. */
export function onWhite(canvas) {
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  return context;
}

export const button = (properties, ...children) => element("button", { type: "button", ...properties }, ...children);
