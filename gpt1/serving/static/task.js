// Task: what a fine-tuned model predicts for a row, why, and for a whole table.

import { ask, Latest } from './api.js';
import { Bars, capitalize, Component, html, percent, round, shorten, Status, Tokens } from './parts.js';

const WAIT = 250;
const MAX_ROWS = 100;
const MAX_LABELS = 12;
const KINDS = { multilabel: 'classification with several labels for each text', choice: 'multiple choice' };

/**
 * The fields of a task: { column, title, answer, many, optional } for each column that a row needs. `many`: an answer
 * a line. A question may have fewer answers than those of training.
 */
function fieldsOf({ columns }) {
  return Object.entries(columns).flatMap(([role, column]) => {
    const names = column.split(',').map((name) => name.trim()).filter(Boolean);
    if (role !== 'choices') return [{ column, title: role === column ? role : `${column} (${role.replaceAll('_', ' ')})` }];
    if (names.length > 1) {
      return names.map((name, i) => ({ column: name, title: `${name} (answer)`, answer: true, optional: i > 1 }));
    }
    return [{ column, title: `${column} (one answer a line)`, answer: true, many: true }];
  });
}

const lines = (text) => text.split('\n').map((line) => line.trim()).filter(Boolean);

/** A label as it is shown: for multiple choice, labels are numbers of answers, and the answer is shown. */
function labelName(label, fields, values) {
  const answers = fields.filter((field) => field.answer);
  const given = answers.flatMap(({ column, many }) => (many ? lines(values[column] ?? '') : [values[column] ?? '']));
  return answers.length ? shorten(given[label] ?? String(label)) : String(label);
}

/** What was predicted, in words: a label, several or none of them, or a score. */
function predictionOf({ prediction, score }, fields, values) {
  if (Array.isArray(prediction)) return prediction.join(', ') || 'no label';
  return prediction === undefined ? round(score) : labelName(prediction, fields, values);
}

/** A row as the server expects it; null while a field is empty. */
function readRow(fields, values) {
  const row = fields.map(({ column, many }) => [column, many ? lines(values[column] ?? '') : values[column] ?? '']);
  return row.some(([, value], i) => value.length === 0 && !fields[i].optional) ? null : Object.fromEntries(row);
}

export class Task extends Component {
  latest = new Latest();

  constructor(props) {
    super(props);
    const { task } = props.model.details;
    this.fields = task ? fieldsOf(task) : [];
    const values = Object.fromEntries(this.fields.map(({ column }) => [column, props.params[`field.${column}`] ?? '']));
    this.state = { values, found: null, why: null, status: '', problem: '' };
  }

  componentDidMount() {
    this.predict(0);
  }

  componentWillUnmount() {
    this.latest.cancel();
  }

  /** Predict the row; with `explain`, also what each word contributes to `label`, by default the most likely one. */
  predict(wait, explain = false, label = undefined) {
    if (!this.fields.length) return;
    const { values } = this.state;
    const row = readRow(this.fields, values);
    this.props.save(Object.fromEntries(Object.entries(values).map(([name, value]) => [`field.${name}`, value])));
    if (!row) {
      this.latest.cancel();
      this.setState({ found: null, why: null, status: '', problem: '' });
      return;
    }
    if (explain) this.setState({ status: 'The model reads the row again without each word …' });
    const body = { model: this.props.model.id, rows: [row], layout: true, explain, label };
    this.latest.run(wait, async (signal) => {
      const [found] = (await ask('v1/classify', body, signal)).data;
      const status = found.note ? `${capitalize(found.note)}.` : `Prediction: ${predictionOf(found, this.fields, values)}`;
      this.setState({ found, why: found.note ? null : found.explanation ?? null, status, problem: '' });
    }, (error) => this.setState({ found: null, why: null, status: '', problem: error.message }));
  }

  write(column, value) {
    this.setState({ values: { ...this.state.values, [column]: value }, why: null }, () => this.predict(WAIT));
  }

