// Where it was: processes, threads and tasks; and of waits, what they were for.

// `grouping.rs` has the same.
const NO_TASK = '(no task)';

class ThreadsView {
  constructor(page) {
    this.page = page;
    const { data } = page;
    const share = (name) => ({
      key: (row) => row.value,
      show: (row) => bar(row.value / this.whole || 0),
      hint: (row) => amount(row.value, page.type),
      title: name,
    });
    const processes = el('div', { id: 'processes-table', class: 'scroll' });
    const threads = el('div', { id: 'threads-table', class: 'scroll' });
    const tasks = el('div', { id: 'tasks-table', class: 'scroll' });
    replace(
      byId('view-threads'),
      el('p', { class: 'quiet' }, 'Choose one, and all views are of it alone.'),
      el('h3', {}, 'Processes'), processes, el('h3', {}, 'Threads'), threads,
      ...(data.tasks.length ? [el('h3', {}, 'Tasks of asyncio'), el('p', { class: 'quiet' }, 'By the coroutine that the event loop runs.'), tasks] : []),
    );
    const pick = (row) => page.choose(row.whose);
    const { compare } = page;
    const numbers = compare ? compare.columns() : [share('of all')];
    const sort = compare ? 2 : 0;
    this.processes = new Table(processes, {
      columns: [...numbers, { title: 'process', isText: true, key: (row) => row.name, show: (row) => [row.name] }],
      sort,
      pick,
    });
    this.threads = new Table(threads, {
      columns: [
        ...numbers,
        { title: 'thread', isText: true, key: (row) => row.name, show: (row) => [row.name] },
        { title: 'process', isText: true, key: (row) => row.process, show: (row) => [el('span', { class: 'place' }, row.process)] },
      ],
      sort,
      pick,
    });
    this.tasks = new Table(tasks, {
      columns: [...numbers, { title: 'task', isText: true, key: (row) => row.name, show: (row) => [row.name] }],
      sort,
      pick,
    });
    this.data = data;
  }

  show() {
    const { data, page } = this;
    const { value } = page.state;
    const sums = threadSums(data, value);
    const others = page.compare ? threadSums(data, 1 - value) : sums;
    this.whole = sums.reduce((sum, value) => sum + value, 0);
    const processes = data.processes.name.map((name, at) => ({ name, value: 0, other: 0, whose: `p${at}` }));
    const threads = data.threads.name.map((name, at) => {
      const process = data.threads.process[at];
      processes[process].value += sums[at];
      processes[process].other += others[at];
      return { name, process: data.processes.name[process], value: sums[at], other: others[at], whose: `t${at}` };
    });
    const tasks = data.tasks.map((name, at) => ({ name, value: 0, other: 0, whose: `k${at}` }));
    if (tasks.length) {
      taskSums(data, value).forEach((sum, at) => { tasks[at].value = sum; });
      if (page.compare) taskSums(data, 1 - value).forEach((sum, at) => { tasks[at].other = sum; });
    }
    if (page.compare) {
      for (const row of [...processes, ...threads, ...tasks]) row.pair = page.pair(row.value, row.other);
    }
    this.processes.show(processes);
    this.threads.show(threads);
    this.tasks.show(tasks.filter((row) => row.value > 0 || row.other > 0));
  }
}

class WaitsView {
  constructor(page) {
    this.page = page;
    this.cause = -1;
    const { data, units, compare } = page;
    const share = { title: 'of all', key: (row) => row.value, show: (row) => bar(row.value / page.whole || 0), hint: (row) => page.told(row.value) };
    const numbers = compare ? compare.columns() : [share];
    const sort = compare ? 2 : 0;
    const causes = el('div', { id: 'causes-table' });
    const rows = el('div', { id: 'waits-table' });
    this.head = el('h3');
    replace(
      byId('view-waits'),
      el('p', { class: 'quiet' }, 'What threads waited for, and which line waited. Choose a cause to see its lines.'),
      causes, this.head, rows,
    );
    this.causes = new Table(causes, {
      columns: [...numbers, { title: 'cause', isText: true, key: (row) => row.name, show: (row) => [row.name] }],
      sort,
      pick: (row) => {
        this.cause = this.cause === row.cause ? -1 : row.cause;
        this.show();
      },
      empty: 'nothing waited',
    });
    const label = (frame) => units.label(units.lines + frame);
    this.rows = new Table(rows, {
      columns: [
        ...numbers,
        { title: 'for', isText: true, key: (row) => data.functions.name[row.marker], show: (row) => [data.functions.name[row.marker]] },
        { title: 'where', isText: true, key: (row) => label(row.line), show: (row) => named(units, units.lines + row.line) },
      ],
      sort,
      pick: (row) => page.callers(units.lines + row.line),
    });
  }

  show() {
    const { page } = this;
    const { data } = page;
    const { causes } = page.lines();
    const others = page.compare ? page.sides()[1 - page.state.value].causes : causes;
    const lists = causes.map((rows, cause) => this.lines(rows, others[cause]));
    const listed = lists.map((rows, cause) => this.paired({
      name: data.causes[cause],
      cause,
      value: rows.reduce((sum, row) => sum + row.value, 0),
      other: rows.reduce((sum, row) => sum + row.other, 0),
    }));
    this.causes.show(listed.filter((row) => row.value > 0 || row.other > 0));
    this.head.textContent = this.cause < 0 ? 'All causes' : data.causes[this.cause];
    this.rows.show(lists.flatMap((rows, cause) => (this.cause < 0 || this.cause === cause ? rows : [])));
  }

  // Lines that waited for a cause, with what they have on the other side of a difference.
  lines(rows, others) {
    const lines = new Map([...rows].map(([key, row]) => [key, { ...row, other: 0 }]));
    if (this.page.compare) {
      for (const [key, row] of others) {
        const line = lines.get(key) ?? { ...row, value: 0 };
        line.other = row.value;
        lines.set(key, line);
      }
    }
    return [...lines.values()].map((row) => this.paired(row));
  }

  paired(row) {
    return this.page.compare ? { ...row, pair: this.page.pair(row.value, row.other) } : row;
  }
}
