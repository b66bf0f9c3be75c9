// Browser storage, which users may block: then nothing is kept.

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
