// The frame of the page: views, models, the API key, and the link that holds the state of a view.

import { ask, hasKey, setKey } from './api.js';
import { Component, html, render, Status } from './parts.js';

const VIEWS = {
  next: { title: 'Next token', load: () => import('./next.js').then((module) => module.Next) },
  reading: { title: 'Reading', load: () => import('./reading.js').then((module) => module.Reading) },
  writing: { title: 'Writing', load: () => import('./writing.js').then((module) => module.Writing) },
  task: { title: 'Task', load: () => import('./task.js').then((module) => module.Task) },
  runs: { title: 'Runs', load: () => import('./runs.js').then((module) => module.Runs) },
};
const MAX_LINK = 4000;

/** `#next?model=books&text=…` as { view, params }. */
function readLink() {
  const [view, query] = location.hash.slice(1).split(/\?(.*)/s);
  return { view: view in VIEWS ? view : 'next', params: Object.fromEntries(new URLSearchParams(query ?? '')) };
}

class Page extends Component {
  drafts = {}; // the state of each view, for the way back to it
  visit = 0;
  state = { models: null, loaded: null, model: null, problem: '', keyNeeded: false };

  componentDidMount() {
    addEventListener('hashchange', () => this.open());
    this.start();
  }

  async start() {
    try {
      const { data } = await ask('v1/models');
      this.setState({ models: data, keyNeeded: false }, () => this.open());
    } catch (error) {
      this.setState({ keyNeeded: error.status === 401, problem: error.status === 401 && !hasKey() ? '' : error.message });
    }
  }

  /** Show what the link says. */
  async open() {
    const link = readLink();
    const params = Object.keys(link.params).length ? link.params : this.drafts[link.view] ?? {};
    const wanted = params.model ?? this.state.model?.id;
    const visit = ++this.visit;
    try {
      const [View, model] = await Promise.all([VIEWS[link.view].load(), this.findModel(wanted)]);
      if (visit !== this.visit) return;
      document.title = `${VIEWS[link.view].title} · gpt1`;
      this.setState({ view: link.view, params, loaded: View, model, problem: '', visit });
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  /** A model with its details, which the server knows once it is loaded. */
  async findModel(id) {
    const { models } = this.state;
    const found = models.find((model) => model.id === id) ?? models[0];
    if (!found.details) Object.assign(found, await ask(`v1/models/${encodeURIComponent(found.id)}`));
    return found;
  }

  async choose(id) {
    const { view } = this.state;
    const visit = ++this.visit;
    try {
      const model = await this.findModel(id);
      this.setState({ model, params: this.drafts[view] ?? {}, visit, problem: '' });
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  /** Keep the state of the view in the link; one that is too long for a link is kept in the page. */
  save(params) {
    const { view, model } = this.state;
    this.drafts[view] = params;
    const given = Object.entries(params).filter(([, value]) => value !== '' && value !== undefined);
    const link = `#${view}?${new URLSearchParams([['model', model.id], ...given])}`;
    history.replaceState(null, '', link.length <= MAX_LINK ? link : `#${view}`);
  }

  render(props, state) {
    return html`
      <a class="skip" href="#main" onClick=${skip}>To the content</a>
      <header>
        <span class="brand">gpt1</span>
        <nav aria-label="Views">${Object.entries(VIEWS).map(([name, view]) => html`
          <a key=${name} href=${`#${name}`} aria-current=${name === state.view ? 'page' : undefined}>${view.title}</a>`)}
        </nav>
        ${state.models && state.model && html`<${ModelChoice} models=${state.models} model=${state.model}
          choose=${(id) => this.choose(id)} />`}
      </header>
      <main id="main" tabindex="-1">
        ${state.problem && html`<${Status} problem=${state.problem} />`}
        ${state.keyNeeded && html`<${KeyForm} enter=${(key) => { setKey(key); this.start(); }} />`}
        ${state.loaded && html`<${state.loaded} key=${state.visit} model=${state.model} models=${state.models}
          params=${state.params} save=${(params) => this.save(params)} choose=${(id) => this.choose(id)} />`}
      </main>
      <footer>Everything on this page can be asked with the <a href="docs">API</a>.</footer>`;
  }
}

/** Move the focus without changing the link, which holds the state of the view. */
function skip(event) {
  event.preventDefault();
  document.getElementById('main').focus();
}

const ModelChoice = ({ models, model, choose }) => html`<div class="model">
  <label for="model">Model</label>
  <select id="model" value=${model.id} onChange=${(event) => choose(event.target.value)}>
    ${models.map(({ id }) => html`<option key=${id} value=${id} selected=${id === model.id}>${id}</option>`)}
  </select>
</div>`;

const KeyForm = ({ enter }) => html`<div class="key">
  <h1>API key</h1>
  <label for="key">This server needs a key. It is kept until this tab is closed.</label>
  <input id="key" type="password" autocomplete="off"
    onKeyDown=${(event) => event.key === 'Enter' && enter(event.target.value)} />
  <button type="button" onClick=${() => enter(document.getElementById('key').value)}>Use the key</button>
</div>`;

render(html`<${Page} />`, document.getElementById('page'));
