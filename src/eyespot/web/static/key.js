// The API key: asked for when the server wants one, and kept until the tab is closed.

const NAME = "eyespot-key"; // in sessionStorage
const dialog = document.getElementById("key");
let asking;

export const key = () => sessionStorage.getItem(NAME);

/** Ask for a key, once for all requests that need it; false when none was given. */
export function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const field = document.getElementById("secret");
    document.getElementById("key-wrong").hidden = !wrong;
    field.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => {
      asking = undefined;
      if (dialog.returnValue) sessionStorage.setItem(NAME, field.value.trim());
      resolve(Boolean(dialog.returnValue));
    };
  });
  return asking;
}
