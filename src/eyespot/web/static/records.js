// The results of a gallery, saved as CSV or JSON.

import { element } from "./dom.js";
import { problemText } from "./i18n.js";

const SAID = ["says", "kind", "confidence", "group"]; // as `eyespot classify` writes them
const COLUMNS = ["file", ...SAID, "label1", "confidence1", "class_id", "wnid", "sha256", "width", "height", "problem", "detail"];

export function saveJson(items) {
  save("eyespot.json", "application/json", JSON.stringify(items.map(record), null, 1));
}

export function saveCsv(items) {
  const lines = items.map((item) => {
    const { file, says, groups, predictions, image, problem } = record(item);
    const { label: label1, confidence: confidence1, ...top } = predictions?.[0] ?? {};
    const group = says?.kind === "class" ? groups[0]?.id : (says?.id ?? ""); // a path, which names those above it
    const row = { file, ...says, says: says?.label, group, label1, confidence1, ...top, ...image };
    Object.assign(row, { problem: problem?.code, detail: problem?.detail });
    return COLUMNS.map((name) => row[name]);
  });
  const text = [COLUMNS, ...lines].map((line) => `${line.map(quoted).join()}\r\n`).join(""); // RFC 4180
  save("eyespot.csv", "text/csv", `\ufeff${text}`); // without the mark, Excel would not read it as UTF-8
}

function record({ file, result, problem }) {
  return {
    file: file.path ?? file.name,
    ...result?.answer,
    ...(problem && { problem: { code: problem.code, detail: problemText(problem) } }),
  };
}

function quoted(value = "") {
  const text = /^[=+@-]/.test(value) ? `'${value}` : String(value); // or a spreadsheet would compute it
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
