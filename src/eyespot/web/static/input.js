// The ways in: picker, camera, drop anywhere, paste, samples.

import { byId } from "./dom.js";
import { t } from "./i18n.js";

const IMAGE_NAMES = /\.(jpe?g|jfif|png|webp|gif|bmp|avif|hei[cf]|tiff?)$/i;

/** Call `open` with the files that come in, and `say` with a message when there are none. */
export function listen(open, say) {
  for (const [button, field] of [["choose", "file"], ["photograph", "camera"]]) {
    byId(button).onclick = () => byId(field).click();
    byId(field).onchange = ({ target }) => {
      if (target.files.length) open([...target.files]);
      target.value = ""; // so that the same file can be chosen again
    };
  }
  document.addEventListener("paste", ({ clipboardData, target }) => {
    if (target.closest?.("dialog")) return;
    if (clipboardData.files.length) take([...clipboardData.files], 0);
    else if (clipboardData.types.includes("text/html")) say(t("no_images"));
  });
  listenForDrops(take, say);
  for (const image of document.querySelectorAll("#samples img")) image.parentElement.onclick = () => open([fetched(image.src)]);

  function take(files, skipped) {
    if (files.length) open(files, skipped);
    else say(t("no_images"));
  }
}

function listenForDrops(take, say) {
  const over = (shown) => (byId("dropping").hidden = !shown);
  addEventListener("dragover", (event) => {
    event.preventDefault(); // or the browser would open the file in place of the page
    over(event.dataTransfer.types.some((type) => ["Files", "text/uri-list"].includes(type)));
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) over(false);
  });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    over(false);
    const { dataTransfer } = event;
    const entries = Array.from(dataTransfer.items, (item) => item.webkitGetAsEntry()).filter(Boolean);
    if (entries.some((entry) => entry.isDirectory)) {
      const files = await filesIn(entries);
      const images = files.filter(({ name, type }) => type.startsWith("image/") || IMAGE_NAMES.test(name));
      take(images, files.length - images.length);
    } else if (dataTransfer.files.length) {
      take([...dataTransfer.files], 0);
    } else if (dataTransfer.types.includes("text/uri-list")) {
      dragged(dataTransfer.getData("text/uri-list"), take, say);
    } else {
      say(t("no_images"));
    }
  });
}

/** An image dragged from a page: this server's own can be read, another site's cannot. */
function dragged(address, take, say) {
  const url = URL.parse(address);
  if (url?.origin === location.origin) take([fetched(url.href)], 0);
  else say(t("elsewhere"));
}

async function fetched(address) {
  const blob = await (await fetch(address, { cache: "force-cache" })).blob(); // it is on the page already
  return new File([blob], address.split("/").pop(), { type: blob.type });
}

/** All files in dropped folders, each with its path as `path`, without those that cannot be read. */
async function filesIn(entries) {
  const found = await Promise.allSettled(entries.map((entry) => (entry.isDirectory ? children(entry).then(filesIn) : fileOf(entry))));
  return found.flatMap(({ value }) => value ?? []);
}

async function fileOf(entry) {
  const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
  return Object.assign(file, { path: entry.fullPath.slice(1) });
}

async function children(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}
