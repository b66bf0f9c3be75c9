// Requests to this server that survive outages, rate limits and proxies.

import { t } from "./i18n.js";
import { askForKey, key } from "./key.js";

const LONGEST_WAIT = 60; // seconds that a request waits by itself
const POLL_SECONDS = 2; // while the server does not respond
const BREAKS = 3; // connections that may break while the server responds to others

/** Why there is no answer; `code` is that of the server's problem, or one of the page's own. */
export class Problem extends Error {
  constructor(code, detail, wait = Infinity) {
    super(detail);
    Object.assign(this, { code, detail, wait });
  }
}

/**
 * Fetch, and retry while the server is busy, down or wants a key. Throws `Problem`, or AbortError.
 * `say` gets the reason, and what counts down beside it; "" when the wait is over.
 */
export async function ask(path, { say = () => {}, signal, ...options } = {}) {
  for (let breaks = 0; ; ) {
    let response;
    const used = key();
    const headers = { ...options.headers, ...(used && { "X-API-Key": used }) };
    try {
      response = await fetch(path, { ...options, signal, headers });
    } catch (error) {
      signal?.throwIfAborted();
      if (++breaks === BREAKS) throw new Problem("cut_off", t("cut_off"));
      say(t("stopped"));
      await unlessAborted(returned(), signal);
      say("");
      continue;
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.code === "unauthorized") {
      if (used === key() && !(await askForKey())) throw problem;
    } else if ([429, 503].includes(response.status) && problem.wait <= LONGEST_WAIT) {
      await unlessAborted(countdown(problem.wait, say), signal);
    } else {
      throw problem;
    }
  }
}

async function problemOf(response) {
  const { status, headers } = response;
  if (headers.get("Content-Type") !== "application/problem+json") {
    const code = status === 413 ? "proxy_413" : [502, 503, 504].includes(status) ? "proxy_gateway" : "proxy_other";
    return new Problem(code, t(code, { status }));
  }
  const { code, detail } = await response.json();
  const wait = Number(headers.get("Retry-After") ?? Infinity);
  return new Problem(code, code === "rate-limited" ? t("slow_down", { seconds: wait }) : detail, wait);
}

let counting, returning; // one of each for all requests that wait

function countdown(seconds, say) {
  const count = async () => {
    for (let left = seconds; left > 0; left--) {
      say(t("busy"), t("again", { seconds: left }));
      await sleep(1);
    }
    say("");
  };
  return (counting ??= count().finally(() => (counting = undefined)));
}

function returned() {
  const poll = async () => {
    while (!(await isReady())) await sleep(POLL_SECONDS);
  };
  return (returning ??= poll().finally(() => (returning = undefined)));
}

export const isReady = () => fetch("readyz").then(({ ok }) => ok, () => false);
export const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function unlessAborted(waiting, signal) {
  const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  await Promise.race([waiting, aborted]);
}
