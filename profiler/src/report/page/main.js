// The page: what is chosen, what follows from it, and which view shows it.

const VIEWS = [['findings', 'Findings'], ['difference', 'Difference'], ['flame', 'Flame graph'], ['table', 'Table'], ['callers', 'Callers'], ['source', 'Source'], ['threads', 'Threads'], ['waits', 'Waits'], ['about', 'About']];

const GROUPS = ['function', 'line', 'file', 'package'];

class Page {
  constructor(data) {
    this.data = data;
    this.units = new Units(data);
    this.compare = data.compare && new Comparison(data, this.units);
    document.body.classList.toggle('compared', Boolean(this.compare));
    this.state = {
      value: data.value,
      by: this.compare && GROUPS.includes(this.compare.by) ? this.compare.by : 'function',
      interpreter: data.interpreter,
      roots: data.roots,
      colour: this.compare ? 'difference' : 'kind',
      libraries: false,
      recursion: false,
      inverted: false,
      whose: '',
      wanted: null,
      range: null,
    };
    this.cache = {};
    this.view = '';
    this.flame = new Flame(byId('flame'), {
      units: this.units,
      colour: () => this.state.colour,
      told: (node) => this.tell(node),
      compare: this.compare,
      pair: (tree, node) => this.pairOf(tree, node),
    });
    this.views = {
      findings: new FindingsView(this),
      difference: new DifferenceView(this),
      flame: { show: () => this.showFlame() },
      table: new TableView(this),
      callers: new CallersView(this),
      source: new SourceView(this),
      threads: new ThreadsView(this),
      waits: new WaitsView(this),
      about: { show: () => showAbout(this) },
    };
    this.timeline = new Timeline(this);
    this.tabs();
    this.controls();
    document.title = data.title || 'profile';
    byId('title').textContent = data.title;
    byId('subtitle').textContent = data.subtitle;
    addEventListener('keydown', (event) => this.key(event));
    addEventListener('hashchange', () => this.open(location.hash.slice(1)));
    const again = () => this.recolour();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
    matchMedia('print').addEventListener('change', again);
    this.open(location.hash.slice(1));
    this.changed({});
  }

  get type() {
    return this.data.values[this.state.value];
  }

  // Computed once for what is chosen.
  once(name, compute) {
    this.cache[name] ??= compute();
    return this.cache[name];
  }

  tree() {
    return this.once('tree', () => buildTree(this.data, this.units, this.state));
  }

  drawn() {
    if (!this.state.inverted) return this.tree();
    return this.once('inverted', () => buildTree(this.data, this.units, this.state, true));
  }

  sums() {
    return this.once('sums', () => unitSums(this.tree(), this.units));
  }

  lines() {
    return this.once('lines', () => lineSums(this.data, this.state));
  }

  // Of a difference: those before and those after.
  sides() {
    return this.once('sides', () => [0, 1].map((value) => lineSums(this.data, { ...this.state, value })));
  }

  get whole() {
    return this.tree().total[0];
  }

  get sampled() {
    return this.once('sampled', () => sampleCount(this.data, this.state));
  }

  // Of a difference: before and after, in its measure.
  pair(value, other) {
    return this.compare.pair(this.state.value, value, other);
  }

  pairOf(tree, node) {
    return this.pair(tree.total[node], tree.other[node]);
  }

  toldOf(tree, node) {
    return this.told(tree.total[node], tree.other?.[node]);
  }

  // A value with its share, and how sure that is where samples say it; of a difference that of both sides.
  told(value, other = 0) {
    if (this.compare) return this.compare.told(this.pair(value, other));
    const share = value / this.whole;
    const text = `${amount(value, this.type)}, ${percent(share)}`;
    if (!(this.sampled > 0) || !(share >= 0 && share <= 1)) return text;
    const [low, high] = interval(share * this.sampled, this.sampled);
    return `${text} (${percent(low)} to ${percent(high)})`;
  }

  changed(choice) {
    Object.assign(this.state, choice);
    this.cache = {};
    if (this.state.range && !this.timeline.knows) {
      // What was chosen is a time of another value.
      this.timeline.choose(null);
      return;
    }
    this.timeline.place.hidden = byId('controls').hidden || !this.timeline.knows;
    for (const [name, view] of Object.entries(this.views)) view.stale = name !== this.view;
    showAnswer(this);
    showCaution(this);
    this.timeline.show();
    this.views[this.view].show();
  }

