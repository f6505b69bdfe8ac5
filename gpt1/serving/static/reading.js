// Reading: how surprising each token of a text was, and what a head of the model attends to.

import { ask, Latest } from './api.js';
import {
  Bars, Component, count, html, inWords, percent, piece, round, Status, surpriseLevels, Tokens, visible, wholeNumber,
} from './parts.js';

const EXAMPLE = 'The sun is a star. It gives us light and heat, and all the planets move around the cheese.';
const WAIT = 300;
const TOP = 5;

export class Reading extends Component {
  latest = new Latest();

  constructor(props) {
    super(props);
    const { text, token } = props.params;
    this.state = { text: text ?? EXAMPLE, selected: wholeNumber(token) ?? null, score: null, problem: '', status: '' };
  }

  componentDidMount() {
    this.read(0);
  }

  componentWillUnmount() {
    this.latest.cancel();
  }

  save() {
    const { text, selected } = this.state;
    this.props.save({ text, token: selected ?? undefined });
  }

  read(wait) {
    this.save();
    const { text } = this.state;
    const body = { model: this.props.model.id, texts: [text], top: TOP };
    this.latest.run(wait, async (signal) => {
      const [score] = (await ask('v1/score', body, signal)).data;
      const selected = this.state.selected < score.tokens.length ? this.state.selected : null;
      const status = score.tokens.length ? `${count(score.tokens.length, 'token')} read.` : 'Type a text to read.';
      this.setState({ score, scored: text, selected, problem: '', status });
    }, (error) => this.setState({ problem: error.message }));
  }

  write(text) {
    this.setState({ text, selected: null }, () => this.read(WAIT));
  }

  select(selected) {
    this.setState({ selected }, () => this.save());
  }

  render({ model }, { text, score, scored, selected, problem, status }) {
    const token = score?.tokens[selected];
    return html`<section>
      <h1>How surprising was each token?</h1>
      <p class="lead">The model reads from left to right. A pale token is what it expected; a strong color, with dots
        beneath, is a surprise. Choose a token to see what the model expected instead.</p>
      <label for="reading-text">Text</label>
      <textarea id="reading-text" rows="2" dir="auto" value=${text} onInput=${(event) => this.write(event.target.value)}></textarea>
      <${Status} text=${status} problem=${problem} />
      ${score?.tokens.length > 0 && html`
        <${Surprise} tokens=${score.tokens} pipeline=${model.details.pipeline} selected=${selected}
          select=${(i) => this.select(i)} />
        ${token ? html`<${Place} token=${token} />`
          : html`<p class="quiet">Choose a token, with the mouse or the arrow keys.</p>`}
        <dl class="figures">
          <div><dt>tokens</dt><dd>${score.tokens.length}</dd></div>
          <div><dt>perplexity</dt><dd>${round(score.perplexity)}</dd></div>
          <div><dt>bits per byte</dt><dd>${round(score.bits_per_byte)}</dd></div>
        </dl>
        ${model.details.architecture !== 'lstm' && html`<${Attention} key=${scored} text=${scored} model=${model}
          selected=${selected} fits=${score.tokens.length <= model.details.context} />`}`}
    </section>`;
  }
}

function describe({ token, log_probability: log, rank }) {
  const p = Math.exp(log);
  return `${visible(token)}: ${inWords(p)}, ${percent(p)}, rank ${rank}`;
}

function Surprise({ tokens, pipeline, selected, select }) {
  const levels = surpriseLevels(tokens.map((token) => token.log_probability));
  const shown = tokens.map((token, i) => (
    { text: piece(token.token, pipeline), label: describe(token), look: `s${levels[i]}` }));
  return html`
    <${Tokens} tokens=${shown} selected=${selected} select=${select} label="Tokens of the text" />
    <p class="legend"><span>expected</span>${[0, 1, 2, 3, 4, 5, 6, 7, 8].map((i) => html`<i key=${i} class=${`s${i}`}></i>`)}
      <span>surprising (log-probability, mean ± 2.5 standard deviations of this text)</span></p>`;
}

/** What the model expected at the position of a token. */
function Place({ token }) {
  const p = Math.exp(token.log_probability);
  const bars = token.top.map((other) => ({ name: other.token, probability: Math.exp(other.log_probability) }));
  return html`<div class="panel">
    <h2>“${visible(token.token)}” was ${inWords(p)}</h2>
    <p>Probability ${percent(p)}; rank ${token.rank.toLocaleString('en')}${token.rank === 1 && ', the first choice'}. The model expected:</p>
    <${Bars} rows=${bars} label="What the model expected here" />
  </div>`;
}

/** How much a head attends to each token before the selected one. */
class Attention extends Component {
  latest = new Latest();
  state = { open: false, layer: 0, head: 0, tokens: [], weights: [], problem: '' };

  componentDidUpdate(before) {
    if (before.selected !== this.props.selected) this.ask();
  }

  componentWillUnmount() {
    this.latest.cancel();
  }

  ask() {
    if (!this.state.open || !this.props.fits) return;
    const { text, model, selected } = this.props;
    const { layer, head } = this.state;
    const body = { model: model.id, text, layer, head, token: selected ?? undefined };
    this.latest.run(60, async (signal) => {
      const { tokens, weights } = await ask('v1/attention', body, signal);
      this.setState({ tokens, weights: weights.at(-1), problem: '' });
    }, (error) => this.setState({ problem: error.message, weights: [] }));
  }

  set(change) {
    this.setState(change, () => this.ask());
  }

  render({ model, fits }, { open, layer, head, tokens, weights, problem }) {
    const { n_layer: layers, n_head: heads, pipeline } = model.details;
    const most = Math.max(...weights, 1e-9);
    const numbers = (n) => Array.from({ length: n }, (_, i) => html`<option key=${i} value=${i}>${i + 1}</option>`);
    const toggle = ({ target }) => target.open !== open && this.set({ open: target.open });
    return html`<details open=${open} onToggle=${toggle}>
      <summary>Attention</summary>
      <p class="quiet">${fits
        ? 'How much a head attends to each token, from the position of the chosen token (or the last one).'
        : `The text is longer than the ${model.details.context} tokens that the model reads at once: use a shorter one.`}</p>
      ${fits && html`<div class="row">
        <label for="layer">Layer</label>
        <select id="layer" value=${layer} onChange=${(event) => this.set({ layer: Number(event.target.value) })}>
          ${numbers(layers)}</select>
        <label for="head">Head</label>
        <select id="head" value=${head} onChange=${(event) => this.set({ head: Number(event.target.value) })}>
          ${numbers(heads)}</select>
      </div>`}
      <${Status} problem=${problem} />
      <p class="tokens" dir="auto">${weights.map((weight, i) => html`<span key=${i} class=${`token h${Math.round((8 * weight) / most)}`}
        title=${percent(weight)}>${piece(tokens[i], pipeline)}</span>`)}</p>
      ${weights.length > 0 && html`<p>Most: ${strongest(tokens, weights)}</p>`}
    </details>`;
  }
}

function strongest(tokens, weights) {
  const sorted = weights.map((weight, i) => ({ weight, i })).sort((a, b) => b.weight - a.weight);
  return sorted.slice(0, 4).map(({ weight, i }) => `${visible(tokens[i])} (token ${i + 1}) ${percent(weight)}`).join(', ');
}
