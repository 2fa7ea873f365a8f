// From samples to the tree that is drawn: what of each stack is shown, and stacks that begin alike as one.

// report/machinery.rs, `Role`.
const [IS_PYTHON, IS_MACHINERY, IS_START, IS_UNNAMED, IS_BUILTIN] = [0, 1, 2, 3, 4];
// report/owner.rs, `Role`.
const [IS_OWN, IS_LIBRARY] = [0, 1];

// The frames of a stack that are shown, root first: `machinery.rs` has the same rule, and a test holds both together.
function pushShown(data, path, interpreter, shown) {
  const { machinery, kind } = data.functions;
  const called = data.frameFunction;
  let outermost = -1;
  let innermost = -1;
  if (interpreter > 0) {
    outermost = path.findIndex((frame) => machinery[called[frame]] === IS_PYTHON);
    innermost = path.findLastIndex((frame) => kind[called[frame]] <= NATIVE);
  }
  for (let at = 0; at < path.length; at += 1) {
    const frame = path[at];
    if (outermost >= 0) {
      const role = machinery[called[frame]];
      if (role === IS_MACHINERY) continue;
      if (interpreter > 1 && (role === IS_UNNAMED || role === IS_BUILTIN)) continue;
      if (role === IS_START && at <= outermost) continue;
      if (role === IS_UNNAMED && at !== innermost) continue;
      if (kind[called[frame]] === MARKER && shown[shown.length - 1] === frame) continue;
    }
    shown.push(frame);
  }
}

// What a frame is counted as.
function unitOf(data, units, by) {
  if (by === 'line') return (frame) => units.lines + frame;
  const called = data.frameFunction;
  if (by === 'file') return (frame) => units.files + data.functions.file[called[frame]];
  if (by === 'package') {
    return (frame) => units.packages + data.functions.package[called[frame]];
  }
  return (frame) => called[frame];
}

// Calls `each` with the units of every stack, root first, its value and that of the other side. The array is reused.
function eachStack(data, units, state, each) {
  const unit = unitOf(data, units, state.by);
  const merges = state.by === 'file' || state.by === 'package';
  const { owner } = data.functions;
  const path = [];
  const shown = [];
  const line = [];
  const position = new Map();
  let last = -1;
  const values = data.sampleValues[state.value];
  // Of a difference: what is only on the side that is not shown counts there.
  const others = data.compare ? data.sampleValues[1 - state.value] : null;
  for (let sample = 0; sample < data.samples; sample += 1) {
    const value = Math.max(values[sample], 0);
    const other = others ? Math.max(others[sample], 0) : 0;
    if ((value === 0 && other === 0) || (state.wanted && !state.wanted[sample])) continue;
    const leaf = data.sampleNode[sample];
    if (leaf !== last) {
      last = leaf;
      path.length = data.nodeDepth[leaf];
      for (let node = leaf; node; node = data.nodeParent[node]) path[data.nodeDepth[node] - 1] = data.nodeFrame[node];
      shown.length = 0;
      pushShown(data, path, state.interpreter, shown);
    }
    line.length = 0;
    if (state.roots & 1) line.push(units.processes + data.threads.process[data.sampleThread[sample]]);
    if (state.roots & 2) line.push(units.threads + data.sampleThread[sample]);
    for (const frame of shown) {
      const called = data.frameFunction[frame];
      const folds = state.libraries && owner[called] === IS_LIBRARY && !merges;
      const next = folds ? units.packages + data.functions.package[called] : unit(frame);
      if ((merges || folds) && line[line.length - 1] === next) continue;
      line.push(next);
    }
    if (state.recursion) mergeRecursion(line, position);
    each(line, value, other);
  }
}

// A function that calls itself, by way of others as well, is one.
function mergeRecursion(line, position) {
  position.clear();
  let length = 0;
  for (const unit of line) {
    const before = position.get(unit);
    if (before !== undefined && before < length && line[before] === unit) {
      length = before + 1;
    } else {
      line[length] = unit;
      position.set(unit, length);
      length += 1;
    }
  }
  line.length = length;
}

