// Sends requests to the server, with the key that it may want.

let key = ""; // in memory only, never stored
let promptForKey = null;
let pendingKey = null;

/** Sets what asks the user: a function (wrong: boolean) => Promise of a key. */
export function setKeyPrompt(prompt) {
  promptForKey = prompt;
}

/** Returns the answer to GET, or to POST if there is a body; waits while the server is
 * not ready. An error has the server's sentence. */
export async function ask(path, { query = {}, body, signal, onWait } = {}) {
  const words = new URLSearchParams(query).toString();
  for (;;) {
    const sent = key;
    const headers = sent ? { authorization: `Bearer ${sent}` } : {};
    const sending = { headers, signal, cache: "no-store" };
    if (body) Object.assign(sending, { method: "POST", body: JSON.stringify(body) });
    const response = await fetch(words ? `${path}?${words}` : path, sending);
    if (response.status === 401) {
      if (sent === key) {
        // Requests that are refused together ask once.
        pendingKey ??= promptForKey(sent !== "").finally(() => (pendingKey = null));
        key = await pendingKey;
      }
      signal?.throwIfAborted();
      continue;
    }
    const text = await response.text();
    if (response.ok) return parse(text);
    const sentence = sentenceOf(text) ?? `the server answered ${response.status}`;
    if (response.status !== 503 || !onWait) throw new Error(sentence);
    onWait(sentence);
    await new Promise((done) => setTimeout(done, 1000));
    signal?.throwIfAborted();
  }
}

function sentenceOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return undefined; // of a proxy
  }
}

/** Parses JSON; integers that JavaScript's numbers cannot hold become texts. */
function parse(text) {
  const isExact = (value) => !Number.isInteger(value) || Number.isSafeInteger(value);
  return JSON.parse(text, (_, value, context) =>
    isExact(value) ? value : (context?.source ?? value),
  );
}
