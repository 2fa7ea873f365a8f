// What a reader should know first: who used the most, and which lines; how sure that is; and how it was measured.

const HOTTEST = 8;
// Of fewer samples a share can be off by more than ten points.
const FEW = 100;

// The lines of the program's own code with the most, and the functions of others; `report/hottest.rs` has the same.
function hottest(data, sums) {
  const own = [];
  const others = new Map();
  for (let frame = 0; frame < data.frames; frame += 1) {
    if (sums.ledTo[frame] <= 0) continue;
    const called = data.frameFunction[frame];
    const row = { frame, ledTo: sums.ledTo[frame], alone: sums.alone[frame], total: sums.total[frame] };
    if (data.functions.owner[called] === IS_OWN) {
      if (row.ledTo >= 0.005 * sums.whole) own.push(row);
      continue;
    }
    const known = others.get(called);
    // Shown at its hottest line.
    if (known && known.most >= row.ledTo) {
      known.ledTo += row.ledTo;
    } else {
      others.set(called, { ...row, most: row.ledTo, ledTo: row.ledTo + (known?.ledTo ?? 0) });
    }
  }
  const most = (rows) => rows.sort((a, b) => b.ledTo - a.ledTo || b.total - a.total || a.frame - b.frame).slice(0, HOTTEST);
  return { own: most(own), others: most([...others.values()]) };
}

function showHottest(page) {
  if (page.compare) {
    showChanges(page);
    return;
  }
  const { data, units } = page;
  const sums = page.lines();
  const { own, others } = hottest(data, sums);
  const list = (title, id, rows, columns) => {
    if (!rows.length) return [];
    const head = el('tr', {}, ...columns.map(([name]) => el('th', { scope: 'col' }, name)), el('th', { class: 'text', scope: 'col' }, title));
    const body = rows.map((row) => {
      const unit = units.lines + row.frame;
      const cells = columns.map(([, value]) => el('td', {}, bar(value(row) / sums.whole)));
      const link = el('button', { type: 'button', class: 'link', onclick: () => page.source(unit) }, ...named(units, unit));
      return el('tr', {}, ...cells, el('td', { class: 'text' }, link));
    });
    return [el('table', { id }, el('thead', {}, head), el('tbody', {}, ...body))];
  };
  replace(
    byId('hottest'),
    ...list('your code, line by line', 'own-lines', own, [['self', (row) => row.alone], ['with libs', (row) => row.ledTo]]),
    ...list(own.length ? 'libraries, at their hottest lines' : 'functions, at their hottest lines', 'library-lines', others, [
      ['self', (row) => row.ledTo],
    ]),
  );
}

// One sentence: who, and where.
function showAnswer(page) {
  if (page.compare) {
    showVerdict(page);
    return;
  }
  const { data, units, state } = page;
  const answer = byId('answer');
  if (data.findings) {
    showWorst(answer, data.findings);
    return;
  }
  const sums = page.lines();
  if (!(sums.whole > 0)) {
    answer.textContent = data.samples ? `There is no ${subject(data, page.type)} in what is chosen.` : 'No samples were taken.';
    return;
  }
  const strong = (text) => el('strong', {}, text);
  const parts = [];
  const what = subject(data, page.type);
  const programs = programSums(data, state.value);
  if (!state.wanted && programs.length > 1) {
    const [first] = programs;
    const text = first.processes > 1 ? `${first.name} (${first.processes} processes)` : data.processes.name[first.process];
    parts.push(strong(text), ` ${first.processes > 1 ? 'have' : 'has'} ${percent(first.value / sums.whole)} of the ${what}. `);
  }
  const { own, others } = hottest(data, sums);
  if (COUNTS_CALLS.includes(page.type.kind)) {
    const [most] = [...own, ...others].sort((a, b) => b.alone - a.alone);
    // Those of a function of which none has a share worth telling are in the table.
    if (most) {
      const calls = amount(most.alone, page.type);
      parts.push('Most calls are of ', strong(units.label(units.lines + most.frame)), `: ${calls}, ${percent(most.alone / sums.whole)} of all.`);
    }
    replace(answer, ...parts);
    return;
  }
  const row = own[0] ?? others[0];
  const word = page.type.unit === 'nanoseconds' || page.type.kind === 'samples' ? 'hottest' : 'heaviest';
  if (row) {
    const label = units.label(units.lines + row.frame);
    const ledTo = percent(row.ledTo / sums.whole);
    const waits = ['wait', 'waits'].includes(page.type.kind);
    const [line, called] = waits
      ? ['The line of your code that waited most is ', 'The function that waited most is ']
      : [`The ${word} line of your code is `, `The ${word} function is `];
    parts.push(own.length ? line : called, strong(label), ` with ${ledTo} of the ${what}`);
    const alone = row.alone / sums.whole;
    const calls = own.length && row.ledTo - row.alone > 0.005 * sums.whole;
    parts.push(calls ? `: ${percent(alone)} in itself, the rest in libraries that it calls.` : '.');
  }
  replace(answer, ...parts);
}

