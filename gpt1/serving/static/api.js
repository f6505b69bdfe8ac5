// Requests to the server of this page.

const KEY = 'gpt1-key';

export class ApiProblem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const setKey = (key) => sessionStorage.setItem(KEY, key);

export const isAbort = (error) => error.name === 'AbortError';

async function send(path, body, signal) {
  const headers = body ? { 'Content-Type': 'application/json' } : {};
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw isAbort(error) ? error : new ApiProblem(0, 'The server does not answer.');
  }
  if (!response.ok) throw new ApiProblem(response.status, await messageOf(response));
  return response;
}

async function messageOf(response) {
  try {
    const { message } = (await response.json()).error;
    return message[0].toUpperCase() + message.slice(1);
  } catch {
    return `The server answers with status ${response.status}.`;
  }
}

/** The JSON that answers a request. */
export const ask = async (path, body, signal) => (await send(path, body, signal)).json();

export const download = async (path) => (await send(path)).blob();

/** The events of a stream, as they come. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiProblem(0, 'The answer ended early.');
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

/** Runs the newest task only: a new one cancels the one before, which may be waiting or on its way. */
export class Latest {
  /** Run `task(signal)` after `wait` ms; `failed(error)` unless it was cancelled. */
  async run(wait, task, failed) {
    this.cancel();
    const { signal } = (this.controller = new AbortController());
    try {
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (!signal.aborted) await task(signal);
    } catch (error) {
      if (!signal.aborted) failed(error);
    }
  }

  cancel() {
    this.controller?.abort();
  }
}
