// Requests to this server that survive outages, rate limits and proxies.

import { t } from "./i18n.js";
import { askForKey, key } from "./key.js";

const LONGEST_WAIT = 60; // seconds; a longer Retry-After is reported instead
const POLL_SECONDS = 2; // while the server does not respond
const BREAKS = 3; // times that a request may be cut off while the server responds to others
const READY_SECONDS = 5; // for an answer to /readyz

/** A failed request. `code` is the server's problem code, or the name of one of the page's texts. */
export class Problem extends Error {
  constructor(code, detail = t(code), wait = Infinity) {
    super(detail);
    Object.assign(this, { code, detail, wait });
  }
}

/**
 * Fetch JSON, and retry while the server is busy, down or wants a key. Throws `Problem`, or AbortError.
 * `say` gets the reason, and what counts down beside it; "" when the wait is over.
 */
export async function ask(path, { say = () => {}, signal, ...options } = {}) {
  for (let breaks = 0; ; ) {
    const used = key();
    const headers = { ...options.headers, ...(used && { "X-API-Key": used }) };
    const outcome = await fetch(path, { ...options, signal, headers }).then(problemOf, () => new Problem("stopped"));
    signal?.throwIfAborted();
    if (outcome instanceof Response) return outcome;
    const { code, detail, wait } = outcome;
    if (code === "unauthorized") {
      if (used === key() && !(await askForKey())) throw outcome;
    } else if (wait <= LONGEST_WAIT) {
      await countdown(outcome, say, signal);
    } else if (["stopped", "proxy_gateway"].includes(code)) {
      if (!(await isReadable(options.body))) throw new Problem("file_gone");
      if (++breaks === BREAKS) throw code === "stopped" ? new Problem("cut_off") : outcome;
      say(detail, t("waiting"));
      await Promise.race([returned(), aborted(signal)]);
      say("");
    } else {
      throw outcome;
    }
  }
}

/** The problem that a response tells of, or the response itself if it is JSON. */
async function problemOf(response) {
  const { ok, status, headers } = response;
  const type = headers.get("Content-Type");
  if (ok && type === "application/json") return response;
  if (ok || type !== "application/problem+json") {
    const code = status === 413 ? "proxy_413" : [502, 503, 504].includes(status) ? "proxy_gateway" : "proxy_other";
    return new Problem(code, t(code, { status }));
  }
  const { code, detail } = await response.json();
  const wait = Number(headers.get("Retry-After") ?? Infinity);
  return new Problem(code, code === "rate-limited" ? t("slow_down", { seconds: wait }) : detail, wait);
}

const counting = new WeakMap(); // one countdown for all requests with the same signal

function countdown({ code, wait }, say, signal = {}) {
  const count = async () => {
    for (let left = wait; left > 0 && !signal.aborted; left--) {
      say(code === "rate-limited" ? t("too_fast") : t("busy"), t("again", { seconds: left }));
      await sleep(1);
    }
    say("");
    counting.delete(signal);
  };
  if (!counting.has(signal)) counting.set(signal, count());
  return Promise.race([counting.get(signal), aborted(signal)]);
}

let returning; // one poll for all requests that wait

function returned() {
  const poll = async () => {
    while (!(await isReady())) await sleep(POLL_SECONDS);
  };
  return (returning ??= poll().finally(() => (returning = undefined)));
}

/** Whether the server is ready; the document's event "ready" tells it to the others. */
export async function isReady() {
  const ready = await fetch("readyz", { signal: AbortSignal.timeout(READY_SECONDS * 1000) }).then(({ ok }) => ok, () => false);
  document.dispatchEvent(new CustomEvent("ready", { detail: ready }));
  return ready;
}

/** Whether the file in a form can still be read; it may have been changed or moved since it was chosen. */
async function isReadable(form) {
  return form?.get("file").slice(0, 1).arrayBuffer().then(() => true, () => false) ?? true;
}

export const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function aborted(signal) {
  return new Promise((_, reject) => signal?.addEventListener?.("abort", () => reject(signal.reason), { once: true }));
}
