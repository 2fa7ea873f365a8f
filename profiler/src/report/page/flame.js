// The flame graph on a canvas: roots at the top, the heaviest at the left, widths are values.
//
// Only what is wider than half a pixel is drawn, and children are sorted, so a frame takes as long as there are boxes to
// see, however many stacks there are.

const ROW = 19;
const NARROWEST = 0.5;
const FONT = '12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace';
// Browsers draw nothing on canvases that are taller. Of deeper stacks these rows are around what is zoomed to.
const MOST_ROWS = 420;

// Hue, saturation and lightness by kind. What is the reader's own is the strongest.
const LIGHT = [[38, 100, 62], [207, 66, 78], [11, 80, 73], [278, 45, 82], [60, 6, 85], [47, 72, 82]];
const DARK = [[36, 90, 40], [209, 45, 36], [9, 52, 40], [278, 25, 40], [60, 4, 30], [44, 38, 27]];

class Flame {
  // `told` is called with the node under the pointer or the keyboard, `chosen` with one that is zoomed to.
  // `pair`: of a difference, what a node was before and is after.
  constructor(canvas, { units, told = () => {}, colour = () => 'kind', up = false, compare = null, pair = null }) {
    Object.assign(this, { canvas, units, told, colour, up, compare, pair });
    this.context = canvas.getContext('2d');
    this.matched = null;
    this.fills = new Map();
    this.frames = 0;
    canvas.addEventListener('click', (event) => this.click(event));
    canvas.addEventListener('mousemove', (event) => this.hover(this.at(event)));
    canvas.addEventListener('mouseleave', () => this.hover(0));
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
  }

  show(tree) {
    this.tree = tree;
    this.focus = 0;
    this.selected = 0;
    this.hovered = 0;
    this.base = 0;
    this.window = [0, tree.total[0]];
    this.fills.clear();
    this.resize();
  }

  resize() {
    if (!this.tree) return;
    const width = this.canvas.parentElement.clientWidth;
    if (width === 0) return;
    this.rows = Math.min(this.tree.deepest + 1, MOST_ROWS);
    this.width = width;
    this.height = this.rows * ROW;
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.canvas.style.height = `${this.height}px`;
    this.context.font = FONT;
    this.letter = this.context.measureText('0').width;
    this.draw();
  }

  redraw() {
    this.fills.clear();
    this.draw();
  }

  // Once per frame of the screen, however often something changes.
  later() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  draw() {
    const { context, tree } = this;
    if (!tree || !this.width) return;
    this.frames += 1;
    this.boxes = 0;
    const style = getComputedStyle(document.documentElement);
    this.paper = style.getPropertyValue('--paper');
    this.ink = style.getPropertyValue('--ink');
    this.mark = style.getPropertyValue('--mark');
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = this.paper;
    context.fillRect(0, 0, this.width, this.height);
    context.font = FONT;
    context.textBaseline = 'middle';
    const [from, to] = this.window;
    if (!(to > from)) return;
    const scale = this.width / (to - from);
    const open = [0];
    while (open.length) {
      const node = open.pop();
      const left = Math.max(0, (tree.start[node] - from) * scale);
      const right = Math.min(this.width, (tree.start[node] + tree.total[node] - from) * scale);
      if (tree.depth[node] >= this.base) this.box(node, left, right - left);
      if (tree.depth[node] + 1 - this.base >= this.rows) continue;
      const end = tree.childStart[node + 1];
      for (let at = tree.childStart[node]; at < end; at += 1) {
        const child = tree.children[at];
        // The rest is as narrow or narrower.
        if (tree.total[child] * scale < NARROWEST) break;
        if (tree.start[child] >= to) break;
        if (tree.start[child] + tree.total[child] > from) open.push(child);
      }
    }
  }

  box(node, left, width) {
    const { context } = this;
    const top = this.top(this.tree.depth[node]);
    this.boxes += 1;
    const hit = this.matched && node && this.matched[this.tree.unit[node]];
    const compared = this.compare && node && this.pair(this.tree, node);
    const differs = compared && this.colour() === 'difference';
    context.fillStyle = hit ? this.mark : differs ? colourOfChange(this.compare.part(compared)) : this.fill(this.tree.unit[node]);
    if (this.matched && !hit) context.globalAlpha = 0.45;
    context.fillRect(left, top, Math.max(width - (width > 3 ? 1 : 0), 0.5), ROW - 1);
    context.globalAlpha = 1;
    if (node === this.selected || (node && node === this.hovered)) {
      context.strokeStyle = this.ink;
      context.lineWidth = node === this.selected ? 2 : 1;
      context.strokeRect(left + 1, top + 1, Math.max(width - 3, 1), ROW - 3);
    }
    if (width < 4 * this.letter) return;
    context.fillStyle = hit ? '#000' : this.ink;
    const mark = compared ? this.compare.mark(compared) : '';
    const text = this.fitting(node ? `${mark}${this.units.label(this.tree.unit[node])}` : 'all', width - 8);
    if (text) context.fillText(text, left + 4, top + ROW / 2);
  }

  fitting(text, width) {
    const room = Math.floor(width / this.letter);
    let shown = text.length <= room ? text : `${text.slice(0, Math.max(room - 1, 0))}…`;
    // Letters of some scripts are wider than others.
    while (shown.length > 1 && /[^\x20-\x7e…]/.test(shown) && this.context.measureText(shown).width > width) {
      shown = `${shown.slice(0, -2)}…`;
    }
    return shown.length > 1 ? shown : '';
  }

