// The texts of the page, in the language of the browser or the one that was chosen.

import { load, save } from "./storage.js";

const LANGUAGES = { en: "English", zh: "中文" };
const CHOICE = "eyespot-language"; // in localStorage
const wanted = [load("localStorage", CHOICE), ...navigator.languages].map((name) => name?.slice(0, 2));
export let language = wanted.find((name) => name in LANGUAGES) ?? "en";
// All of them, as the server may be away when another is wanted.
const all = Object.fromEntries(Object.keys(LANGUAGES).map((code) => [code, read(code)]));
let texts = await all[language];

async function read(code) {
  return (await fetch(new URL(`texts/${code}.json`, import.meta.url))).json();
}

/** The text of that name, with {placeholders} replaced. */
export function t(name, values = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

/** The text of a problem; in English, the server's own. */
export const problemText = ({ code, detail }) => texts[`problem_${code}`] ?? detail;

export const number = (value, digits = 0) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const percent = (confidence) =>
  confidence.toLocaleString(language, { style: "percent", minimumFractionDigits: 1 });
export const size = (bytes) => (bytes < 1e5 ? `${number(bytes / 1e3)} kB` : `${number(bytes / 1e6, 1)} MB`);

/** Fill in every element that names its text; the server has done so in the language of the browser. */
export function fill() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = t(element.dataset.label);
}

/** The code and the name of the language that is not in use. */
export const other = () => Object.entries(LANGUAGES).find(([code]) => code !== language);

export async function use(code) {
  [language, texts] = [code, await all[code]];
  save("localStorage", CHOICE, code);
  fill();
}
