// The recording: unpacks what the profiler wrote (page/data.rs, page/encode.rs) into columns.

const KINDS = ['your Python', 'native', 'kernel', 'frames missing', 'process, thread', 'installed Python'];
const [PYTHON, NATIVE, KERNEL, MARKER, ROOT, INSTALLED] = [0, 1, 2, 3, 4, 5];

const OF_BEFORE = 1 << 30;

async function readData(text) {
  const binary = atob(text);
  const packed = new Uint8Array(binary.length);
  for (let at = 0; at < packed.length; at += 1) packed[at] = binary.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 0;
  const number = () => {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = bytes[at];
      at += 1;
      // A number of 64 bits loses its last ones, as numbers do here.
      value += (byte & 0x7f) * scale;
      if (!(byte & 0x80)) return value;
      scale *= 128;
    }
  };
  const column = (length) => {
    const numbers = new Int32Array(length);
    for (let row = 0; row < length; row += 1) numbers[row] = number();
    return numbers;
  };
  const length = number();
  const tables = JSON.parse(new TextDecoder().decode(bytes.subarray(at, at + length)));
  at += length;
  const data = { ...tables, frameFunction: column(tables.frames), frameLine: column(tables.frames) };
  // Lines of a difference that are of before (`OF_BEFORE` of diff/beside.rs).
  data.frameIsOld = data.frameLine.map((line) => (tables.compare && line & OF_BEFORE ? 1 : 0));
  if (tables.compare) data.frameLine = data.frameLine.map((line) => line & ~OF_BEFORE);
  readNodes(data, column(tables.nodes), column(tables.nodes));
  data.sampleNode = column(tables.samples);
  for (let row = 1; row < tables.samples; row += 1) data.sampleNode[row] += data.sampleNode[row - 1];
  data.sampleThread = column(tables.samples);
  data.sampleTask = tables.tasks.length ? column(tables.samples) : null;
  let first = null;
  data.sampleValues = tables.values.map(() => {
    const times = number();
    if (times > 0) return first.map((value) => value * times);
    const values = new Float64Array(tables.samples);
    first ??= values;
    for (let row = 0; row < tables.samples; row += 1) {
      const zigzag = number();
      values[row] = zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
    }
    return values;
  });
  readTimes(data, column, number);
  return data;
}

// Node 0 is the empty stack; a node's callers have smaller numbers.
function readNodes(data, up, frame) {
  const nodes = up.length + 1;
  data.nodeParent = new Int32Array(nodes);
  data.nodeFrame = new Int32Array(nodes);
  data.nodeDepth = new Int32Array(nodes);
  const path = [0];
  for (let node = 1; node < nodes; node += 1) {
    path.length -= up[node - 1];
    data.nodeParent[node] = path[path.length - 1];
    data.nodeDepth[node] = path.length;
    data.nodeFrame[node] = frame[node - 1];
    path.push(node);
  }
}

// Whatever a box or a row can stand for, as one number: functions, then lines, files, packages, processes and threads.
class Units {
  constructor(data) {
    this.data = data;
    this.lines = data.functions.name.length;
    this.files = this.lines + data.frames;
    this.packages = this.files + data.files.path.length;
    this.processes = this.packages + data.packages.length;
    this.threads = this.processes + data.processes.name.length;
    this.count = this.threads + data.threads.name.length;
  }

  // The function of a function or a line, else -1.
  function(unit) {
    if (unit < this.lines) return unit;
    return unit < this.files ? this.data.frameFunction[unit - this.lines] : -1;
  }

  line(unit) {
    return unit >= this.lines && unit < this.files ? this.data.frameLine[unit - this.lines] : 0;
  }

  file(unit) {
    const called = this.function(unit);
    if (called >= 0) return this.data.functions.file[called];
    return unit >= this.files && unit < this.packages ? unit - this.files : -1;
  }

  name(unit) {
    const { data } = this;
    const called = this.function(unit);
    if (called >= 0) return data.functions.name[called];
    if (unit < this.packages) return data.files.short[unit - this.files] || '(no file)';
    if (unit < this.processes) return data.packages[unit - this.packages] || '(no package)';
    if (unit < this.threads) return data.processes.name[unit - this.processes];
    return data.threads.name[unit - this.threads];
  }

  // Where it is: `shop/views.py:29`, `libc.so.6`, `kernel`.
  place(unit) {
    const called = this.function(unit);
    if (called < 0) return '';
    const file = this.data.files.short[this.data.functions.file[called]];
    const line = this.line(unit) || (unit < this.lines ? this.data.functions.first_line[called] : 0);
    const isOld = unit >= this.lines && unit < this.files && this.data.frameIsOld[unit - this.lines];
    return line ? `${file}:${line}${isOld ? ' before' : ''}` : file;
  }

  label(unit) {
    const place = this.place(unit);
    return place ? `${this.name(unit)} (${place})` : this.name(unit);
  }

  package(unit) {
    if (unit >= this.processes) return '';
    if (unit >= this.packages) return this.name(unit);
    const called = this.function(unit);
    this.kinds ??= this.kindsOfFiles();
    return this.data.packages[called < 0 ? this.kinds.package[unit - this.files] : this.data.functions.package[called]];
  }

  // One of `KINDS`: Python that is installed is told from the program's own.
  kind(unit) {
    if (unit >= this.processes) return ROOT;
    const called = this.function(unit);
    if (called >= 0) return this.kindOf(called);
    this.kinds ??= this.kindsOfFiles();
    return unit < this.packages ? this.kinds.files[unit - this.files] : this.kinds.packages[unit - this.packages];
  }

  kindOf(called) {
    const { kind, owner } = this.data.functions;
    return kind[called] === PYTHON && owner[called] !== 0 ? INSTALLED : kind[called];
  }

  isPython(unit) {
    return [PYTHON, INSTALLED].includes(this.kind(unit));
  }

  // Of a package with Python and machine code, the former.
  kindsOfFiles() {
    const { functions, files, packages } = this.data;
    const kinds = { files: files.path.map(() => MARKER), packages: packages.map(() => MARKER), package: [] };
    const order = [PYTHON, INSTALLED, NATIVE, KERNEL, MARKER];
    const first = (a, b) => (order.indexOf(a) < order.indexOf(b) ? a : b);
    functions.file.forEach((file, called) => {
      const kind = this.kindOf(called);
      kinds.files[file] = first(kinds.files[file], kind);
      const its = functions.package[called];
      kinds.packages[its] = first(kinds.packages[its], kind);
      kinds.package[file] ??= its;
    });
    return kinds;
  }
}
