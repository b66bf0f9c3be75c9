"use strict";

const byId = (id) => document.getElementById(id);
const drop = byId("drop");
let asked = 0; // only the answer to the newest question is shown

function say(text, problem = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("problem", problem);
}

function show(predictions) {
  byId("predictions").replaceChildren(...predictions.map(({ label, confidence }) => {
    const row = document.createElement("li");
    const name = document.createElement("span");
    const percent = document.createElement("span");
    const bar = document.createElement("meter");
    name.textContent = label;
    percent.textContent = `${(confidence * 100).toFixed(1)} %`;
    bar.value = confidence;
    bar.setAttribute("aria-hidden", "true");
    row.append(name, percent, bar);
    return row;
  }));
}

async function recognise(file) {
  const mine = ++asked;
  URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(file);
  byId("preview").alt = file.name;
  byId("preview").hidden = false;
  byId("hint").hidden = true;
  show([]);
  say("Looking …");
  const form = new FormData();
  form.append("file", file);
  try {
    const reply = await fetch("predict?top_k=3", { method: "POST", body: form });
    const answer = await reply.json();
    if (mine !== asked) return;
    if (reply.ok) {
      say("");
      show(answer.predictions);
    } else {
      say(answer.detail, true);
    }
  } catch {
    if (mine === asked) say("The server does not answer.", true);
  }
}

byId("preview").addEventListener("error", () => { byId("preview").hidden = true; byId("hint").hidden = false; });
byId("file").addEventListener("change", ({ target }) => { if (target.files[0]) recognise(target.files[0]); });
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) recognise(event.dataTransfer.files[0]);
});

fetch("model").then(async (reply) => {
  const model = await reply.json();
  if (!reply.ok) {
    say(reply.status === 401 ? "This server asks for an API key, and this page cannot send one yet." : model.detail, true);
    return;
  }
  byId("file").accept = model.limits.formats.map((name) => `image/${name}`).join();
  byId("model").textContent = `${model.name}, ${model.classes} classes, ${model.engine} ${model.precision}`;
  if (model.stand_in) {
    byId("model").textContent += ". This model stands in: the weights of the manifest's first model are missing. Run eyespot weights fetch.";
  }
});
