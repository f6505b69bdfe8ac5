// Writing: a continuation as it is sampled, token by token; any token can be sampled again.

import { ask, events, Latest } from './api.js';
import { Bars, Component, count, html, inWords, percent, Status, Tokens, visible } from './parts.js';

const EXAMPLE = 'A long time ago, there was a';
const MAX_SEED = 2 ** 53 - 1;
const SETTINGS = [
  { name: 'temperature', title: 'Temperature (0: greedy)', first: '0.8', min: 0, max: 2, step: 0.1 },
  { name: 'top_k', title: 'Top-k (0: all)', first: '0', min: 0, max: 100000, step: 1 },
  { name: 'top_p', title: 'Top-p (1: all)', first: '1', min: 0.01, max: 1, step: 0.01 },
  { name: 'max_tokens', title: 'Tokens (at most)', first: '80', min: 1, max: 1000, step: 1 },
  { name: 'seed', title: 'Seed (optional)', first: '', min: 0, max: MAX_SEED, step: 1 },
];

/** The value of a setting in the link, if it is in its range. */
function settingOf({ name, first, min, max }, params) {
  const value = params[name] ?? '';
  return value !== '' && Number(value) >= min && Number(value) <= max ? value : first;
}

export class Writing extends Component {
  writing = new Latest();
  looking = new Latest();

  constructor(props) {
    super(props);
    const settings = Object.fromEntries(SETTINGS.map((setting) => [setting.name, settingOf(setting, props.params)]));
    settings.stop = props.params.stop ?? '';
    this.state = {
      prompt: props.params.text ?? EXAMPLE, settings, // what is asked for
      asked: null, tokens: [], // { prompt, ids } of the text that was continued, and its new tokens
      busy: false, status: '', problem: '', selected: null, others: [],
    };
  }

  componentWillUnmount() {
    this.writing.cancel();
    this.looking.cancel();
  }

  set(change) {
    this.setState(change, () => this.props.save({ text: this.state.prompt, ...this.state.settings }));
  }

  options() {
    const { settings } = this.state;
    const texts = SETTINGS.map(({ name, first }) => [name, settings[name] === '' ? first : settings[name]]);
    const numbers = texts.filter(([, text]) => text !== '').map(([name, text]) => [name, Number(text)]);
    return { ...Object.fromEntries(numbers), stop: settings.stop ? [settings.stop] : undefined };
  }

  /** Continue the prompt, or the written text after its first `kept` tokens. `again` is added to the seed. */
  write(kept = [], again = 0) {
    const asked = kept.length || again ? this.state.asked : { prompt: this.state.prompt, ids: null };
    const options = this.options();
    if (again && options.seed !== undefined) options.seed = Math.min(options.seed + again, MAX_SEED);
    const body = {
      model: this.props.model.id, prompt: asked.ids ? [...asked.ids, ...kept.map((token) => token.id)] : asked.prompt,
      ...options, logprobs: 0, return_token_ids: true, stream: true,
    };
    this.looking.cancel();
    this.setState({ asked, tokens: kept, busy: true, status: 'Writing …', problem: '', selected: null, others: [] });
    this.writing.run(0, async (signal) => {
      const start = performance.now();
      let [text, tokens, reason] = ['', [], ''];
      for await (const { choices: [choice] } of events('v1/completions', body, signal)) {
        if (choice.prompt_token_ids && !asked.ids) asked.ids = choice.prompt_token_ids;
        text += choice.text;
        tokens = tokens.concat(choice.token_ids.map((id, i) => ({
          id, offset: choice.logprobs.text_offset[i], probability: Math.exp(choice.logprobs.token_logprobs[i]),
        })));
        reason = choice.finish_reason ?? reason;
        this.setState({ tokens: [...kept, ...placeTexts(tokens, text)] });
      }
      const speed = Math.round(tokens.length / ((performance.now() - start) / 1000));
      const end = reason === 'stop' ? 'The stop text came. ' : '';
      this.setState({ busy: false, status: `${end}${count(tokens.length, 'token')}, ${speed} per second.` });
    }, (error) => this.setState({ busy: false, status: '', problem: error.message }));
  }

