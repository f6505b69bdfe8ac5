// Next token: what the model expects after a text, and the tree of the tokens chosen so far.

import { ask, Latest } from './api.js';
import { Bars, Component, html, percent, Status, visible, wholeNumber } from './parts.js';

const EXAMPLE = 'She opened the door and';
const WAIT = 30; // while an answer is on its way; else a keystroke is sent at once
const TOP = 10;

const newTree = () => ({ children: [] });

export class Next extends Component {
  latest = new Latest();

  constructor(props) {
    super(props);
    const ids = (props.params.ids ?? '').split(',').map(wholeNumber).filter((id) => id !== undefined);
    const tree = newTree();
    const path = [];
    for (const id of ids) path.push(addChild(path.at(-1) ?? tree, { id, token: '…' }));
    this.state = { text: props.params.text ?? EXAMPLE, added: '', tree, path, rows: [], current: false, spoken: '', problem: '' };
  }

  componentDidMount() {
    this.ask(0);
  }

  componentWillUnmount() {
    this.latest.cancel();
    clearTimeout(this.speaking);
  }

  ask(wait) {
    const { text, path } = this.state;
    const ids = path.map((node) => node.id);
    this.props.save({ text, ids: ids.join(',') });
    const body = { model: this.props.model.id, text, ids, top: TOP };
    this.latest.run(wait, async (signal) => {
      const { data, continuation } = await ask('v1/next', body, signal);
      path.forEach((node, i) => { node.token = continuation.tokens[i]; });
      this.setState({ rows: data, current: true, added: continuation?.text ?? '', problem: '' });
      this.speak(data);
    }, (error) => this.setState({ problem: error.message, rows: [] }));
  }

  /** Read the first tokens aloud, once typing has paused. */
  speak(rows) {
    clearTimeout(this.speaking);
    const words = rows.slice(0, 3).map((row) => `${visible(row.token)} ${percent(row.probability)}`).join(', ');
    this.speaking = setTimeout(() => this.setState({ spoken: `Most likely: ${words}` }), 700);
  }

  write(text) {
    this.setState({ text, added: '', tree: newTree(), path: [], current: false }, () => this.ask(this.latest.busy ? WAIT : 0));
  }

  go(path) {
    this.setState({ path, current: false }, () => this.ask(0));
  }

  /** Append a token, unless the bars are still those of another text. */
  choose(row) {
    const { tree, path, current } = this.state;
    if (current) this.go([...path, addChild(path.at(-1) ?? tree, row)]);
  }

  render(props, { text, added, tree, path, rows, spoken, problem }) {
    const rest = Math.max(0, 1 - rows.reduce((sum, row) => sum + row.probability, 0));
    const bars = rows.map((row) => ({ ...row, name: row.token }));
    return html`<section>
      <h1>What comes next?</h1>
      <p class="lead">The model gives every possible next token a probability. Type, or choose a token to append it.</p>
      <label for="next-text">Text</label>
      <textarea id="next-text" rows="2" dir="auto" spellcheck=${false} value=${text + (path.length ? added : '')}
        onInput=${(event) => this.write(event.target.value)}></textarea>
      <div class="row">
        <button type="button" disabled=${!path.length} onClick=${() => this.go(path.slice(0, -1))}>Undo</button>
        <button type="button" disabled=${!rows.length} onClick=${() => this.choose(rows[0])}>Choose the most likely</button>
      </div>
      <div class="columns">
        <div>
          <h2>Next token</h2>
          <${Bars} rows=${bars} choose=${(row) => this.choose(row)} label="Choose a token to append it" />
          ${rows.length > 0 && html`<p class="quiet">All other tokens together: ${percent(rest)}</p>`}
          <${Status} problem=${problem} />
          <p class="hidden" role="status">${spoken}</p>
        </div>
        <div>
          <h2>Chosen tokens</h2>
          ${tree.children.length
            ? html`<nav aria-label="Chosen tokens">
                <${Ways} nodes=${tree.children} above=${[]} path=${path} go=${(to) => this.go(to)} /></nav>`
            : html`<p class="quiet">The tokens that you choose form a tree. Select one to go back to it, then choose another.</p>`}
        </div>
      </div>
    </section>`;
  }
}

function addChild(parent, { id, token, probability }) {
  let node = parent.children.find((child) => child.id === id);
  if (!node) parent.children.push((node = { id, token, probability, children: [] }));
  return node;
}

/** The tree of chosen tokens: a path without branches is one line, each branch a nested list. */
function Ways({ nodes, above, path, go }) {
  return html`<ul class="ways">${nodes.map((first) => {
    const line = [first];
    while (line.at(-1).children.length === 1) line.push(line.at(-1).children[0]);
    const branches = line.at(-1).children;
    return html`<li key=${first.id}>
      ${line.map((node, i) => {
        const to = [...above, ...line.slice(0, i + 1)];
        const taken = path[to.length - 1] === node;
        const chance = node.probability === undefined ? undefined : percent(node.probability);
        return html`<button type="button" class=${taken ? 'way taken' : 'way'} title=${chance}
          aria-current=${path.at(-1) === node ? 'step' : undefined} onClick=${() => go(to)}>${visible(node.token)}</button>`;
      })}
      ${branches.length > 0 && html`<${Ways} nodes=${branches} above=${[...above, ...line]} path=${path} go=${go} />`}
    </li>`;
  })}</ul>`;
}
