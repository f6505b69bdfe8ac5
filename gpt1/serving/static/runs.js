// Runs: the served models with their results, their report pages, and two of them side by side.

import { ask, download, hasKey } from './api.js';
import { Component, html, round, Status } from './parts.js';

const STAGES = { pretrain: 'pre-training', finetune: 'fine-tuning' };
const COMPACT = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const NAMES = {
  f1: 'F1', f1_micro: 'F1 (micro)', f1_macro: 'F1 (macro)', matthews: 'Matthews correlation',
  pearson: 'Pearson correlation', spearman: 'Spearman correlation', rmse: 'root mean squared error',
  mae: 'mean absolute error', tfidf: 'TF-IDF', trivial: 'trivial answer', spread: 'spread of the predictions',
  ece_before: 'ECE before', ece_after: 'ECE after', cut: 'share of truncated texts',
  unknown: 'share of unknown tokens', train: 'training rows', duplicates: 'duplicates removed',
  leaked: 'rows also in the validation file', empty: 'rows without text', seconds: 'time (s)',
};
const LEFT_OUT = ['answer', 'of', 'C', 'fitted']; // of baselines and calibration: how they were made

export class Runs extends Component {
  state = { runs: null, problem: '', left: this.props.params.left ?? '', right: this.props.params.right ?? '' };

  async componentDidMount() {
    this.save();
    try {
      this.setState({ runs: (await ask('v1/runs')).data });
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  save() {
    this.props.save({ left: this.state.left, right: this.state.right });
  }

  set(change) {
    this.setState(change, () => this.save());
  }

  render({ models }, { runs, problem, left, right }) {
    const details = Object.fromEntries(models.map((model) => [model.id, model.details]));
    return html`<section>
      <h1>Runs of this server</h1>
      <p class="lead">Each model with its stage and its results at the end of training.</p>
      ${problem && html`<${Status} problem=${problem} />`}
      ${runs && html`<${RunTable} runs=${runs} details=${details} fail=${(error) => this.setState({ problem: error.message })} />`}
      ${runs?.length > 1 && html`<${Comparison} runs=${runs} left=${left} right=${right} set=${(change) => this.set(change)} />`}
    </section>`;
  }
}

function RunTable({ runs, details, fail }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="List of runs"><table class="stack">
    <thead><tr><th scope="col">model</th><th scope="col">stage</th><th scope="col" class="number">parameters</th>
      <th scope="col">validation</th><th scope="col">report</th></tr></thead>
    <tbody>${runs.map((run) => html`<tr key=${run.id}>
      <th scope="row">${run.id}</th>
      <td data-name="stage">${STAGES[run.stage] ?? '–'}</td>
      <td class="number" data-name="parameters">${details[run.id]?.parameters ? COMPACT.format(details[run.id].parameters) : '–'}</td>
      <td class="cell" data-name="validation">${run.problem ?? headline(run.results)}</td>
      <td data-name="report">${run.report ? html`<${Report} id=${run.id} fail=${fail} />` : '–'}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

/** With an API key, a link cannot open the report: the page saves it as a file. */
function Report({ id, fail }) {
  const path = `v1/runs/${encodeURIComponent(id)}/report`;
  if (!hasKey()) return html`<a href=${path} aria-label=${`report of ${id}`}>report</a>`;
  const save = async () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await download(path));
    link.download = `${id.replaceAll('/', '-')}.html`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`<button type="button" aria-label=${`save report of ${id}`} onClick=${() => save().catch(fail)}>save report</button>`;
}

/** The numbers of nested results, as [name, value]. Lists and texts are left to the report. */
function numbersOf(results, above = '') {
  return Object.entries(results ?? {}).flatMap(([name, value]) => {
    if (LEFT_OUT.includes(name)) return [];
    if (typeof value === 'number') return [[above + (name === 'validation' ? 'validation rows' : words(name)), value]];
    const inside = name === 'metrics' ? above : `${above}${words(name)} › `;
    return value && typeof value === 'object' && !Array.isArray(value) ? numbersOf(value, inside) : [];
  });
}

const words = (name) => (Object.hasOwn(NAMES, name) ? NAMES[name] : name.replaceAll('_', ' '));

const figure = (value) => (value === undefined ? '–' : round(value, 4));

/** The main metric, and the values of the baselines. */
function headline({ main, validation, baselines }) {
  const metrics = validation?.metrics ?? validation ?? {};
  const names = [main, 'perplexity', 'bits_per_byte', 'loss'].filter((name) => typeof metrics[name] === 'number');
  const own = names.slice(0, main ? 1 : 2).map((name) => `${words(name)} ${figure(metrics[name])}`);
  const compared = Object.values(baselines ?? {}).filter((found) => typeof found?.metrics?.[main] === 'number');
  const others = compared.map((found) => `${found.name} ${figure(found.metrics[main])}`);
  return [own.join(', ') || '–', others.length && `(${others.join(', ')})`].filter(Boolean).join(' ');
}

function Comparison({ runs, left, right, set }) {
  const sides = [runs.find(({ id }) => id === left) ?? runs[0], runs.find(({ id }) => id === right) ?? runs[1]];
  const [first, second] = sides.map((run) => Object.fromEntries(numbersOf(run.results)));
  const names = [...new Set([...Object.keys(first), ...Object.keys(second)])];
  const choice = (name, title, run) => html`<div><label for=${name}>${title}</label>
    <select id=${name} value=${run.id} onChange=${(event) => set({ [name]: event.target.value })}>
      ${runs.map(({ id }) => html`<option key=${id} value=${id} selected=${id === run.id}>${id}</option>`)}</select></div>`;
  return html`<h2>Side by side</h2>
    <div class="row">${choice('left', 'One run', sides[0])}${choice('right', 'Another run', sides[1])}</div>
    ${names.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Results side by side"><table class="compare">
      <thead><tr><th scope="col">result</th>${sides.map((run) => html`<th scope="col" class="number">${run.id}</th>`)}</tr></thead>
      <tbody>${names.map((name) => html`<tr key=${name}><th scope="row">${name}</th>
        <td class="number">${figure(first[name])}</td><td class="number">${figure(second[name])}</td></tr>`)}</tbody>
    </table></div>` : html`<p class="quiet">These two runs have no results.</p>`}`;
}
