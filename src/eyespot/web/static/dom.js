// Short ways to find and to make elements.

export const byId = (id) => document.getElementById(id);

/** Have a screen reader say it, and nobody see it. */
export const readOut = (text) => (byId("told").textContent = text);

/** A new element with these properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const button = (properties, ...children) => element("button", { type: "button", ...properties }, ...children);
