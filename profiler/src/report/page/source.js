// Files line by line: what ran in each, in Python itself, in machine code that it called and in the kernel.

// Lines of source around one that has numbers, where the source is there.
const AROUND = 3;

class SourceView {
  constructor(page) {
    this.page = page;
    this.file = -1;
    this.marked = 0;
    this.choice = el('select', { id: 'source-file', 'aria-label': 'File' });
    this.choice.addEventListener('change', () => {
      this.file = Number(this.choice.value);
      this.marked = 0;
      this.show();
    });
    this.note = el('p', { class: 'quiet' });
    this.place = el('div', { class: 'scroll' });
    replace(byId('view-source'), el('p', { class: 'bar' }, this.choice), this.note, this.place);
  }

  // Shows a file, at a line.
  open(file, line) {
    this.file = file;
    this.marked = line;
    this.show();
    byId('marked-line')?.scrollIntoView({ block: 'center' });
  }

  show() {
    const { data, compare } = this.page;
    const sums = this.page.lines();
    // Of a difference, what is only on the other side has lines as well.
    const files = this.files(compare ? this.page.sides() : [sums]);
    if (!files.some(([file]) => file === this.file)) {
      const first = this.page.hottestLine();
      this.file = first < 0 ? files[0]?.[0] ?? -1 : this.page.units.file(first);
    }
    const options = files.map(([file, self]) => {
      const text = compare ? data.files.short[file] : `${data.files.short[file]}  ${percent(self / sums.whole)}`;
      return el('option', { value: file, selected: file === this.file }, text);
    });
    replace(this.choice, ...options);
    if (this.file < 0) {
      replace(this.place, el('p', { class: 'quiet' }, 'no line of Python has a sample'));
      return;
    }
    if (compare) {
      this.showSides();
      return;
    }
    const text = data.files.source[this.file];
    this.note.textContent = text === undefined
      ? `${data.files.path[this.file]}: its text is not in this page, lines are told by their numbers`
      : data.files.path[this.file];
    replace(this.place, this.table(sums, this.linesOf(sums), text?.split('\n')));
  }

  // Lines with what they have before and after. Those of before stand where they are after (diff/beside.rs); what after has
  // not, has the number that it had before.
  showSides() {
    const { page } = this;
    const sides = page.sides();
    const { factors, by } = page.compare;
    const rows = [false, true].flatMap((isGone) => {
      const [before, after] = sides.map((sums) => this.linesOf(sums, (frame) => page.data.frameIsOld[frame] === Number(isGone)));
      return [...new Set([...before.keys(), ...after.keys()])].map((line) => {
        const of = (side) => side.get(line)?.total ?? 0;
        const names = new Set([...(before.get(line)?.names ?? []), ...(after.get(line)?.names ?? [])]);
        return { line, isGone, pair: [of(before) * factors[0], of(after) * factors[1]], names: [...names].join(', ') };
      });
    }).sort((a, b) => a.line - b.line);
    const { path, source, source_before: old } = page.data.files;
    const now = source[this.file]?.split('\n');
    const was = old[this.file]?.split('\n') ?? now;
    // With text, lines are where the same words are.
    const isGuess = by !== 'line' && !now;
    const moved = isGuess ? ' Lines of before have moved as far as their function; what was changed inside it does not match.' : '';
    this.note.textContent = `${path[this.file]}: with what lines call.${moved}`;
    const told = (row) => {
      const text = row.line ? (row.isGone ? was : now)?.[row.line - 1] : undefined;
      return text === undefined ? el('span', { class: 'name' }, row.names) : el('span', { class: 'code' }, text);
    };
    const table = new Table(this.place, {
      columns: [
        ...page.compare.columns(),
        {
          title: now ? 'line, source' : 'line, function',
          isText: true,
          key: (row) => row.line,
          show: (row) => [`${row.line || '?'}${row.isGone ? ' before' : ''} `, told(row)],
          hint: (row) => row.names,
        },
      ],
      // In the order of the file.
      sort: -1,
    });
    table.show(rows);
  }

