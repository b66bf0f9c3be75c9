// The names of classes and groups, in the language of the page.

import { language, t } from "./i18n.js";
import { ask } from "./server.js";

export const isUnsure = ({ kind }) => kind === "unsure";
export const saidName = (says) => (isUnsure(says) ? t("not_sure") : says.label);

/** The answer in a reply; it may have been asked for before the language changed. */
export async function read(reply) {
  const answer = await reply.json();
  if ((reply.headers.get("Content-Language") ?? language) !== language) await rename([answer]);
  return answer;
}

/** Put names in answers into the language of the page, without asking for the answers again. */
export async function rename(answers) {
  if (!answers.length) return;
  let entries, asked;
  do entries = await load((asked = language)); while (asked !== language);
  const names = new Map(entries.flatMap(({ class_id, label, groups }) => [[class_id, label], ...groups.map((group) => [group.id, group.label])]));
  for (const { says, groups, predictions } of answers) {
    if (!predictions.every(({ class_id, label }) => isNamed(entries[class_id], label))) continue; // by another model
    for (const each of [...groups, ...predictions]) each.label = names.get(each.class_id ?? each.id) ?? each.label;
    const said = says.kind === "class" ? predictions[0] : groups.find(({ id }) => id === says.id);
    says.label = said?.label ?? t("unsure");
  }
}

const isNamed = (entry, label) => [entry?.en, entry?.zh].includes(label);

/** The classes of the model that serves now; none if the server refuses. */
async function load(lang) {
  const reply = await ask(`labels?lang=${lang}`).catch(() => undefined);
  return (await reply?.json()) ?? [];
}