  stop() {
    this.writing.cancel();
    this.setState({ busy: false, status: `Stopped after ${count(this.state.tokens.length, 'token')}.` });
  }

  /** Show a token and its alternatives. */
  select(selected) {
    this.setState({ selected, others: [] });
    const { asked, tokens } = this.state;
    const body = { model: this.props.model.id, text: asked.prompt, ids: tokens.slice(0, selected).map(({ id }) => id), top: 8 };
    this.looking.run(60, async (signal) => {
      this.setState({ others: (await ask('v1/next', body, signal)).data });
    }, (error) => this.setState({ problem: error.message }));
  }

  /** Continue with another token in place of the selected one. */
  replace({ id, probability }) {
    const { asked, tokens, selected } = this.state;
    const kept = tokens.slice(0, selected);
    const body = { model: this.props.model.id, text: asked.prompt, ids: [...kept.map((token) => token.id), id], top: 1 };
    this.looking.run(0, async (signal) => {
      const { text } = (await ask('v1/next', body, signal)).continuation;
      const before = kept.map((token) => token.text).join('');
      this.write([...kept, { id, probability, text: text.slice(before.length) }], 0);
    }, (error) => this.setState({ problem: error.message }));
  }

  again() {
    this.rewrites = (this.rewrites ?? 0) + 1;
    this.write(this.state.tokens.slice(0, this.state.selected), this.rewrites);
  }

  render(props, { prompt, settings, asked, tokens, busy, status, problem, selected, others }) {
    const shown = tokens.map(({ text, probability }) => ({ text, label: `${bare(text)}: ${percent(probability)}` }));
    const token = tokens[selected];
    return html`<section>
      <h1>Let it write</h1>
      <p class="lead">Each token is sampled from the probabilities and appended to the text. Choose any token of the result
        to see its alternatives, and to continue from there with another one.</p>
      <label for="prompt">Prompt</label>
      <textarea id="prompt" rows="2" dir="auto" value=${prompt} onInput=${(event) => this.set({ prompt: event.target.value })}></textarea>
      <fieldset class="settings">
        <legend class="hidden">Sampling settings</legend>
        ${SETTINGS.map(({ name, title, first, min, max, step }) => html`<div key=${name}>
          <label for=${name}>${title}</label>
          <input id=${name} type="number" min=${min} max=${max} step=${step} placeholder=${first} value=${settings[name]}
            onInput=${(event) => this.set({ settings: { ...settings, [name]: event.target.value } })} /></div>`)}
        <div><label for="stop">Stop text (optional)</label>
          <input id="stop" maxlength="200" value=${settings.stop}
            onInput=${(event) => this.set({ settings: { ...settings, stop: event.target.value } })} /></div>
      </fieldset>
      <div class="row">
        <button type="button" class="main" onClick=${() => this.write()}>Write</button>
        <button type="button" disabled=${!busy} onClick=${() => this.stop()}>Stop</button>
      </div>
      <${Status} text=${status} problem=${problem} />
      ${asked && html`<div class="written" dir="auto">
        <span class="given">${asked.prompt}</span>
        <${Tokens} tokens=${shown} selected=${selected} select=${(i) => this.select(i)} label="Tokens of the continuation" />
      </div>`}
      ${token && html`<div class="panel">
        <h2>“${bare(token.text)}” was ${inWords(token.probability)} (${percent(token.probability)})</h2>
        <div class="row"><button type="button" onClick=${() => this.again()}>Resample from here</button></div>
        <p>Or continue with another token:</p>
        <${Bars} rows=${others.map((other) => ({ ...other, name: other.token }))}
          choose=${(other) => this.replace(other)} label="Choose a token to continue with it" />
      </div>`}
    </section>`;
  }
}

/** A token without the spaces around it. */
const bare = (text) => text.trim() || visible(text).replaceAll('\n', '↵');

/** Tokens with their texts: each begins at its offset, which counts characters, and ends where the next begins. */
function placeTexts(tokens, text) {
  const characters = [...text];
  const start = tokens[0]?.offset ?? 0;
  return tokens.map((token, i) => ({
    ...token, text: characters.slice(token.offset - start, tokens[i + 1] ? tokens[i + 1].offset - start : undefined).join(''),
  }));
}
