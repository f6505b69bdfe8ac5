// Requests to the server of this page.

const KEY = 'gpt1-key';
const RETRIES = 3;
const MAX_SECONDS = 5; // a longer wait is the decision of who waits

let key = rememberedKey();
let refused = () => {};

export class ApiProblem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The API key of this tab; without session storage, it is forgotten when the page closes. */
function rememberedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return '';
  }
}

export const hasKey = () => key !== '';

export function setKey(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, key);
  } catch { /* it holds until the page is loaded again */ }
}

/** Call `then()` whenever the server refuses the key, or asks for one. */
export const whenKeyIsRefused = (then) => { refused = then; };

/** The response to a request, which is repeated after the time that a busy server asks for. */
async function send(path, body, signal) {
  for (let tries = 0; ; tries += 1) {
    const response = await request(path, body, signal);
    if (response.ok) return response;
    const seconds = Number(response.headers.get('Retry-After'));
    if (!seconds || seconds > MAX_SECONDS || tries === RETRIES) throw await problemOf(response);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    signal?.throwIfAborted();
  }
}

async function request(path, body, signal) {
  const headers = body ? { 'Content-Type': 'application/json' } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw lost(error, 'The server does not answer. It may have been stopped.');
  }
}

/** An error of the connection in plain words; a cancelled request is not an error. */
function lost(error, message = 'The connection to the server was lost. Try again.') {
  return error.name === 'AbortError' ? error : new ApiProblem(0, message);
}

async function problemOf(response) {
  if (response.status === 401) {
    refused();
    return new ApiProblem(401, key ? 'The server does not accept this key.' : 'The server needs an API key.');
  }
  try {
    const { message } = (await response.json()).error;
    return new ApiProblem(response.status, message.charAt(0).toUpperCase() + message.slice(1));
  } catch {
    return new ApiProblem(response.status, `The server answers with status ${response.status}.`);
  }
}

async function read(path, body, signal, form) {
  const response = await send(path, body, signal);
  try {
    return await response[form]();
  } catch (error) {
    throw lost(error);
  }
}

/** The JSON response to a request. */
export const ask = (path, body, signal) => read(path, body, signal, 'json');

export const download = (path) => read(path, undefined, undefined, 'blob');

/** The events of a stream, as they come. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read().catch((error) => { throw lost(error); });
    if (done) throw lost(new Error('The stream ended without [DONE].'));
    const lines = (rest + value).split('\n\n');
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, '');
      if (data === '[DONE]') return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiProblem(0, event.error.message);
      yield event;
    }
  }
}

/** Runs the newest task only: a new one cancels the previous one, whether it is waiting or running. */
export class Latest {
  /** Whether a task is waiting or running. */
  get busy() {
    return Boolean(this.controller);
  }

  /** Run `task(signal)` after `wait` ms; `failed(error)` unless it was cancelled. */
  async run(wait, task, failed) {
    this.cancel();
    const controller = (this.controller = new AbortController());
    const { signal } = controller;
    try {
      if (wait) await new Promise((resolve) => setTimeout(resolve, wait));
      if (!signal.aborted) await task(signal);
    } catch (error) {
      if (!signal.aborted) failed(error);
    } finally {
      if (this.controller === controller) this.controller = null;
    }
  }

  cancel() {
    this.controller?.abort();
    this.controller = null;
  }
}