// Values that are estimated otherwise than by samples of a clock; a recording does not keep how well.
const ESTIMATES = ['wait', 'waits', 'wall', 'inuse_space', 'inuse_objects', 'alloc_space', 'alloc_objects', 'peak_space', 'temporary_space', 'estimated calls', 'calls at least'];

// Each is of a function, and not of what that calls.
const COUNTS_CALLS = ['calls', 'estimated calls', 'calls at least'];

function showCaution(page) {
  byId('estimates').hidden = !ESTIMATES.includes(page.type.kind);
  const samples = page.sampled;
  const caution = byId('caution');
  caution.hidden = !(samples > 0 && samples < FEW);
  // Where it is widest, at one half; `summary.rs` has the same.
  const points = Math.min(100, Math.round(98 / Math.sqrt(samples || 1)));
  caution.textContent = `Only ${count(samples)} sample${samples === 1 ? '' : 's'}: shares are ± ${points} % at most. Record longer, or at a higher rate.`;
}

function showLegend(page) {
  const { data, units } = page;
  const tree = page.drawn();
  const kinds = new Set();
  const packages = new Map();
  for (let node = 1; node < tree.count; node += 1) {
    kinds.add(units.kind(tree.unit[node]));
    const name = units.package(tree.unit[node]);
    packages.set(name, (packages.get(name) ?? 0) + tree.self[node]);
  }
  const item = (background, text) => {
    const square = el('span', { class: 'square' });
    square.style.background = background;
    return el('span', { class: 'item' }, square, text);
  };
  const isMemory = page.type.unit === 'bytes' || data.causes.length > 0;
  const compared = page.compare && page.state.colour === 'difference';
  const items = compared ? changeLegend(item, page) : page.state.colour === 'package'
    ? [...packages].sort((a, b) => b[1] - a[1]).slice(0, 10).filter(([name]) => name && name !== 'none').map(([name]) => item(colourOfPackage(name), name))
    : [...kinds].sort().map((kind) => item(colourOf(kind, 0), kind === MARKER && isMemory ? 'not code' : KINDS[kind]));
  if (tree.deepest >= MOST_ROWS) items.push(`${count(tree.deepest)} frames deep: zoom in to see those below row ${MOST_ROWS}`);
  replace(byId('legend'), ...items);
}

function showAbout(page) {
  const { data } = page;
  const rows = [];
  const row = (name, text) => rows.push(el('tr', {}, el('th', { class: 'text', scope: 'row' }, name), el('td', { class: 'text' }, text)));
  if (data.started_at > 0) row('recorded', new Date(data.started_at).toLocaleString());
  if (data.duration > 0) row('length', duration(data.duration * 1e9));
  data.values.forEach((type, at) => {
    row(type.kind, amount(data.wholeValues[at].reduce((sum, value) => sum + value, 0), type));
  });
  row('time', data.slices
    ? data.births
      ? `of what is in use it is known to ${duration(data.slice * 1e9)} when it was allocated; of nothing else`
      : `when samples were is known to ${duration(data.slice * 1e9)}`
    : 'the recording does not say when its samples were, so there is no timeline');
  row('stacks', `${count(data.samples)} by thread, ${count(data.nodes)} nodes, ${count(data.functions.name.length)} functions`);
  const { compare } = page;
  const said = compare ? compare.comments.flatMap((lines, side) => lines.map((line) => `${['before', 'after'][side]}: ${line}`)) : data.comments;
  const notes = said.map((line) => el('li', {}, line));
  replace(
    byId('view-about'),
    el('h2', {}, 'What was measured'),
    el('table', { class: 'facts' }, el('tbody', {}, ...rows)),
    el('h2', {}, 'How, and at what cost'),
    notes.length ? el('ul', { id: 'notes' }, ...notes) : el('p', { class: 'quiet' }, 'the recording does not say'),
    el('h2', {}, 'Keys'),
    el('ul', {},
      el('li', {}, '1 to 9: views; /: search; Escape: the whole'),
      el('li', {}, 'in a flame graph: arrows move, Enter zooms, Backspace goes back a caller, + and − magnify'),
      el('li', {}, 'in the timeline: arrows choose a time, with Shift they make it longer, Page up and Page down go ten steps, Escape takes all of it'),
      el('li', {}, 'with the pointer: click zooms, Ctrl and wheel magnify, Shift and wheel move')),
  );
}