// Node 0 is the whole.
class Tree {
  // `compared`: it has the values of two sides, and widths are those of one.
  constructor(compared = false) {
    this.otherSelf = compared ? [0] : null;
    this.count = 1;
    this.parent = [-1];
    this.unit = [-1];
    this.self = [0];
    this.slots = new Int32Array(1 << 12);
    this.line = [];
    this.nodes = [0];
  }

  child(parent, unit) {
    if (this.count * 2 > this.slots.length) this.grow();
    const mask = this.slots.length - 1;
    let slot = Tree.slot(parent, unit) & mask;
    for (let node = this.slots[slot]; node; node = this.slots[slot]) {
      if (this.parent[node] === parent && this.unit[node] === unit) return node;
      slot = (slot + 1) & mask;
    }
    const node = this.count;
    this.count += 1;
    this.slots[slot] = node;
    this.parent.push(parent);
    this.unit.push(unit);
    this.self.push(0);
    this.otherSelf?.push(0);
    return node;
  }

  static slot(parent, unit) {
    const mixed = Math.imul(parent, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b);
    return mixed ^ (mixed >>> 15);
  }

  grow() {
    this.slots = new Int32Array(this.slots.length * 4);
    const mask = this.slots.length - 1;
    for (let node = 1; node < this.count; node += 1) {
      let slot = Tree.slot(this.parent[node], this.unit[node]) & mask;
      while (this.slots[slot]) slot = (slot + 1) & mask;
      this.slots[slot] = node;
    }
  }

  // Adds a stack, root first. Stacks come in order, so what it shares with the one before need not be looked up.
  add(line, value, other = 0) {
    let same = 0;
    while (same < line.length && line[same] === this.line[same]) same += 1;
    this.line.length = same;
    this.nodes.length = same + 1;
    for (let at = same; at < line.length; at += 1) {
      this.line.push(line[at]);
      this.nodes.push(this.child(this.nodes[at], line[at]));
    }
    this.self[this.nodes[line.length]] += value;
    if (this.otherSelf) this.otherSelf[this.nodes[line.length]] += other;
  }

  // Totals, depths, children from the heaviest on, and where each begins within the whole.
  finish() {
    this.parent = Int32Array.from(this.parent);
    this.unit = Int32Array.from(this.unit);
    this.self = Float64Array.from(this.self);
    const { count, parent } = this;
    this.total = Float64Array.from(this.self);
    this.other = this.otherSelf && Float64Array.from(this.otherSelf);
    this.depth = new Int32Array(count);
    this.childStart = new Int32Array(count + 1);
    for (let node = count - 1; node > 0; node -= 1) {
      this.total[parent[node]] += this.total[node];
      if (this.other) this.other[parent[node]] += this.other[node];
      this.childStart[parent[node] + 1] += 1;
    }
    for (let node = 0; node < count; node += 1) this.childStart[node + 1] += this.childStart[node];
    const filled = this.childStart.slice();
    this.children = new Int32Array(count);
    this.deepest = 0;
    for (let node = 1; node < count; node += 1) {
      this.depth[node] = this.depth[parent[node]] + 1;
      this.deepest = Math.max(this.deepest, this.depth[node]);
      this.children[filled[parent[node]]] = node;
      filled[parent[node]] += 1;
    }
    this.start = new Float64Array(count);
    for (let node = 0; node < count; node += 1) {
      const children = this.children.subarray(this.childStart[node], this.childStart[node + 1]);
      if (children.length > 1) children.sort((a, b) => this.total[b] - this.total[a] || this.unit[a] - this.unit[b]);
      let start = this.start[node];
      for (const child of children) {
        this.start[child] = start;
        start += this.total[child];
      }
    }
    this.slots = this.line = this.nodes = null;
    return this;
  }

  childrenOf(node) {
    return this.children.subarray(this.childStart[node], this.childStart[node + 1]);
  }
}

function buildTree(data, units, state, inverted = false) {
  const tree = new Tree(Boolean(data.compare));
  eachStack(data, units, state, (line, value, other) => tree.add(inverted ? line.toReversed() : line, value, other));
  return tree.finish();
}