  // Files of Python with what ran in their lines, the program's own first.
  files(sides) {
    const { data } = this.page;
    const self = new Map();
    const own = new Set();
    for (let frame = 0; frame < data.frames; frame += 1) {
      if (!sides.some((sums) => sums.total[frame] > 0)) continue;
      const called = data.frameFunction[frame];
      if (data.functions.kind[called] !== PYTHON) continue;
      const ran = sides.reduce((all, sums) => all + PARTS.reduce((sum, _, part) => sum + sums.self[part][frame], 0), 0);
      const file = data.functions.file[called];
      if (data.functions.owner[called] === IS_OWN) own.add(file);
      self.set(file, (self.get(file) ?? 0) + ran);
    }
    return [...self].sort((a, b) => Number(own.has(b[0])) - Number(own.has(a[0])) || b[1] - a[1]);
  }

  // By number, what the lines of the file come to.
  linesOf(sums, isWanted = () => true) {
    const { data } = this.page;
    const lines = new Map();
    for (let frame = 0; frame < data.frames; frame += 1) {
      const called = data.frameFunction[frame];
      if (data.functions.file[called] !== this.file || sums.total[frame] <= 0 || !isWanted(frame)) continue;
      const number = data.frameLine[frame];
      const line = lines.get(number) ?? { total: 0, parts: PARTS.map(() => 0), names: [] };
      line.total += sums.total[frame];
      PARTS.forEach((_, part) => {
        line.parts[part] += sums.self[part][frame];
      });
      if (!line.names.includes(data.functions.name[called])) line.names.push(data.functions.name[called]);
      lines.set(number, line);
    }
    return lines;
  }

  table(sums, lines, text) {
    const numbers = [...lines.keys()].sort((a, b) => a - b);
    const parts = PARTS.map((_, part) => part).filter((part) => numbers.some((line) => lines.get(line).parts[part] > 0));
    const head = ['self', ...parts.map((part) => PARTS[part]), 'total', 'line', text ? 'source' : 'function'];
    const body = [];
    const row = (number) => {
      const line = lines.get(number);
      const shown = (value) => (line && value > 0 ? percent(value / sums.whole) : '');
      const self = line ? line.parts.reduce((sum, part) => sum + part, 0) : 0;
      const code = text ? text[number - 1] ?? '' : line.names.join(', ');
      const cells = [
        el('td', {}, line && self > 0 ? bar(self / sums.whole) : ''),
        ...parts.map((part) => el('td', {}, shown(line?.parts[part]))),
        el('td', {}, line ? bar(line.total / sums.whole) : ''),
        el('td', { class: 'quiet' }, number ? String(number) : '?'),
        el('td', { class: 'text code' }, code),
      ];
      const marks = number === this.marked ? { id: 'marked-line' } : {};
      body.push(el('tr', marks, ...cells));
    };
    let before = 0;
    for (const number of numbers) {
      if (text) {
        const from = Math.max(before + 1, number - AROUND);
        if (before && from > before + 1) body.push(el('tr', { class: 'gap' }, el('td', { colSpan: head.length }, '⋯')));
        for (let line = from; line < number; line += 1) row(line);
      }
      row(number);
      before = number;
      if (!text) continue;
      const next = numbers[numbers.indexOf(number) + 1] ?? Infinity;
      for (let line = number + 1; line <= Math.min(number + AROUND, next - 1, text.length); line += 1) {
        row(line);
        before = line;
      }
    }
    const titles = head.map((title, at) => el('th', { class: at === head.length - 1 ? 'text' : '', scope: 'col' }, title));
    return el('table', { class: 'source' }, el('thead', {}, el('tr', {}, ...titles)), el('tbody', {}, ...body));
  }
}
