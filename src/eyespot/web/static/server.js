// Requests to this server, through its outages, its limits and whatever proxy stands before it.

import { t } from "./i18n.js";
import { askForKey, key } from "./key.js";

const LONGEST_WAIT = 60; // seconds that a request waits by itself
const POLL = 2; // seconds between two looks at a server that does not answer
const BREAKS = 3; // connections that may break while the server answers others

/** Why there is no answer; `code` is that of the server's problem, or one of the page's own. */
export class Problem extends Error {
  constructor(code, detail, more = {}) {
    super(detail);
    Object.assign(this, { code, detail }, more);
  }
}

/**
 * The response to a request, sent again while the server is busy, away, or wants a key.
 * `say` is told what it waits for, and "" when that is over. Throws `Problem`, or AbortError.
 */
export async function ask(path, { say = () => {}, signal, ...options } = {}) {
  for (let breaks = 0; ; ) {
    let response;
    try {
      response = await fetch(path, { ...options, signal, headers: { ...options.headers, ...withKey() } });
    } catch (error) {
      if (signal?.aborted) throw error;
      if (++breaks === BREAKS) throw new Problem("cut-off", t("cut_off"));
      say(t("stopped"));
      await returned(signal);
      say("");
      continue;
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.code === "unauthorized") {
      if (!(await askForKey(Boolean(key())))) throw problem;
    } else if ([429, 503].includes(response.status) && problem.wait <= LONGEST_WAIT) {
      await countdown(problem.wait, say, signal);
    } else {
      throw problem;
    }
  }
}

const withKey = () => (key() ? { "X-API-Key": key() } : {});

async function problemOf(response) {
  const { status, headers } = response;
  if (headers.get("Content-Type") !== "application/problem+json") {
    const name = status === 413 ? "proxy_413" : [502, 503, 504].includes(status) ? "proxy_gateway" : "proxy_other";
    return new Problem("proxy", t(name, { status }));
  }
  const { code, detail } = await response.json();
  const wait = Number(headers.get("Retry-After") ?? Infinity);
  return new Problem(code, code === "rate-limited" ? t("slow_down", { seconds: wait }) : detail, { wait });
}

async function countdown(seconds, say, signal) {
  for (let left = seconds; left > 0; left--) {
    say(t("busy", { seconds: left }));
    await sleep(1, signal);
  }
  say("");
}

let returning; // one look for all requests that wait

function returned(signal) {
  returning ??= poll().finally(() => (returning = undefined));
  return Promise.race([returning, aborted(signal)]);
}

async function poll() {
  for (;;) {
    try {
      if ((await fetch("readyz")).ok) return;
    } catch {
      // still away
    }
    await sleep(POLL);
  }
}

export function sleep(seconds, signal) {
  return Promise.race([new Promise((resolve) => setTimeout(resolve, seconds * 1000)), aborted(signal)]);
}

function aborted(signal) {
  return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
}
