// Task: what a fine-tuned model predicts for a row, why, and for a whole table.

import { ask, Latest } from './api.js';
import { Bars, Component, html, percent, round, Status } from './parts.js';

const WAIT = 250;
const MAX_ROWS = 100;

/** The fields of a task: { column, title, answer, many } for each column that a row needs. `many`: an answer a line. */
function fieldsOf({ columns }) {
  return Object.entries(columns).flatMap(([role, column]) => {
    const names = column.split(',').map((name) => name.trim()).filter(Boolean);
    if (role !== 'choices') return [{ column, title: role === column ? role : `${column} (${role.replaceAll('_', ' ')})` }];
    if (names.length > 1) return names.map((name) => ({ column: name, title: `${name} (answer)`, answer: true }));
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

const shorten = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);

/** A row as the server expects it; null while a field is empty. */
function readRow(fields, values) {
  const row = fields.map(({ column, many }) => [column, many ? lines(values[column] ?? '') : values[column] ?? '']);
  return row.some(([, value]) => value.length === 0) ? null : Object.fromEntries(row);
}

export class Task extends Component {
  latest = new Latest();

  constructor(props) {
    super(props);
    const { task } = props.model.details;
    this.fields = task ? fieldsOf(task) : [];
    const values = {};
    for (const [name, value] of Object.entries(props.params)) {
      if (name.startsWith('field.')) values[name.slice(6)] = value;
    }
    this.state = { values, found: null, why: null, status: '', problem: '' };
  }

  componentDidMount() {
    this.predict(0);
  }

  componentWillUnmount() {
    this.latest.cancel();
  }

  /** Predict the row; with `explain`, also what each word contributes. */
  predict(wait, explain = false) {
    if (!this.fields.length) return;
    const row = readRow(this.fields, this.state.values);
    this.props.save(Object.fromEntries(Object.entries(this.state.values).map(([name, value]) => [`field.${name}`, value])));
    if (!row) {
      this.latest.cancel();
      this.setState({ found: null, why: null, status: '', problem: '' });
      return;
    }
    if (explain) this.setState({ status: 'The model reads the row again without each word …' });
    const body = { model: this.props.model.id, rows: [row], layout: true, explain };
    this.latest.run(wait, async (signal) => {
      const [found] = (await ask('v1/classify', body, signal)).data;
      const decided = found.prediction ?? null;
      const status = found.note ?? `Prediction: ${decided === null ? round(found.score) : labelName(decided, this.fields, this.state.values)}`;
      this.setState({ found, why: found.explanation ?? null, status, problem: '' });
    }, (error) => this.setState({ status: '', problem: error.message }));
  }

  write(column, value) {
    this.setState({ values: { ...this.state.values, [column]: value }, why: null }, () => this.predict(WAIT));
  }

  render({ model, models, choose }, { values, found, why, status, problem }) {
    if (!this.fields.length) return html`<${NoTask} models=${models} model=${model} choose=${choose} />`;
    const { task } = model.details;
    const bars = found?.probabilities && Object.entries(found.probabilities)
      .map(([label, probability]) => ({ name: labelName(label, this.fields, values), probability })).sort((a, b) => b.probability - a.probability);
    return html`<section>
      <h1>What does it decide?</h1>
      <p class="lead">${model.id} is fine-tuned for ${task.kind}.
        ${this.fields.some((field) => field.answer) ? ' It chooses an answer.'
          : task.labels?.length ? ` Its labels: ${task.labels.join(', ')}.` : ' It predicts a number.'}</p>
      <div class="columns">
        <div>
          ${this.fields.map(({ column, title }, i) => html`
            <label for=${`field-${i}`}>${title}</label>
            <textarea id=${`field-${i}`} rows="2" value=${values[column] ?? ''}
              onInput=${(event) => this.write(column, event.target.value)}></textarea>`)}
          <div class="row"><button type="button" disabled=${!found} onClick=${() => this.predict(0, true)}>
            Which words mattered?</button></div>
        </div>
        <div>
          <h2>Prediction</h2>
          <${Status} text=${status || 'Fill in the form to see the prediction.'} problem=${problem} />
          ${bars && html`<${Bars} rows=${bars} label="Probability of each label" full=${1} />`}
          ${bars && html`<p class="quiet">A calibrated model is right in 80 % of the cases where it says 80 %. The report
            of the run shows how close this one is.</p>`}
        </div>
      </div>
      ${why && html`<${Words} why=${why} />`}
      ${found?.layout && html`<${Layout} sequences=${found.layout} />`}
      <${Table} fields=${this.fields} model=${model} task=${task} />
    </section>`;
  }
}

function NoTask({ models, model, choose }) {
  const others = models.filter(({ id, details }) => id !== model.id && (!details || details.task));
  return html`<section>
    <h1>What does it decide?</h1>
    <p>${model.id} is pre-trained but not fine-tuned for a task.</p>
    ${others.length > 0 && html`<p>Choose another model:</p>
      <div class="row">${others.map(({ id }) => html`
        <button type="button" key=${id} onClick=${() => choose(id)}>${id}</button>`)}</div>`}
  </section>`;
}

/** Occlusion: green words speak for the prediction, dotted pink ones against it. */
function Words({ why }) {
  const most = Math.max(...why.words.map((word) => Math.abs(word.contribution)), 1e-9);
  const score = why.explained === 'score';
  const change = ({ contribution: c }) => (c < 0 ? '−' : '+') + (score ? round(Math.abs(c)) : (100 * Math.abs(c)).toFixed(1));
  const strongest = [...why.words].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution)).slice(0, 5);
  return html`<div class="panel">
    <h2>Which words mattered</h2>
    <p class="tokens">${why.words.map((word, i) => {
      const strength = Math.round((4 * Math.abs(word.contribution)) / most);
      const look = strength ? `token ${word.contribution > 0 ? 'f' : 'a'}${strength}` : 'token';
      const newText = i > 0 && (word.column !== why.words[i - 1].column || word.answer !== why.words[i - 1].answer);
      return html`${newText && '\n'}<span class=${look} title=${change(word)}>${word.word}</span>${' '}`;
    })}</p>
    <p class="legend"><i class="f3"></i> for the prediction <i class="a3"></i> against it (dotted)</p>
    <p>Strongest: ${strongest.map((word) => `${word.word} ${change(word)}`).join(', ')}
      ${score ? ' of the score' : ' percentage points'}, each compared with the row without the word.</p>
  </div>`;
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
  state = { text: '', rows: [], results: [], status: '', problem: '' };

  componentWillUnmount() {
    this.latest.cancel();
  }

  predict() {
    const { fields, model } = this.props;
    const cells = readTable(this.state.text, fields.map(({ column }) => column)).slice(0, MAX_ROWS);
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
      this.setState({ rows: cells, values, results: data, status: `Rows predicted: ${data.length}.`, problem: '' });
    }, (error) => this.setState({ status: '', problem: error.message }));
  }

  render({ fields }, { text, rows, results, status, problem }) {
    const columns = fields.map(({ column }) => column);
    const numbers = results.some((result) => result.score !== undefined && result.score !== null);
    return html`<h2>Several rows</h2>
      <label for="task-table">Rows of a table, one a line: ${columns.join(', ')}. Up to ${MAX_ROWS}.</label>
      <textarea id="task-table" class="small" rows="4" value=${text}
        onInput=${(event) => this.setState({ text: event.target.value })}></textarea>
      <div class="row"><button type="button" onClick=${() => this.predict()}>Predict the rows</button></div>
      <${Status} text=${status} problem=${problem} />
      ${results.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Predictions"><table>
        <thead><tr>${columns.map((column) => html`<th scope="col">${column}</th>`)}
          <th scope="col">${numbers ? 'score' : 'prediction'}</th>
          ${!numbers && html`<th scope="col" class="number">probability</th>`}</tr></thead>
        <tbody>${results.map((result, i) => html`<tr key=${i}>
          ${rows[i].map((cell) => html`<td class="cell">${cell}</td>`)}
          <td>${result.note ?? (numbers ? round(result.score) : labelName(result.prediction, fields, this.state.values[i]))}</td>
          ${!numbers && html`<td class="number">${result.probabilities && percent(Math.max(...Object.values(result.probabilities)))}</td>`}</tr>`)}</tbody>
      </table></div>`}`;
  }
}
