// One function between those that call it and those that it calls.

class CallersView {
  constructor(page) {
    this.page = page;
    this.unit = -1;
    const { units } = page;
    const place = (id) => el('div', { id, class: 'scroll' });
    this.head = el('h2', { id: 'callers-of' });
    this.numbers = el('p', { id: 'callers-numbers' });
    const [callers, callees] = [place('callers-table'), place('callees-table')];
    const [above, below] = [el('canvas', { tabIndex: 0 }), el('canvas', { tabIndex: 0 })];
    this.note = el('p', { class: 'quiet', role: 'status' }, ' ');
    replace(
      byId('view-callers'),
      this.head,
      this.numbers,
      el('div', { class: 'halves' },
        el('div', {}, el('h3', {}, 'called by'), callers),
        el('div', {}, el('h3', {}, 'calls'), callees)),
      this.note,
      el('div', { class: 'graph' }, el('div', {}, above)),
      el('div', { class: 'graph' }, el('div', {}, below)),
    );
    const { compare } = page;
    const numbers = compare ? compare.columns() : [
      { title: 'of it', key: (row) => row.value, show: (row) => bar(row.value / this.total || 0), hint: (row) => page.told(row.value) },
    ];
    const columns = [
      ...numbers,
      { title: 'where', isText: true, key: (row) => units.label(row.unit), show: (row) => (row.unit < 0 ? [row.text] : named(units, row.unit)) },
    ];
    const pick = (row) => row.unit >= 0 && row.unit < units.processes && page.callers(row.unit);
    const sort = compare ? 2 : 0;
    this.callers = new Table(callers, { columns, sort, pick });
    this.callees = new Table(callees, { columns, sort, pick });
    const told = (flame) => (node) => {
      this.note.textContent = node ? `${units.label(flame().tree.unit[node])}: ${page.toldOf(flame().tree, node)}` : ' ';
    };
    const colour = () => page.state.colour;
    above.setAttribute('aria-label', 'Callers');
    below.setAttribute('aria-label', 'Callees');
    const pair = (tree, node) => page.pairOf(tree, node);
    this.above = new Flame(above, { units, colour, up: true, compare, pair, told: told(() => this.above) });
    this.below = new Flame(below, { units, colour, compare, pair, told: told(() => this.below) });
  }

  show() {
    const { units } = this.page;
    const tree = this.page.tree();
    const { compare } = this.page;
    const { self, total, other } = this.page.sums();
    if (this.unit < 0 || !(total[this.unit] > 0 || other?.total[this.unit] > 0)) {
      const first = compare ? compare.first : this.page.hottestLine();
      this.unit = first < 0 ? -1 : this.page.counted(first);
      if (!(total[this.unit] > 0 || other?.total[this.unit] > 0)) this.unit = heaviest(self, units.processes);
    }
    if (this.unit < 0) {
      replace(this.head, 'nothing was called');
      return;
    }
    this.total = total[this.unit];
    replace(this.head, ...named(units, this.unit));
    const of = (sums, others) => this.page.told(sums[this.unit], others?.[this.unit]);
    this.numbers.textContent = `total ${of(total, other?.total)}, self ${of(self, other?.self)}`;
    const { callers, callees, above, below } = sandwich(tree, this.unit);
    const rows = (map, text) => [...map].filter(([, [value, others]]) => value > 0 || others > 0).map(([unit, [value, others]]) => {
      const row = { unit, value, text };
      if (compare) row.pair = this.page.pair(value, others);
      return row;
    });
    this.callers.show(rows(callers, '(outermost)'));
    this.callees.show(rows(callees, '(itself)'));
    const elsewhere = compare && !(total[this.unit] > 0);
    this.note.textContent = elsewhere ? `Its stacks are shown by ${['after', 'before'][this.page.state.value]} (Show, above).` : ' ';
    this.above.show(above);
    this.below.show(below);
  }
}

// The unit with the most; -1 for none.
function heaviest(values, end) {
  let best = -1;
  for (let unit = 0; unit < end; unit += 1) if (values[unit] > 0 && (best < 0 || values[unit] > values[best])) best = unit;
  return best;
}

// What is around a unit. Where it is below itself, its outermost call counts.
function sandwich(tree, unit) {
  const callers = new Map();
  const callees = new Map();
  const { other, otherSelf } = tree;
  const above = new Tree(Boolean(other));
  const below = new Tree(Boolean(other));
  const add = (map, key, value, others = 0) => {
    const [sum, sumOfOthers] = map.get(key) ?? [0, 0];
    map.set(key, [sum + value, sumOfOthers + others]);
  };
  walk(tree, (top) => {
    if (tree.unit[top] !== unit) return true;
    add(callers, tree.unit[tree.parent[top]], tree.total[top], other?.[top]);
    const line = [];
    for (let node = top; node; node = tree.parent[node]) line.push(tree.unit[node]);
    above.add(line, tree.total[top], other?.[top]);
    // -1: itself.
    add(callees, -1, tree.self[top], otherSelf?.[top]);
    for (const child of tree.childrenOf(top)) add(callees, tree.unit[child], tree.total[child], other?.[child]);
    const path = [unit];
    below.add(path, tree.self[top], otherSelf?.[top]);
    const open = [...tree.childrenOf(top)];
    while (open.length) {
      const node = open.pop();
      path.length = tree.depth[node] - tree.depth[top];
      path.push(tree.unit[node]);
      if (tree.self[node] > 0 || otherSelf?.[node] > 0) below.add(path, tree.self[node], otherSelf?.[node]);
      open.push(...tree.childrenOf(node));
    }
    return false;
  });
  return { callers, callees, above: above.finish(), below: below.finish() };
}
