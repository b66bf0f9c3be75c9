// What the browser keeps for this page; nothing, where it is told to block that.

export function load(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

export function save(storage, name, value) {
  try {
    window[storage].setItem(name, value);
  } catch {
    // blocked
  }
}