  // The same in other colours: what is zoomed to stays.
  recolour() {
    this.timeline.resize();
    for (const flame of [this.flame, this.views.callers.above, this.views.callers.below]) flame.redraw();
    if (this.view === 'flame') {
      showHottest(this);
      showLegend(this);
    } else if (this.view !== 'callers') {
      this.views[this.view].show();
    }
    for (const [name, view] of Object.entries(this.views)) view.stale ||= name !== this.view && name !== 'flame';
  }

  // Shows the views of processes, threads and tasks alone: `p0`, `t3`, `k1`, or nothing for all.
  choose(whose) {
    const number = Number(whose.slice(1));
    const { data } = this;
    const of = {
      p: (sample) => data.threads.process[data.sampleThread[sample]],
      t: (sample) => data.sampleThread[sample],
      k: (sample) => data.sampleTask[sample],
    }[whose[0]];
    const wanted = of && Uint8Array.from({ length: data.samples }, (_, sample) => Number(of(sample) === number));
    byId('whose').value = whose;
    this.changed({ whose, wanted: wanted || null });
  }

  showFlame() {
    const tree = this.drawn();
    this.flame.show(tree);
    this.search();
    showHottest(this);
    showLegend(this);
    this.tell(0);
  }

  tell(node) {
    const { tree } = this.flame;
    const { units } = this;
    if (!node && this.compare) {
      byId('details').textContent = `all: ${this.toldOf(tree, 0)}`;
      replace(byId('actions'));
      return;
    }
    if (!node) {
      const all = amount(tree.total[0], this.type);
      const isCount = this.type.kind === 'samples';
      byId('details').textContent = `all: ${isCount ? `${all} samples` : all}${this.sampled && !isCount ? ` in ${count(this.sampled)} samples` : ''}`;
      replace(byId('actions'));
      return;
    }
    const unit = tree.unit[node];
    const self = tree.self[node] > 0 && !this.state.inverted && !this.compare ? `, ${percent(tree.self[node] / this.whole)} itself` : '';
    byId('details').textContent = `${units.label(unit)}: ${this.toldOf(tree, node)}${self}`;
    if (node !== this.flame.selected || unit >= units.processes) return;
    const button = (text, onclick) => el('button', { type: 'button', onclick }, text);
    const buttons = [button('Callers', () => this.callers(unit))];
    if (units.isPython(unit) && units.file(unit) >= 0) buttons.push(button('Source', () => this.source(unit)));
    replace(byId('actions'), ...buttons);
  }

  // The hottest line of the program's own, as a unit; -1 for none.
  hottestLine() {
    const { own } = hottest(this.data, this.lines());
    return own.length ? this.units.lines + own[0].frame : -1;
  }

  // What a line or a function is counted as now.
  counted(unit) {
    const { units, data } = this;
    const called = units.function(unit);
    const file = units.file(unit);
    if (called < 0 || file < 0) return unit;
    const of = { function: called, file: units.files + file, package: units.packages + data.functions.package[called] };
    return of[this.state.by] ?? unit;
  }

  callers(unit) {
    this.views.callers.unit = this.counted(unit);
    this.open('callers');
    this.views.callers.show();
  }

  source(unit) {
    const { units, data } = this;
    const line = units.line(unit) || data.functions.first_line[units.function(unit)] || 0;
    this.open('source');
    this.views.source.open(units.file(unit), line);
  }

  search() {
    const text = byId('search').value;
    const { tree } = this.flame;
    if (!text) {
      this.flame.matched = null;
      byId('matched').textContent = '';
    } else {
      const test = matcher(text);
      const matched = new Uint8Array(this.units.count);
      for (const unit of new Set(tree.unit.subarray(1))) matched[unit] = Number(test(this.units.label(unit)));
      this.flame.matched = matched;
      byId('matched').textContent = `matched ${percent(matchedShare(tree, matched))}`;
    }
    this.flame.later();
  }

  open(name) {
    const known = this.available().some(([view]) => view === name);
    const view = known ? name : this.view || this.available()[0][0];
    const before = this.view;
    this.view = view;
    for (const [each] of VIEWS) {
      byId(`view-${each}`).hidden = each !== view;
      const tab = byId(`tab-${each}`);
      tab?.setAttribute('aria-selected', String(each === view));
      if (tab) tab.tabIndex = each === view ? 0 : -1;
    }
    byId('controls').hidden = ['about', 'difference', 'findings'].includes(view);
    this.timeline.place.hidden = byId('controls').hidden || !this.timeline.knows;
    if (location.hash.slice(1) !== view) history.replaceState(null, '', `#${view}`);
    if (before && this.views[view].stale !== false) {
      this.views[view].stale = false;
      this.views[view].show();
    }
  }

