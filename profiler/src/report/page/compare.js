// Pages of a difference (`profiler diff -o x.html`): what was before and what came after, beside each other.
//
// The sentence, the rows with intervals and the method come with the page (page/compare.rs). Here numbers are added up for
// boxes and tables, in the measure of the comparison, and boxes get their colours.

// An interval of 95 % around a number with a normal error.
const WIDTH_95 = 1.96;

// As many digits as one reads; `verdict.rs` has the same.
function digits(number) {
  const size = Math.abs(number);
  if (size === 0) return '0.0';
  if (size >= 1000) return number.toFixed(0);
  return number.toFixed(size >= 0.95 ? 1 : 2);
}

class Comparison {
  constructor(data, units) {
    Object.assign(this, data.compare);
    this.data = data;
    this.known = new Map();
    const first = { function: 0, file: units.files, package: units.packages }[this.by];
    for (const row of [...this.lists, ...this.rows]) row.number = row.unit === null ? -1 : first + row.unit;
    for (const row of this.rows) if (row.number >= 0) this.known.set(row.number, row);
    this.first = this.lists.find((row) => row.change !== 'none' && row.number >= 0)?.number ?? -1;
    [this.more, this.less] = this.words;
  }

  // Before and after, of a value of the side that is shown and one of the other.
  pair(shown, value, other) {
    const [before, after] = shown === 1 ? [other, value] : [value, other];
    return [before * this.factors[0], after * this.factors[1]];
  }

  // Half the interval around the difference, for being made of samples; NaN if that is not known.
  error(pair) {
    if (!this.sampling) return NaN;
    const { periods, inflation, noise } = this.sampling;
    const variance = pair.map((number, side) => {
      const one = periods[side] * this.factors[side];
      return inflation * Math.abs(number) * one + (noise * number) ** 2;
    });
    return WIDTH_95 * Math.sqrt(variance[0] + variance[1]);
  }

  // How much it differs at least; all of it where nothing says how exact it is.
  least(pair) {
    const change = pair[1] - pair[0];
    const error = this.error(pair);
    if (Number.isNaN(error)) return change;
    return Math.sign(change) * Math.max(0, Math.abs(change) - error);
  }

  // The part of it that is new or gone at least: -1 to 1.
  part(pair) {
    const size = Math.max(pair[0], pair[1]);
    return size > 0 ? this.least(pair) / size : 0;
  }

  number(value) {
    return this.bytes ? bytes(value) : digits(value);
  }

  signed(value) {
    const sign = value > 0 ? '+' : value < 0 ? '-' : '';
    return `${sign}${this.number(Math.abs(value))}`;
  }

  unitWord() {
    return this.bytes ? this.unit.slice('bytes'.length) : ` ${this.unit}`;
  }

  // `12.3 before, 16.1 after: +3.8 points (± 0.9)`.
  told(pair) {
    const change = pair[1] - pair[0];
    const error = this.error(pair);
    const sure = Number.isNaN(error) || pair[0] + pair[1] === 0 ? '' : ` (± ${this.number(error)}${Math.abs(change) <= error ? ', no certain difference' : ''})`;
    return `${this.number(pair[0])} before, ${this.number(pair[1])} after: ${this.signed(change)}${this.unitWord()}${sure}`;
  }

  // Of a row that `diff` has looked at, what that says of it, as rows are many. Of what is a part of one, such as the calls
  // from one function, its samples.
  isCertain(pair, known, isWhole) {
    return known || isWhole ? Boolean(known?.stands) : this.least(pair) !== 0;
  }

  // What a box says before its name: nothing if it may be as it was.
  mark(pair) {
    const least = this.least(pair);
    return least === 0 ? '' : `${this.signed(pair[1] - pair[0])} `;
  }

  interval(numbers) {
    return numbers.least === null ? 'not known' : `${this.signed(numbers.least)} – ${this.signed(numbers.most)}`;
  }

  // Columns of numbers for rows that have a `pair`, and perhaps what `diff` says of them (`row.known`).
  columns() {
    const number = (title, key) => ({ title, key, show: (row) => [this.number(key(row))] });
    return [
      number('before', (row) => row.pair[0]),
      number('after', (row) => row.pair[1]),
      {
        title: 'difference',
        key: (row) => Math.abs(row.pair[1] - row.pair[0]),
        show: (row) => changeCell(this, row.pair[1] - row.pair[0], this.isCertain(row.pair, row.known?.total, row.isWhole), Boolean(row.known?.total.stands)),
        hint: (row) => this.told(row.pair),
      },
    ];
  }
}

// A number with its sign, a square of its colour, and in bold if it stands among all that were looked at.
function changeCell(compare, change, certain, stands = certain) {
  const square = el('span', { class: 'square' });
  square.style.background = colourOfChange(certain ? Math.sign(change) * 0.5 : 0);
  return [square, el(stands ? 'strong' : 'span', { class: certain ? '' : 'quiet' }, compare.signed(change))];
}

