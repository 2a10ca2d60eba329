// What is asked of the server. Whatever goes wrong is a Problem: a sentence that says what to do.

import { sentence } from "./dom.js";
import { askForKey, kept } from "./key.js";

const PATIENCE = 300; // seconds without a word from the server

export class Problem extends Error {
  // `seconds`: to wait before it is worth asking again
  constructor(message, status = 0, seconds = 0) {
    super(sentence(message));
    Object.assign(this, { status, seconds });
  }
}

const silence = () =>
  new Problem(`No word came from the server for ${PATIENCE / 60} minutes. Ask again, or see what it is doing`);
const gone = () =>
  new Problem("The server cannot be reached. See whether fieldstone serve still runs, then try again");

// The response, once it is a good one. Asks for a key where the server wants one.
export async function request(path, { method = "GET", json, form, signal } = {}) {
  for (;;) {
    const key = kept();
    const headers = new Headers();
    if (key) headers.set("Authorization", `Bearer ${key}`);
    if (json !== undefined) headers.set("Content-Type", "application/json");
    const body = json === undefined ? form : JSON.stringify(json);
    const waiting = signal ?? AbortSignal.timeout(PATIENCE * 1000);
    let response;
    try {
      response = await fetch(path, { method, headers, body, signal: waiting, cache: "no-store" });
    } catch (error) {
      throw broken(error, waiting);
    }
    if (response.ok) return response;
    if (response.status === 401 && (kept() !== key || (await askForKey(Boolean(key))))) continue;
    throw await problemOf(response);
  }
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, json) => (await request(path, { method: "POST", json })).json();

// The events of a streamed answer, as {event, data}.
export async function* events(path, json, signal) {
  const silent = new AbortController();
  const either = AbortSignal.any([signal, silent.signal]);
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(silence()), PATIENCE * 1000);
  };
  try {
    heard();
    const response = await request(path, { method: "POST", json, signal: either });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw broken(error, either);
      });
      if (done) return;
      heard();
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function parsed(part) {
  const its = { event: "message", data: [] };
  for (const line of part.split(/\r?\n/)) {
    const [, field, value] = /^(event|data): ?(.*)$/.exec(line) ?? [];
    if (field === "event") its.event = value;
    else if (field === "data") its.data.push(value);
  }
  return its.data.length ? { event: its.event, data: JSON.parse(its.data.join("\n")) } : null;
}

function broken(error, signal) {
  if (signal.aborted) return signal.reason?.name === "TimeoutError" ? silence() : signal.reason;
  return error instanceof Problem ? error : gone();
}

async function problemOf(response) {
  const said = await response.json().catch(() => null);
  const seconds = Number(response.headers.get("Retry-After")) || 0;
  return problemFrom(said, response.status, seconds);
}

// A Problem from an error as the server writes it.
export function problemFrom(said, status = 0, seconds = 0) {
  const unsaid = `The server answered ${status || "something that is no answer"}. Try again`;
  return new Problem(said?.error?.message || unsaid, status, seconds);
}