  render({ model, models, choose }, { values, found, why, status, problem }) {
    if (!this.fields.length) return html`<${NoTask} models=${models} model=${model} choose=${choose} />`;
    const { task } = model.details;
    // Predictions have booleans as JSON has them, true; the names of their probabilities as Python has them, True.
    const isBoolean = typeof task.labels?.[0] === 'boolean';
    const name = (label) => labelName(isBoolean ? label.toLowerCase() : label, this.fields, values);
    return html`<section>
      <h1>What does it predict?</h1>
      <p class="lead">${model.id} is fine-tuned for ${KINDS[task.kind] ?? task.kind}.
        ${this.fields.some((field) => field.answer) ? ' It chooses an answer.'
          : task.labels?.length ? ` Its labels: ${listLabels(task.labels)}.` : ' It predicts a number.'}</p>
      <div class="columns">
        <div>
          ${this.fields.map(({ column, title }, i) => html`
            <label for=${`field-${i}`}>${title}</label>
            <textarea id=${`field-${i}`} rows="2" dir="auto" value=${values[column]}
              onInput=${(event) => this.write(column, event.target.value)}></textarea>`)}
          <div class="row"><button type="button" disabled=${!found || found.note} onClick=${() => this.predict(0, true)}>
            Which words mattered?</button></div>
        </div>
        <div>
          <h2 class="hidden">Prediction</h2>
          <div class=${found ? 'answer' : ''}>
            <${Status} text=${status || 'Fill in the form to see the prediction.'} problem=${problem} /></div>
          ${found?.probabilities && html`<${Labels} probabilities=${found.probabilities} thresholds=${task.thresholds}
            name=${name} choose=${(label) => this.predict(0, true, label)} />`}
        </div>
      </div>
      ${why && html`<${Words} key=${why.explained} why=${why} name=${name} />`}
      ${found?.layout && html`<${Layout} sequences=${found.layout} />`}
      <${Table} fields=${this.fields} model=${model} task=${task} />
    </section>`;
  }
}

function listLabels(labels) {
  const more = labels.length - MAX_LABELS;
  return labels.slice(0, MAX_LABELS).join(', ') + (more > 0 ? ` and ${more.toLocaleString('en')} more` : '');
}

/** The probability of each label; with `thresholds`, of a model that may predict several, the predicted ones first. */
function Labels({ probabilities, thresholds, name, choose }) {
  const rows = Object.entries(probabilities).map(([label, probability]) => (
    { label, name: name(label), probability, threshold: thresholds?.[label] }));
  const above = ({ probability, threshold }) => Number(probability >= threshold);
  rows.sort((a, b) => above(b) - above(a) || b.probability - a.probability);
  return html`
    <${Bars} rows=${rows} full=${1} choose=${(row) => choose(row.label)}
      label="Probability of each label. Choose one to see which words support it" />
    <p class="quiet">${thresholds
      ? 'Each label is decided separately: it is predicted (✓) when its probability reaches its threshold, the line in its bar.'
      : 'A calibrated model is correct in 80 % of the predictions to which it gives 80 %. The report of the run shows the calibration of this one.'}
      ${' '}Choose a label to see which words support it.</p>`;
}

function NoTask({ models, model, choose }) {
  const others = models.filter(({ id, details }) => id !== model.id && (!details || details.task));
  return html`<section>
    <h1>What does it predict?</h1>
    <p>${model.id} is pre-trained but not fine-tuned for a task.</p>
    ${others.length > 0 && html`<p>Choose another model:</p>
      <div class="row">${others.map(({ id }) => html`
        <button type="button" key=${id} onClick=${() => choose(id)}>${id}</button>`)}</div>`}
  </section>`;
}

/** Occlusion: what changes when a word is left out. Green words raise the number, dotted pink ones lower it. */
class Words extends Component {
  state = { selected: null }; // the number of a word

  render({ why, name }, { selected }) {
    const score = why.explained === 'score';
    const what = score ? 'The score' : `The probability of “${name(why.explained.replace('probability_', ''))}”`;
    const unit = score ? '' : ' percentage points';
    const most = Math.max(...why.words.map((word) => Math.abs(word.contribution)), score ? 1e-9 : 0.01);
    const change = ({ contribution: c }) => (c < 0 ? '−' : '+') + (score ? round(Math.abs(c)) : (100 * Math.abs(c)).toFixed(1));
    const strongest = [...why.words].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution)).slice(0, 5);
    const texts = textsOf(why.words);
    return html`<div class="panel">
      <h2>Which words mattered</h2>
      <p>${what} is ${score ? round(why.value) : percent(why.value)}. The color shows how much it falls (or rises)
        when the model reads the row without the word.</p>
      ${texts.map((words, t) => html`
        ${texts.length > 1 && html`<h3>${nameOf(words[0], texts)}</h3>`}
        <${Tokens} key=${t} label=${`Words of ${nameOf(words[0], texts)}`} selected=${indexOf(words, selected)}
          select=${(i) => this.setState({ selected: words[i].number })} tokens=${words.map((word, i) => {
            const strength = Math.round((4 * Math.abs(word.contribution)) / most);
            return {
              text: word.word + (words[i + 1]?.start === word.end ? '' : ' '),
              label: `${word.word}: ${change(word)}${unit}`,
              look: strength ? `${word.contribution > 0 ? 'f' : 'a'}${strength}` : '',
            };
          })} />`)}
      <p class="legend"><i class="f3"></i> raises it <i class="a3"></i> lowers it (dotted)</p>
      <p role="status">${selected === null
        ? `Strongest: ${strongest.map((word) => `“${word.word}” ${change(word)}`).join(', ')}${unit}.`
        : `“${why.words[selected].word}”: ${change(why.words[selected])}${unit}.`}</p>
    </div>`;
  }
}

