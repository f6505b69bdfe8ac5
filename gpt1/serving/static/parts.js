// What several views share: numbers, tokens and bars.

import { Component, Fragment, h } from './vendor/preact.js';
import htm from './vendor/htm.js';

export { Component, render } from './vendor/preact.js';
export const html = htm.bind(h);

const UNIT = '\u00a0%'; // the number and its unit stay on one line

export function percent(p) {
  if (p > 0.9995) return `> 99.9${UNIT}`;
  if (p < 0.0001) return `< 0.01${UNIT}`;
  return (100 * p).toPrecision(p < 0.001 ? 1 : p < 0.01 ? 2 : 3) + UNIT;
}

/** A probability in words. */
export function inWords(p) {
  return (WORDS.find(([least]) => p >= least) ?? [0, 'very surprising'])[1];
}

const WORDS = [[0.9, 'almost certain'], [0.4, 'likely'], [0.1, 'plausible'], [0.01, 'unlikely'], [0.0005, 'surprising']];

export function round(value, digits = 3) {
  return value === null ? '–' : Number(value.toPrecision(digits)).toLocaleString('en', { maximumFractionDigits: 8 });
}

export const count = (n, noun) => `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}`;

export const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const shorten = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);

/** A whole number in the link; undefined if it is not one. */
export const wholeNumber = (text) => (/^\d{1,15}$/.test(text ?? '') ? Number(text) : undefined);

/** A token to look at: line breaks as ↵, spaces at its ends as ␣. */
export const visible = (token) => token.replaceAll('\\n', '↵').replace(/^ +| +$/g, (spaces) => '␣'.repeat(spaces.length)) || '(empty)';

/** A message of the view, read aloud when it changes. */
export const Status = ({ text, problem }) => html`
  <p class=${problem ? 'status problem' : 'status'} role="status">${problem || text}</p>`;

/**
 * Rows of `name`, bar and `probability`. With `choose`, each is a button. `full`: the probability of a full bar.
 * A row with a `threshold` is predicted from this probability on.
 */
export function Bars({ rows, choose, label, full }) {
  const most = full ?? Math.max(...rows.map((row) => row.probability), 1e-9);
  const list = (shown, name) => html`<ol class="bars" aria-label=${name}>${shown.map((row, i) => html`<li key=${i}>${choose
    ? html`<button type="button" class="bar-row" onClick=${() => choose(row)}><${Bar} row=${row} most=${most} /></button>`
    : html`<span class="bar-row"><${Bar} row=${row} most=${most} /></span>`}</li>`)}</ol>`;
  const more = rows.length - MOST_BARS;
  return html`${list(rows.slice(0, MOST_BARS), label)}
    ${more > 0 && html`<details><summary>${more.toLocaleString('en')} more</summary>
      ${list(rows.slice(MOST_BARS), `${label}: the rest`)}</details>`}`;
}

const MOST_BARS = 20;

function Bar({ row: { name, probability, threshold }, most }) {
  const width = (p) => `${(100 * Math.min(p, most)) / most}%`;
  const counts = threshold !== undefined && probability >= threshold;
  return html`
    <span class="bar-name" dir="auto">${counts && html`<span role="img" aria-label="predicted:">✓</span>${' '}`}${visible(name)}</span>${' '}
    <span class="bar-track" aria-hidden="true">
      <span class="bar" style=${{ width: width(probability) }}></span>
      ${threshold !== undefined && html`<span class="mark" style=${{ left: width(threshold) }}></span>`}</span>
    <span class="bar-value">${percent(probability)}
      ${threshold !== undefined && html`<small> threshold ${percent(threshold)}</small>`}</span>`;
}

/**
 * Tokens of a text, one of which can be selected. One stop of the Tab key; the arrow keys move.
 * Each has `text`, `label` (what is read aloud), and `look`, the class of its color.
 */
export class Tokens extends Component {
  move(event) {
    const { tokens, selected, select } = this.props;
    const last = tokens.length - 1;
    const at = selected ?? 0;
    const right = getComputedStyle(this.list).direction === 'rtl' ? -1 : 1;
    const to = {
      ArrowRight: at + right, ArrowDown: at + 1, ArrowLeft: at - right, ArrowUp: at - 1, Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(Math.min(Math.max(to, 0), last));
    requestAnimationFrame(() => this.list.querySelector('[aria-selected=true]')?.focus());
  }

  render({ tokens, selected, select, label }) {
    return html`<div class="tokens" role="listbox" aria-label=${label} aria-orientation="horizontal" dir="auto"
        ref=${(list) => { this.list = list; }} onKeyDown=${(event) => this.move(event)}>
      ${tokens.map((token, i) => {
        const [before, text, after] = cutSpaces(token.text);
        return html`<${Fragment} key=${i}>${before}<span role="option" class=${`token ${token.look ?? ''}`}
          aria-label=${token.label} aria-selected=${i === selected ? 'true' : 'false'}
          tabindex=${i === (selected ?? 0) ? 0 : -1}
          onFocus=${() => i === selected || select(i)} onClick=${() => i === selected || select(i)}>${text}</span>${after}<//>`;
      })}
    </div>`;
  }
}

/** A text in three: the spaces around it have no color, unless there is nothing else. */
const cutSpaces = (text) => (text.trim() ? text.match(/^(\s*)(.*?)(\s*)$/s).slice(1) : ['', text || '\u200b', '']);

/** The text that a token adds, with visible line breaks. `pipeline` is that of the tokenizer. */
export function piece(token, pipeline) {
  const text = token.replaceAll('\\n', '↵\n');
  if (pipeline !== 'original') return text;
  if (text.endsWith('…')) return text.slice(0, -1);
  return text.endsWith('\n') ? text : `${text} `;
}

/** Log-probabilities as colors 0 (expected) to 8 (surprising), clamped at mean ± 2.5 standard deviations. */
export function surpriseLevels(logs) {
  const mean = logs.reduce((sum, x) => sum + x, 0) / logs.length;
  const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / logs.length) || 1;
  return logs.map((x) => Math.round(4 - 4 * Math.min(Math.max((x - mean) / deviation / 2.5, -1), 1)));
}
