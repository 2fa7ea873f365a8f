// Numbers as people read them, and elements whose content is text: nothing of a recording is ever markup.

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const byId = (id) => document.getElementById(id);

function replace(parent, ...children) {
  parent.replaceChildren(...children);
}

// Shares below one percent keep two digits, so that 0.04 % does not become nothing.
function percent(share) {
  const number = share * 100;
  if (!Number.isFinite(number)) return '-';
  return `${number.toFixed(number === 0 || Math.abs(number) >= 0.995 ? 1 : 2)} %`;
}

const count = (number) => Math.round(number).toLocaleString('en-US');

function bytes(number) {
  if (Math.abs(number) < 1024) return `${Math.round(number)} B`;
  let value = number / 1024;
  let unit = 0;
  while (Math.abs(value) >= 1023.95 && unit < 5) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(1)} ${['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][unit]}`;
}

function duration(ns) {
  const size = Math.abs(ns);
  if (size < 1e3) return `${Math.round(ns)} ns`;
  if (size < 999.95e3) return `${(ns / 1e3).toFixed(1)} µs`;
  if (size < 999.95e6) return `${(ns / 1e6).toFixed(1)} ms`;
  if (size < 59.95e9) return `${(ns / 1e9).toFixed(1)} s`;
  const seconds = Math.round(ns / 1e9);
  const two = (number) => String(number).padStart(2, '0');
  if (seconds < 3600) return `${Math.trunc(seconds / 60)} min ${two(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.trunc(minutes / 60)} h ${two(minutes % 60)} min`;
}

function amount(number, type) {
  if (type.unit === 'nanoseconds') return duration(number);
  if (type.unit === 'bytes') return bytes(number);
  return `${count(number)}${type.unit === 'count' ? '' : ` ${type.unit}`}`;
}

// What a value is called in a sentence.
const NOUNS = {
  cpu: 'CPU time',
  samples: 'samples',
  wait: 'waiting time',
  waits: 'waits',
  wall: 'wall time',
  inuse_space: 'memory',
  inuse_objects: 'objects',
  peak_space: 'memory at the peak',
  temporary_space: 'memory that came and went',
  alloc_space: 'new memory',
  alloc_objects: 'new objects',
  calls: 'calls',
};
const noun = (type) => (Object.hasOwn(NOUNS, type.kind) ? NOUNS[type.kind] : type.kind);

// In a sentence: samples of a clock are time.
const subject = (data, type) => (type.kind === 'samples' && data.values.some((other) => other.kind === 'cpu') ? NOUNS.cpu : noun(type));

// Wilson's interval of 95 % of a share that `part` of `all` samples show.
function interval(part, all) {
  const z2 = 1.96 * 1.96;
  const share = part / all;
  const middle = (share + z2 / (2 * all)) / (1 + z2 / all);
  const half = (1.96 / (1 + z2 / all)) * Math.sqrt((share * (1 - share)) / all + z2 / (4 * all * all));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

// A number for a text that is the same in every run: FNV-1a.
function hashed(text) {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return hash >>> 0;
}