/** The column of a text; if it holds all answers, with the number of the answer. */
function nameOf({ column, answer }, texts) {
  const shared = texts.filter(([first]) => first.column === column).length > 1;
  return shared ? `${column}, answer ${answer + 1}` : column;
}

const indexOf = (words, number) => (words.some((word) => word.number === number) ? number - words[0].number : null);

/** Numbered words in lists, one for each text of the row. */
function textsOf(words) {
  const texts = [];
  words.forEach((word, number) => {
    const last = texts.at(-1)?.[0];
    if (!last || last.column !== word.column || last.answer !== word.answer) texts.push([]);
    texts.at(-1).push({ ...word, number });
  });
  return texts;
}

/** Figure 1 of the paper: the row as the model reads it. */
function Layout({ sequences }) {
  const special = (token) => /^<(start|delimiter|extract)>$/.test(token);
  return html`<details>
    <summary>The row as the model reads it</summary>
    ${sequences.map((tokens, i) => html`<p class="layout" key=${i}>${tokens.map((token) => html`
      <span class=${special(token) ? 'special' : ''}>${token}</span>`)}</p>`)}
  </details>`;
}

/** Rows of a pasted table: cells between tabs (as spreadsheets copy them), else CSV. */
export function readTable(text, columns) {
  const tabs = text.includes('\t') || (columns.length === 1 && !text.startsWith('"'));
  const separator = tabs ? '\t' : ',';
  const rows = [[]];
  for (const [, quoted, plain, end] of text.trim().matchAll(
    new RegExp(`(?:"((?:[^"]|"")*)"|([^${separator}\\r\\n]*))(${separator}|\\r?\\n|$)`, 'g'))) {
    rows.at(-1).push((quoted?.replaceAll('""', '"') ?? plain).trim());
    if (!end) break;
    if (end !== separator) rows.push([]);
  }
  const named = columns.every((column) => rows[0].includes(column));
  const places = columns.map((column, i) => (named ? rows[0].indexOf(column) : i));
  const filled = rows.slice(named ? 1 : 0).filter((cells) => cells.some(Boolean));
  return filled.map((cells) => places.map((place) => cells[place] ?? ''));
}

class Table extends Component {
  latest = new Latest();
  state = { text: '', rows: [], values: [], results: [], status: '', problem: '' };

  componentWillUnmount() {
    this.latest.cancel();
  }

  predict() {
    const { fields, model } = this.props;
    const pasted = readTable(this.state.text, fields.map(({ column }) => column));
    const cells = pasted.slice(0, MAX_ROWS);
    const values = cells.map((row) => Object.fromEntries(fields.map(({ column }, i) => [column, row[i]])));
    const rows = values.map((row) => readRow(fields, row));
    const wrong = rows.indexOf(null);
    if (!rows.length || wrong >= 0) {
      const problem = rows.length ? `Row ${wrong + 1} has an empty field.` : 'Paste rows first.';
      this.setState({ results: [], status: '', problem });
      return;
    }
    this.setState({ status: 'Predicting …', problem: '' });
    this.latest.run(0, async (signal) => {
      const { data } = await ask('v1/classify', { model: model.id, rows }, signal);
      const all = pasted.length > data.length ? ` of ${pasted.length.toLocaleString('en')}` : '';
      this.setState({ rows: cells, values, results: data, status: `Rows predicted: ${data.length}${all}.`, problem: '' });
    }, (error) => this.setState({ status: '', problem: error.message }));
  }

  render({ fields, task }, { text, rows, values, results, status, problem }) {
    const columns = fields.map(({ column }) => column);
    const numbers = !task.labels?.length;
    const several = Boolean(task.thresholds);
    return html`<h2>Several rows</h2>
      <label for="task-table">Rows of a table, one a line: ${columns.join(', ')}. Up to ${MAX_ROWS}.</label>
      <textarea id="task-table" class="small" rows="4" dir="auto" value=${text}
        onInput=${(event) => this.setState({ text: event.target.value })}></textarea>
      <div class="row"><button type="button" onClick=${() => this.predict()}>Predict the rows</button></div>
      <${Status} text=${status} problem=${problem} />
      ${results.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Predictions"><table class="stack">
        <thead><tr>${columns.map((column) => html`<th scope="col">${column}</th>`)}
          <th scope="col">${numbers ? 'score' : 'prediction'}</th>
          ${!numbers && !several && html`<th scope="col" class="number">probability</th>`}</tr></thead>
        <tbody>${results.map((result, i) => html`<tr key=${i}>
          ${rows[i].map((cell) => html`<td class="cell" dir="auto">${cell}</td>`)}
          <td data-name=${numbers ? 'score' : 'prediction'}>${result.note ?? predictionOf(result, fields, values[i])}</td>
          ${!numbers && !several && html`<td class="number" data-name="probability">${result.probabilities && percent(Math.max(...Object.values(result.probabilities)))}</td>`}</tr>`)}</tbody>
      </table></div>`}`;
  }
}