  available() {
    const is = {
      findings: Boolean(this.data.findings),
      difference: Boolean(this.compare),
      waits: this.data.causes.length > 0,
    };
    return VIEWS.filter(([view]) => is[view] ?? true);
  }

  tabs() {
    const tab = ([view, title]) => el('button', {
      type: 'button', id: `tab-${view}`, role: 'tab', 'aria-controls': `view-${view}`, onclick: () => this.open(view),
    }, title);
    replace(byId('tabs'), ...this.available().map(tab));
    byId('tabs').addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const views = this.available().map(([view]) => view);
      const next = views[(views.indexOf(this.view) + step + views.length) % views.length];
      this.open(next);
      byId(`tab-${next}`).focus();
    });
  }

  controls() {
    const { data, state } = this;
    const choice = (id, options, value, chosen) => {
      const select = byId(id);
      replace(select, ...options.map(([each, text]) => el('option', { value: each }, text)));
      select.value = value;
      select.addEventListener('change', () => chosen(select.value));
      select.closest('label').hidden = options.length < 2;
    };
    choice('value', data.values.map((type, at) => [String(at), noun(type)]), String(state.value), (value) => this.changed({ value: Number(value) }));
    const groups = GROUPS.filter((by) => by !== 'line' || !this.compare || this.compare.by === 'line');
    choice('by', groups.map((by) => [by, by]), state.by, (by) => this.changed({ by }));
    const sums = threadSums(data, state.value);
    const processes = data.processes.name.map((name, at) => [`p${at}`, name]);
    const threads = data.threads.name.map((name, at) => [`t${at}`, `${name} of ${data.processes.name[data.threads.process[at]]}`, sums[at]]);
    threads.sort((a, b) => b[2] - a[2]);
    const tasks = data.tasks.map((name, at) => [`k${at}`, at === data.tasks.indexOf(NO_TASK) ? name : `task ${name}`]);
    const whose = [
      ...(processes.length > 1 ? processes : []),
      ...(threads.length > 1 ? threads.slice(0, 200) : []),
      ...(tasks.length > 1 ? tasks.slice(0, 200) : []),
    ];
    choice('whose', [['', 'all threads'], ...whose], '', (value) => this.choose(value));
    choice('interpreter', [['0', 'all of it'], ['1', 'what works'], ['2', 'nothing']], String(state.interpreter), (value) => this.changed({ interpreter: Number(value) }));
    choice('roots', [['0', 'functions'], ['1', 'processes'], ['2', 'threads'], ['3', 'processes and threads']], String(state.roots), (value) => this.changed({ roots: Number(value) }));
    choice('colour', [...(this.compare ? [['difference', 'difference']] : []), ['kind', 'kind of code'], ['package', 'package']], state.colour, (colour) => this.changed({ colour }));
    for (const name of ['libraries', 'recursion', 'inverted']) {
      byId(name).checked = state[name];
      byId(name).addEventListener('change', () => this.changed({ [name]: byId(name).checked }));
    }
    byId('search').addEventListener('input', () => {
      this.open('flame');
      this.search();
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches('input, select, textarea')) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    const view = this.available()[Number(event.key) - 1];
    if (event.key === '/') {
      event.preventDefault();
      byId('search').focus();
    } else if (view) {
      this.open(view[0]);
    } else if (event.key === 'Escape') {
      this.flame.select(0);
      this.flame.zoom(0);
    }
  }
}

// A regular expression if it is one, else the text; capital letters count only if there are any.
function matcher(text) {
  const flags = text === text.toLowerCase() ? 'iu' : 'u';
  try {
    const pattern = new RegExp(text, flags);
    return (label) => pattern.test(label);
  } catch {
    return (label) => label.toLowerCase().includes(text.toLowerCase());
  }
}

function failed(error) {
  const trouble = byId('trouble');
  trouble.hidden = false;
  trouble.textContent = typeof DecompressionStream === 'undefined'
    ? 'This browser is too old for this page: it takes Chromium 110, Firefox 115 or Safari 16.4.'
    : `This page cannot be shown: ${error}`;
}

const begun = performance.now();
readData(byId('data').textContent).then((data) => {
  const page = new Page(data);
  // For who looks at the page from outside: tests, and consoles.
  window.profile = { page, first_draw_ms: performance.now() - begun };
  document.documentElement.dataset.ready = 'yes';
}).catch(failed);