  fill(unit) {
    let fill = this.fills.get(unit);
    if (!fill) {
      fill = unit < 0 ? colourOf(ROOT, 0) : this.colourOf(unit);
      this.fills.set(unit, fill);
    }
    return fill;
  }

  colourOf(unit) {
    const { units } = this;
    if (this.colour() === 'package') return colourOfPackage(units.package(unit));
    const function_ = units.function(unit);
    // A function has one shade on all its lines.
    return colourOf(units.kind(unit), hashed(function_ < 0 ? units.name(unit) : units.name(function_)) % 100);
  }

  top(depth) {
    const row = depth - this.base;
    return (this.up ? this.rows - 1 - row : row) * ROW;
  }

  // The node under the pointer; 0 is the whole, and what lies beside everything.
  at(event) {
    const { tree } = this;
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / ROW);
    const depth = (this.up ? this.rows - 1 - row : row) + this.base;
    const value = this.window[0] + ((event.clientX - box.left) / this.width) * (this.window[1] - this.window[0]);
    let node = 0;
    while (tree.depth[node] < depth) {
      const inside = (child) => tree.start[child] <= value && value < tree.start[child] + tree.total[child];
      const next = tree.childrenOf(node).find(inside);
      if (next === undefined) return 0;
      node = next;
    }
    return node;
  }

  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.canvas.style.cursor = node ? 'pointer' : 'default';
    this.told(node || this.selected);
    this.later();
  }

  click(event) {
    this.canvas.focus({ preventScroll: true });
    this.select(this.at(event));
    this.zoom(this.selected);
  }

  select(node) {
    this.selected = node;
    this.told(node);
    this.later();
  }

  // Goes there in a sixth of a second, so that the eye can follow.
  zoom(node) {
    const { tree } = this;
    this.focus = node;
    // The middle of what can be drawn.
    this.base = Math.min(Math.max(0, tree.depth[node] - MOST_ROWS / 2), Math.max(0, tree.deepest + 1 - this.rows));
    const from = this.window;
    const to = [tree.start[node], tree.start[node] + tree.total[node]];
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    const begun = performance.now();
    const step = (now) => {
      if (this.zooming !== step) return;
      const done = still ? 1 : Math.min(1, (now - begun) / 160);
      const eased = 1 - (1 - done) ** 3;
      this.window = done < 1 ? from.map((edge, at) => edge + (to[at] - edge) * eased) : to;
      this.draw();
      if (done < 1) requestAnimationFrame(step);
    };
    this.zooming = step;
    requestAnimationFrame(step);
  }

  // With the control key it zooms at the pointer, sideways it moves.
  wheel(event) {
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (!event.ctrlKey && Math.abs(sideways) < 1) return;
    event.preventDefault();
    const at = (event.clientX - this.canvas.getBoundingClientRect().left) / this.width;
    if (event.ctrlKey) this.magnify(Math.exp(event.deltaY / 300), at);
    else this.move(sideways / this.width);
  }

  magnify(factor, at = 0.5) {
    const [from, to] = this.window;
    const whole = this.tree.total[0];
    const size = Math.min(whole, Math.max((to - from) * factor, whole * 1e-7));
    this.place(from + (to - from - size) * at, size);
  }

  move(share) {
    const [from, to] = this.window;
    this.place(from + (to - from) * share, to - from);
  }

  place(from, size) {
    this.zooming = null;
    const start = Math.min(Math.max(from, 0), this.tree.total[0] - size);
    this.window = [start, start + size];
    this.later();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { tree } = this;
    const node = this.selected;
    const seen = (parent) => tree.childrenOf(parent).filter((child) => tree.total[child] > 0);
    const siblings = node ? seen(tree.parent[node]) : [];
    const place = siblings.indexOf(node);
    const deeper = seen(node)[0] ?? node;
    const nearer = node ? tree.parent[node] : 0;
    const keys = {
      ArrowDown: () => this.select(this.up ? nearer : deeper),
      ArrowUp: () => this.select(this.up ? deeper : nearer),
      ArrowLeft: () => this.select(siblings[place - 1] ?? node),
      ArrowRight: () => this.select(siblings[place + 1] ?? node),
      Enter: () => this.zoom(node),
      Escape: () => {
        this.select(0);
        this.zoom(0);
      },
      Backspace: () => {
        this.select(nearer);
        this.zoom(nearer);
      },
      '+': () => this.magnify(0.7),
      '-': () => this.magnify(1 / 0.7),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }
}

const isDark = () => matchMedia('(prefers-color-scheme: dark)').matches && !matchMedia('print').matches;

// `shade`: 0 to 99, up to an eighth darker.
function colourOf(kind, shade) {
  const [hue, saturation, lightness] = (isDark() ? DARK : LIGHT)[kind];
  return `hsl(${hue} ${saturation}% ${lightness * (1 - (kind === ROOT ? 0 : shade) / 800)}%)`;
}

function colourOfPackage(name) {
  if (!name || name === 'none') return colourOf(ROOT, 0);
  const hash = hashed(name);
  return `hsl(${hash % 360} ${isDark() ? 38 : 62}% ${(isDark() ? 34 : 70) + ((hash >> 9) % 8)}%)`;
}

// The share of the whole in what is matched; what is matched within another match counts once.
function matchedShare(tree, matched) {
  let sum = 0;
  walk(tree, (node) => {
    if (!matched[tree.unit[node]]) return true;
    sum += tree.total[node];
    return false;
  });
  return tree.total[0] ? sum / tree.total[0] : 0;
}
