// Sends requests to the server, with the key that it may want.

let key = ""; // in memory only, never stored
let askForKey = null; // returns a promise of a key
let pendingKey = null;

/** Sets what asks the user for a key: a function (wrong: boolean) => Promise<string>. */
export function setKeyPrompt(prompt) {
  askForKey = prompt;
}

/** A request that the server refused, with its sentence. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** Returns the answer to GET, or to POST if there is a body. */
export async function ask(path, { query = {}, body, signal, onWait } = {}) {
  const words = new URLSearchParams(query).toString();
  for (;;) {
    const sent = key;
    const response = await fetch(words ? `${path}?${words}` : path, {
      method: body ? "POST" : "GET",
      body: body && JSON.stringify(body),
      headers: {
        ...(body && { "content-type": "application/json" }),
        ...(sent && { authorization: `Bearer ${sent}` }),
      },
      signal,
      cache: "no-store",
    });
    if (response.status === 401) {
      if (sent === key) {
        // Requests that are refused together ask once.
        pendingKey ??= askForKey(sent !== "").finally(() => (pendingKey = null));
        key = await pendingKey;
      }
      signal?.throwIfAborted();
      continue;
    }
    const text = await response.text();
    if (response.ok) return parse(text);
    const sentence = sentenceOf(text) ?? `the server answered ${response.status}`;
    if (response.status === 503 && onWait) {
      onWait(sentence);
      await new Promise((done) => setTimeout(done, 1000));
      continue;
    }
    throw new Refused(response.status, sentence);
  }
}

function sentenceOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return undefined; // not of this server but of a proxy
  }
}

/** Parses JSON; integers that a number of JavaScript cannot hold, as ids, stay texts. */
function parse(text) {
  return JSON.parse(text, (name, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && context
      ? context.source
      : value,
  );
}