// From blue (gone) to red (new); what may be as it was has neither. Small changes are to be seen, so the root of it.
function colourOfChange(part) {
  const dark = isDark();
  const strength = Math.sqrt(Math.min(1, Math.abs(part)));
  const between = (from, to) => from + (to - from) * strength;
  if (strength === 0) return dark ? 'hsl(60 2% 27%)' : 'hsl(60 8% 88%)';
  const hue = part > 0 ? 10 : 214;
  return dark ? `hsl(${hue} ${between(12, 68)}% ${between(27, 41)}%)` : `hsl(${hue} ${between(35, 88)}% ${between(88, 66)}%)`;
}

function changeLegend(item, page) {
  const steps = [[1, 'new'], [0.5, 'half of it is new'], [0.1, 'a tenth is'], [0, 'may be as it was'], [-0.1, 'a tenth is gone'], [-0.5, 'half is'], [-1, 'gone']];
  const why = page.compare.sampling
    ? 'Colours: the part of a box that is new or gone at least, by its samples (95 % each; boxes are many, so a few are false).'
    : 'Colours: the part of a box that is new or gone. Nothing says how exact that is.';
  return [...steps.map(([part, text]) => item(colourOfChange(part), text)), why];
}

// The verdict, and what conditions came to.
function showVerdict(page) {
  const { compare, state } = page;
  const parts = [el('strong', {}, compare.verdict)];
  if (state.wanted) parts.push(' (of all; below is what was chosen)');
  for (const text of compare.conditions) parts.push(el('br'), text);
  replace(byId('answer'), ...parts);
}

const CHANGES = [['more', (compare) => compare.more], ['new', () => 'new'], ['less', (compare) => compare.less], ['gone', () => 'gone']];
// What became more, is new, became less, is gone: title and rows; or the largest rows, if nothing did.
function changeLists(compare) {
  const lists = CHANGES
    .map(([change, title]) => [title(compare), compare.lists.filter((row) => row.change === change)])
    .filter(([, rows]) => rows.length);
  if (lists.length || !compare.lists.length) return lists;
  const title = compare.lists[0].total.least === null ? 'largest' : 'largest; none of all differs for certain';
  return [[title, compare.lists]];
}

// Beside the flame graph: what differs.
function showChanges(page) {
  const { compare, units } = page;
  const tables = changeLists(compare).map(([title, rows], at) => {
    const head = el('tr', {}, ...['difference', title].map((name, column) => el('th', { scope: 'col', class: column ? 'text' : '' }, name)));
    const body = rows.slice(0, HOTTEST).map((row) => {
      // With what it called, unless only itself differs.
      const told = row.own.stands && !row.total.stands ? row.own : row.total;
      const change = changeCell(compare, told.after - told.before, told.stands);
      if (told === row.own) change.push(el('span', { class: 'quiet' }, ' self'));
      const name = row.number < 0 ? [row.name] : named(units, row.number);
      const where = row.number < 0 ? name : [el('button', { type: 'button', class: 'link', onclick: () => page.callers(row.number) }, ...name)];
      return el('tr', {}, el('td', { title: `95 %: ${compare.interval(told)}` }, ...change), el('td', { class: 'text' }, ...where));
    });
    return el('table', { id: `changes-${at}` }, el('thead', {}, head), el('tbody', {}, ...body));
  });
  replace(byId('hottest'), ...tables);
}

class DifferenceView {
  constructor(page) {
    this.page = page;
  }

  show() {
    const { page } = this;
    const { compare } = page;
    const parts = [];
    if (compare.total) parts.push(this.table('in-all', [{ name: `in all${compare.bytes ? '' : `, ${compare.unit}`}`, number: -1, total: compare.total }], 'in all', false));
    changeLists(compare).forEach(([title, rows], at) => parts.push(this.table(`list-${at}`, rows, title, true)));
    const notes = compare.notes.map((line) => el('li', {}, line));
    replace(
      byId('view-difference'),
      ...parts,
      el('h2', {}, 'How this came about'),
      el('ul', { id: 'method' }, ...notes),
    );
  }

  table(id, rows, title, isList) {
    const { compare, units } = this.page;
    const place = el('div', { id, class: 'scroll' });
    const number = (name, key) => ({ title: name, key, show: (row) => [compare.number(key(row))] });
    const change = (name, of) => ({
      title: name,
      key: (row) => of(row).after - of(row).before,
      show: (row) => changeCell(compare, of(row).after - of(row).before, of(row).stands),
      hint: (row) => `95 %: ${compare.interval(of(row))}`,
    });
    const table = new Table(place, {
      columns: [
        number('before', (row) => row.total.before),
        number('after', (row) => row.total.after),
        change('difference', (row) => row.total),
        { title: '95 %, from – to', key: (row) => row.total.least ?? 0, show: (row) => [compare.interval(row.total)] },
        ...(isList ? [change('self', (row) => row.own)] : []),
        { title, isText: true, key: (row) => row.name, show: (row) => (row.number < 0 ? [row.name] : named(units, row.number)) },
      ],
      // As they come: the largest difference first.
      sort: -1,
      pick: isList ? (row) => row.number >= 0 && this.page.callers(row.number) : undefined,
    });
    table.show(rows);
    return place;
  }
}
