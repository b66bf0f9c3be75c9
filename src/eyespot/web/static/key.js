// The API key: asked for when the server wants one, and kept until the tab is closed.

import { byId } from "./dom.js";
import { load, save } from "./storage.js";

const NAME = "eyespot-key"; // in sessionStorage
let current = load("sessionStorage", NAME);
let asking;

export const key = () => current;

/** Ask for a key, once for all requests that need it. Returns whether one was given. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key");
    byId("key-wrong").hidden = !current;
    byId("secret").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => {
      asking = undefined;
      const given = dialog.returnValue && byId("secret").value.trim();
      if (given) save("sessionStorage", NAME, (current = given));
      resolve(Boolean(given));
    };
  });
  return asking;
}
