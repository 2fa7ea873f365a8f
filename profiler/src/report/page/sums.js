// What functions, lines and threads come to.

// Of each unit of a tree from the roots: its own, and with what it calls, once per stack.
function unitSums(tree, units) {
  const self = new Float64Array(units.count);
  const total = new Float64Array(units.count);
  const other = tree.other && { self: new Float64Array(units.count), total: new Float64Array(units.count) };
  const open = new Int32Array(units.count);
  walk(tree, (node) => {
    const unit = tree.unit[node];
    self[unit] += tree.self[node];
    if (open[unit] === 0) total[unit] += tree.total[node];
    if (other) {
      other.self[unit] += tree.otherSelf[node];
      if (open[unit] === 0) other.total[unit] += tree.other[node];
    }
    open[unit] += 1;
  }, (node) => {
    open[tree.unit[node]] -= 1;
  });
  return { self, total, other };
}

// All nodes but the whole, each before and after what is below it.
function walk(tree, enter, leave) {
  const stack = [...tree.childrenOf(0)].reverse();
  while (stack.length) {
    const node = stack.pop();
    if (node < 0) {
      leave(-node);
      continue;
    }
    if (enter(node) === false) continue;
    if (leave) stack.push(-node);
    for (let at = tree.childStart[node + 1] - 1; at >= tree.childStart[node]; at -= 1) stack.push(tree.children[at]);
  }
}

const PARTS = ['Python', 'native', 'kernel', 'waiting', 'unknown'];

// Of each frame of the recording, whatever is shown: lines of Python by who ran in them, and what they are responsible
// for (`report/owner.rs`: the program's own innermost line; without one, the best there is).
function lineSums(data, state) {
  const { functions, frameFunction, nodeParent, nodeFrame, nodeDepth } = data;
  const nodes = nodeParent.length;
  const own = new Float64Array(nodes);
  const values = data.sampleValues[state.value];
  let whole = 0;
  for (let sample = 0; sample < data.samples; sample += 1) {
    if (values[sample] <= 0 || (state.wanted && !state.wanted[sample])) continue;
    own[data.sampleNode[sample]] += values[sample];
    whole += values[sample];
  }
  const below = Float64Array.from(own);
  for (let node = nodes - 1; node > 0; node -= 1) below[nodeParent[node]] += below[node];

  const sums = {
    whole,
    total: new Float64Array(data.frames),
    self: PARTS.map(() => new Float64Array(data.frames)),
    ledTo: new Float64Array(data.frames),
    alone: new Float64Array(data.frames),
    causes: data.causes.map(() => new Map()),
  };
  const python = new Int32Array(nodes).fill(-1);
  const owner = new Int32Array(nodes).fill(-1);
  const library = new Int32Array(nodes).fill(-1);
  const open = new Int32Array(data.frames);
  const path = [];
  const interpreter = data.packages.indexOf('cpython');
  for (let node = 1; node < nodes; node += 1) {
    while (path.length >= nodeDepth[node]) open[path.pop()] -= 1;
    const frame = nodeFrame[node];
    const called = frameFunction[frame];
    const parent = nodeParent[node];
    path.push(frame);
    if (open[frame] === 0) sums.total[frame] += below[node];
    open[frame] += 1;
    python[node] = functions.kind[called] === PYTHON ? frame : python[parent];
    const role = functions.owner[called];
    const best = owner[parent];
    owner[node] = best < 0 || role <= functions.owner[frameFunction[best]] ? frame : best;
    library[node] = role === IS_LIBRARY ? frame : role === IS_OWN ? -1 : library[parent];
    if (own[node] === 0) continue;
    const kind = functions.kind[called];
    const cause = functions.cause[called];
    let part = kind === MARKER ? (cause ? 3 : 4) : kind;
    if (kind === NATIVE && functions.package[called] === interpreter) part = PYTHON;
    if (python[node] >= 0) sums.self[part][python[node]] += own[node];
    sums.ledTo[owner[node]] += own[node];
    const isOwn = functions.owner[frameFunction[owner[node]]] === IS_OWN;
    if (!isOwn || library[node] < 0) sums.alone[owner[node]] += own[node];
    if (isOwn && library[node] >= 0) {
      sums.ledTo[library[node]] += own[node];
      sums.alone[library[node]] += own[node];
    }
    if (cause) addCause(sums.causes[cause - 1], called, owner[parent] < 0 ? owner[node] : owner[parent], own[node]);
  }
  return sums;
}

function addCause(rows, marker, line, value) {
  const key = `${marker} ${line}`;
  const row = rows.get(key) ?? { marker, line, value: 0 };
  row.value += value;
  rows.set(key, row);
}

// By thread, for whatever is chosen of them.
function threadSums(data, value) {
  const sums = new Float64Array(data.threads.name.length);
  data.sampleValues[value].forEach((number, sample) => {
    if (number > 0) sums[data.sampleThread[sample]] += number;
  });
  return sums;
}

// By task of asyncio, for whatever is chosen of them.
function taskSums(data, value) {
  const sums = new Float64Array(data.tasks.length);
  data.sampleValues[value].forEach((number, sample) => {
    if (number > 0) sums[data.sampleTask[sample]] += number;
  });
  return sums;
}

// By program, whichever of its processes it was, the most first. What belongs to no process is none's.
function programSums(data, value) {
  const threads = threadSums(data, value);
  const programs = new Map();
  const seen = new Set();
  threads.forEach((sum, thread) => {
    const process = data.threads.process[thread];
    const name = data.processes.program[process];
    if (!name || sum <= 0) return;
    const program = programs.get(name) ?? { name, process, processes: 0, value: 0 };
    program.value += sum;
    if (!seen.has(process)) program.processes += 1;
    seen.add(process);
    programs.set(name, program);
  });
  return [...programs.values()].sort((a, b) => b.value - a.value);
}

// How many samples of a clock there are of the chosen threads; 0 where shares are not those of samples.
function sampleCount(data, state) {
  const clock = data.values.findIndex((type) => type.kind === 'samples' && type.unit === 'count');
  if (clock < 0 || !['samples', 'cpu'].includes(data.values[state.value].kind)) return 0;
  let sum = 0;
  data.sampleValues[clock].forEach((number, sample) => {
    if (!state.wanted || state.wanted[sample]) sum += number;
  });
  return sum;
}
