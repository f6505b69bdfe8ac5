// The frame of the page: views, models, the API key, and the link that holds the state of a view.

import { ask, hasKey, setKey, whenKeyIsRefused } from './api.js';
import { Component, html, render, shorten, Status } from './parts.js';

const VIEWS = {
  next: { title: 'Next token', load: () => import('./next.js').then((module) => module.Next) },
  reading: { title: 'Reading', load: () => import('./reading.js').then((module) => module.Reading) },
  writing: { title: 'Writing', load: () => import('./writing.js').then((module) => module.Writing) },
  task: { title: 'Task', load: () => import('./task.js').then((module) => module.Task) },
  runs: { title: 'Runs', load: () => import('./runs.js').then((module) => module.Runs) },
};
const MAX_LINK = 4000;
const LINK_WAIT = 200; // browsers refuse to change the link many times a second
const REST_WAIT = 1000;

/** `#next?model=books&text=…` as { view, params }. */
function readLink() {
  const [view, query] = location.hash.slice(1).split(/\?(.*)/s);
  const params = Object.fromEntries(new URLSearchParams(query ?? ''));
  return { view: Object.hasOwn(VIEWS, view) ? view : 'next', params };
}

class Page extends Component {
  drafts = {}; // the state of each view, for the way back to it
  visit = 0;
  // `chosen`: the id of the model that is asked for; `model`: that of the view, with its details
  state = { models: null, chosen: null, loaded: null, model: null, status: '', problem: '', keyNeeded: false };

  componentDidMount() {
    addEventListener('hashchange', () => this.open());
    whenKeyIsRefused(() => this.setState({ keyNeeded: true }));
    this.start();
  }

  componentDidCatch(error) {
    this.setState({ loaded: null, status: '', problem: `This view failed (${error.message}).` });
  }

  async start() {
    this.setState({ problem: '' });
    try {
      const { data } = await ask('v1/models');
      if (!data.length) throw new Error('This server has no models.');
      this.setState({ models: data, keyNeeded: false }, () => this.open());
    } catch (error) {
      this.setState({ problem: error.status === 401 && !hasKey() ? '' : error.message });
    }
  }

  /** Show the view that the link describes. */
  open() {
    if (!this.state.models) return this.start();
    const { view, params } = readLink();
    const own = Object.keys(params).length ? params : this.drafts[view] ?? {};
    return this.show(view, own, own.model ?? this.state.chosen);
  }

  /** Show the view with another model, where the same token ids mean other tokens. */
  choose(id) {
    const { view } = this.state;
    const { ids, token, ...params } = this.drafts[view] ?? {};
    return this.show(view, params, id);
  }

  async show(view, params, id) {
    clearTimeout(this.linking);
    const { models } = this.state;
    const model = models.find((one) => one.id === id) ?? models[0];
    const visit = ++this.visit;
    const unknown = id && id !== model.id ? `This server has no model “${shorten(id)}”. This is ${model.id}.` : '';
    this.setState({ view, chosen: model.id, status: model.details ? '' : `Loading ${model.id} …`, problem: '' });
    try {
      const [View] = await Promise.all([load(view), addDetails(model)]);
      if (visit !== this.visit) return;
      document.title = `${VIEWS[view].title} · gpt1`;
      this.setState({ params, loaded: View, model, visit, status: unknown });
      setTimeout(loadRest, REST_WAIT);
    } catch (error) {
      if (visit === this.visit) this.setState({ loaded: null, status: '', problem: error.message });
    }
  }

  /** Keep the state of the view in the link; one that is too long for a link is kept in the page. */
  save(params) {
    const { view, model } = this.state;
    this.drafts[view] = params;
    const given = Object.entries(params).filter(([, value]) => value !== '' && value !== undefined);
    const link = `#${view}?${new URLSearchParams([['model', model.id], ...given])}`;
    clearTimeout(this.linking);
    this.linking = setTimeout(
      () => history.replaceState(null, '', link.length <= MAX_LINK ? link : `#${view}`), LINK_WAIT);
  }

  render(props, state) {
    return html`
      <a class="skip" href="#main" onClick=${skip}>Skip to content</a>
      <header>
        <span class="brand">gpt1</span>
        <nav aria-label="Views">${Object.entries(VIEWS).map(([name, view]) => html`
          <a key=${name} href=${`#${name}`} aria-current=${name === state.view ? 'page' : undefined}>${view.title}</a>`)}
        </nav>
        ${state.chosen && html`<${ModelChoice} models=${state.models} chosen=${state.chosen}
          choose=${(id) => this.choose(id)} />`}
      </header>
      <main id="main" tabindex="-1">
        <${Status} text=${state.status} problem=${state.problem} />
        ${state.keyNeeded && html`<${KeyForm} enter=${(key) => { setKey(key); this.start(); }} />`}
        ${state.problem && !state.keyNeeded && html`<button type="button" onClick=${() => this.open()}>Try again</button>`}
        ${state.loaded && html`<${state.loaded} key=${state.visit} model=${state.model} models=${state.models}
          params=${state.params} save=${(params) => this.save(params)} choose=${(id) => this.choose(id)} />`}
      </main>
      <footer>Everything on this page is also available through the <a href="docs">API</a>.</footer>`;
  }
}

/** Move the focus without changing the link, which holds the state of the view. */
function skip(event) {
  event.preventDefault();
  document.getElementById('main').focus();
}

/** The component of a view. */
async function load(view) {
  try {
    return await VIEWS[view].load();
  } catch {
    throw new Error('The server does not answer. Reload this page when it runs again.');
  }
}

/** Load the other views now, so that they still open if the server goes away. */
const loadRest = () => Object.values(VIEWS).forEach((view) => view.load().catch(() => {}));

/** The details of a model, which the server knows once it is loaded. */
async function addDetails(model) {
  if (!model.details) Object.assign(model, await ask(`v1/models/${encodeURIComponent(model.id)}`));
}

const ModelChoice = ({ models, chosen, choose }) => html`<div class="model">
  <label for="model">Model</label>
  <select id="model" value=${chosen} onChange=${(event) => choose(event.target.value)}>
    ${models.map(({ id }) => html`<option key=${id} value=${id} selected=${id === chosen}>${id}</option>`)}
  </select>
</div>`;

class KeyForm extends Component {
  state = { key: '', problem: '' };

  use() {
    const key = this.state.key.trim();
    const problem = /^[\x21-\x7e]+$/.test(key) ? '' : 'A key has letters, digits and signs only, and no spaces.';
    this.setState({ problem });
    if (!problem) this.props.enter(key);
  }

  render(props, { key, problem }) {
    return html`<div class="key">
      <h1>API key</h1>
      <label for="key">This server needs a key. It is kept until this tab is closed.</label>
      <input id="key" type="password" autocomplete="off" value=${key}
        onInput=${(event) => this.setState({ key: event.target.value })}
        onKeyDown=${(event) => event.key === 'Enter' && this.use()} />
      <button type="button" onClick=${() => this.use()}>Use the key</button>
      <${Status} problem=${problem} />
    </div>`;
  }
}

render(html`<${Page} />`, document.getElementById('page'));
