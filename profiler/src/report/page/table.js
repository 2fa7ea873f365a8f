// Tables: every function, line, file or package with what it did itself and in all.

const MOST_TABLE_ROWS = 300;

// A table with rows that can be sorted by their columns. `columns`: title, number of a row or its text, how it is
// shown. `pick` is called with the row that is clicked or entered.
class Table {
  constructor(parent, { columns, sort, pick, empty = 'nothing to show' }) {
    Object.assign(this, { parent, columns, pick, empty });
    this.sort = { column: sort, up: false };
    this.rows = [];
  }

  show(rows) {
    this.rows = rows;
    this.render();
  }

  sortBy(column) {
    const same = this.sort.column === column;
    this.sort = { column, up: same ? !this.sort.up : Boolean(this.columns[column].isText) };
    this.render();
  }

  render() {
    // Without one, rows are in the order in which they came.
    const key = this.columns[this.sort.column]?.key ?? (() => 0);
    const sign = this.sort.up ? 1 : -1;
    const sorted = this.rows.toSorted((a, b) => {
      const [one, other] = [key(a), key(b)];
      return sign * (typeof one === 'string' ? one.localeCompare(other) : one - other);
    });
    const head = el('tr', {}, ...this.columns.map((column, at) => this.heading(column, at)));
    const body = sorted.slice(0, MOST_TABLE_ROWS).map((row) => this.row(row));
    const parts = [el('table', {}, el('thead', {}, head), el('tbody', {}, ...body))];
    if (!sorted.length) parts.push(el('p', { class: 'quiet' }, this.empty));
    const more = sorted.length - MOST_TABLE_ROWS;
    if (more > 0) parts.push(el('p', { class: 'quiet' }, `and ${count(more)} more: filter them`));
    replace(this.parent, ...parts);
  }

  heading(column, at) {
    const sorted = this.sort.column === at;
    const button = el('button', { type: 'button', onclick: () => this.sortBy(at) }, column.title);
    const order = { 'aria-sort': sorted ? (this.sort.up ? 'ascending' : 'descending') : 'none' };
    return el('th', { class: column.isText ? 'text' : '', scope: 'col', ...order }, button);
  }

  row(row) {
    const cells = this.columns.map((column) => {
      const cell = el('td', { class: column.isText ? 'text' : '' }, ...[column.show(row)].flat());
      if (column.hint) cell.title = column.hint(row);
      return cell;
    });
    const line = el('tr', { tabIndex: this.pick ? 0 : -1 }, ...cells);
    if (this.pick) {
      line.addEventListener('click', () => this.pick(row));
      line.addEventListener('keydown', (event) => event.key === 'Enter' && this.pick(row));
    }
    return line;
  }
}

// A share as a number over a bar.
function bar(share, text = percent(share)) {
  const filled = el('span', { class: 'fill' });
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el('span', { class: 'share' }, filled, el('span', {}, text));
}

// Name and place, and what kind it is by a square of its colour.
function named(units, unit) {
  const square = el('span', { class: 'square', title: KINDS[units.kind(unit)] });
  square.style.background = colourOf(units.kind(unit), 0);
  const parts = [square, el('span', { class: 'name' }, ...breakable(units.name(unit), '.'))];
  const place = units.place(unit);
  if (place) parts.push(' ', el('span', { class: 'place' }, ...breakable(place, '/')));
  return parts;
}

// Lines may break where a name has a joint.
function breakable(text, joint) {
  return text.split(joint).flatMap((part, at) => (at ? [joint, el('wbr'), part] : [part]));
}

class TableView {
  constructor(page) {
    this.page = page;
    this.filter = el('input', { type: 'search', placeholder: 'Filter', 'aria-label': 'Filter rows' });
    this.filter.addEventListener('input', () => this.show());
    this.place = el('div', { class: 'scroll' });
    const { units } = page;
    const value = (name) => ({
      key: (row) => row[name],
      show: (row) => bar(row[name] / page.whole || 0),
      hint: (row) => page.told(row[name]),
    });
    const { compare } = page;
    const numbers = compare
      ? [
        ...compare.columns(),
        {
          title: '95 %, from – to',
          key: (row) => row.known?.total.least ?? 0,
          show: (row) => (row.known ? [compare.interval(row.known.total)] : [el('span', { class: 'quiet' }, row.isWhole ? 'not looked at' : '')]),
        },
        {
          title: 'self',
          key: (row) => Math.abs(row.own[1] - row.own[0]),
          show: (row) => changeCell(compare, row.own[1] - row.own[0], compare.isCertain(row.own, row.known?.own, row.isWhole), Boolean(row.known?.own.stands)),
          hint: (row) => compare.told(row.own),
        },
      ]
      : [{ title: 'self', ...value('self') }, { title: 'total', ...value('total') }];
    this.table = new Table(this.place, {
      columns: [
        ...numbers,
        { title: 'where', isText: true, key: (row) => units.label(row.unit), show: (row) => named(units, row.unit) },
      ],
      sort: compare ? 2 : 0,
      pick: (row) => page.callers(row.unit),
    });
    replace(byId('view-table'), el('p', { class: 'bar' }, this.filter), this.place);
  }

  show() {
    const { units } = this.page;
    const { self, total, other } = this.page.sums();
    const { compare } = this.page;
    const text = this.filter.value.toLowerCase();
    const rows = [];
    for (let unit = 0; unit < units.processes; unit += 1) {
      if ((total[unit] <= 0 && !(other?.total[unit] > 0)) || (text && !units.label(unit).toLowerCase().includes(text))) continue;
      const row = { unit, self: self[unit], total: total[unit] };
      if (compare) {
        row.pair = this.page.pair(total[unit], other.total[unit]);
        row.own = this.page.pair(self[unit], other.self[unit]);
        // Of a thread alone nothing was worked out.
        row.isWhole = !this.page.state.wanted && compare.by === this.page.state.by;
        row.known = row.isWhole ? compare.known.get(unit) : undefined;
      }
      rows.push(row);
    }
    this.table.show(rows);
  }
}
