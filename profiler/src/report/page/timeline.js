// When it was: how much there was in each slice of time, and a part of it chosen, of which everything is then.

// Behind the samples: of each, in how many slices it was, and in which, and how much of its default value (page/times.rs).
function readTimes(data, column, number) {
  data.wholeValues = data.sampleValues;
  data.partSample = new Int32Array(data.parts);
  data.partSlice = new Int32Array(data.parts);
  data.partValue = new Float64Array(data.parts);
  const counts = column(data.slices ? data.samples : 0);
  let at = 0;
  counts.forEach((slices, sample) => {
    let slice = 0;
    for (let part = 0; part < slices; part += 1) {
      slice += number();
      data.partSample[at] = sample;
      data.partSlice[at] = slice;
      at += 1;
    }
  });
  for (at = 0; at < data.parts; at += 1) data.partValue[at] = number();
}

// The values of what was in these slices alone. Of another value than the one that has times, a sample has as much in a
// slice as of that one.
function valuesIn(data, range) {
  if (!range) return data.wholeValues;
  const inside = new Float64Array(data.samples);
  for (let part = 0; part < data.parts; part += 1) {
    if (data.partSlice[part] >= range[0] && data.partSlice[part] < range[1]) inside[data.partSample[part]] += data.partValue[part];
  }
  const whole = data.wholeValues[data.timed];
  return data.wholeValues.map((values, type) => (type === data.timed ? inside : values.map((value, sample) => (inside[sample] ? (value * inside[sample]) / whole[sample] : 0))));
}

// How much of a value was in each slice: of all samples that are wanted, and of those of these threads.
function laneSums(data, value, wanted, threads) {
  const whole = data.wholeValues[data.timed];
  const values = data.wholeValues[value];
  const all = new Float64Array(data.slices);
  const lanes = new Map(threads.map((thread) => [thread, new Float64Array(data.slices)]));
  for (let part = 0; part < data.parts; part += 1) {
    const sample = data.partSample[part];
    const thread = data.sampleThread[sample];
    if (!(values[sample] > 0) || (wanted && !wanted[sample])) continue;
    const amount = (values[sample] * data.partValue[part]) / whole[sample];
    all[data.partSlice[part]] += amount;
    const lane = lanes.get(thread);
    if (lane) lane[data.partSlice[part]] += amount;
  }
  return { all, lanes };
}

const TIME_HEIGHT = 44;
const LANE_HEIGHT = 20;
const AXIS_HEIGHT = 17;
const MOST_LANES = 8;
// Seconds between marks.
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
// After the last key, until all views follow.
const KEYS_REST_MS = 150;

class Timeline {
  constructor(page) {
    this.page = page;
    this.data = page.data;
    this.place = byId('timeline');
    this.range = null;
    this.cursor = -1;
    this.exists = this.data.slices > 0 && this.data.parts > 0;
    if (!this.exists) return;
    const { data } = this;
    const { slices } = data;
    // The last slice may not have been over.
    this.span = data.duration > (slices - 1) * data.slice ? Math.min(data.duration, slices * data.slice) : slices * data.slice;
    this.canvas = el('canvas', { id: 'time', tabIndex: 0 });
    this.canvas.setAttribute('aria-label', 'Timeline: arrow keys choose a time, with Shift they make it longer, Escape takes all of it');
    this.told = el('span', { id: 'time-told', role: 'status' });
    this.pointed = el('span', { id: 'time-at', class: 'quiet' });
    this.whole = el('button', { type: 'button', id: 'time-whole', onclick: () => this.choose(null) }, 'Whole time');
    this.threads = el('button', { type: 'button', id: 'time-threads', onclick: () => this.toggle() }, 'By thread');
    this.open = data.threads.name.length > 1 && data.threads.name.length <= 2 * MOST_LANES && innerWidth > 600;
    this.threads.hidden = data.threads.name.length < 2;
    this.rest = el('span', { class: 'quiet' });
    replace(this.place, el('div', {}, this.canvas), el('p', { class: 'bar' }, this.told, this.pointed, this.rest, this.whole, this.threads));
    this.context = this.canvas.getContext('2d');
    const on = (name, listener) => this.canvas.addEventListener(name, listener);
    on('pointerdown', (event) => this.press(event));
    on('pointermove', (event) => this.move(event));
    on('pointerup', (event) => this.release(event));
    on('pointercancel', () => this.release(null));
    on('pointerleave', () => this.point(-1));
    on('keydown', (event) => this.key(event));
    on('blur', () => this.draw());
    on('focus', () => this.draw());
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
  }

  // Whether there are times of the value that is shown: of memory, only of what is in use.
  get knows() {
    return this.exists && (!this.data.births || this.page.type.kind.startsWith('inuse'));
  }

  // Something else was chosen.
  show() {
    if (!this.exists) return;
    const { data, page } = this;
    const { value, wanted } = page.state;
    const sums = new Float64Array(data.threads.name.length);
    data.wholeValues[value].forEach((number, sample) => {
      if (number > 0 && (!wanted || wanted[sample])) sums[data.sampleThread[sample]] += number;
    });
    const threads = [...sums.keys()].filter((thread) => sums[thread] > 0);
    threads.sort((a, b) => sums[b] - sums[a]);
    this.listed = threads.slice(0, MOST_LANES);
    this.more = threads.length - this.listed.length;
    this.sums = laneSums(data, value, wanted, this.listed);
    this.mine = threads.reduce((sum, thread) => sum + sums[thread], 0);
    this.tell();
    this.resize();
  }

  toggle() {
    this.open = !this.open;
    this.resize();
  }

  // Everything is of these slices from now on; of all, without any.
  choose(range) {
    clearTimeout(this.waiting);
    this.range = range;
    if (!range) this.cursor = -1;
    this.data.sampleValues = valuesIn(this.data, range);
    this.page.changed({ range });
  }

  // How long it is from the beginning to that of a slice.
  start(slice) {
    return Math.min(slice * this.data.slice, this.span);
  }

  clock(seconds, step) {
    if (!(this.data.started_at > 0)) return `+${duration(seconds * 1e9)}`;
    const digits = step >= 1 ? 0 : step >= 0.1 ? 1 : 2;
    // A time that lies on a mark must not be told as the one before.
    const moment = new Date(Math.round(this.data.started_at + seconds * 1000));
    const two = (number) => String(number).padStart(2, '0');
    const parts = [two(moment.getHours()), two(moment.getMinutes())];
    if (step < 60) parts.push(two(moment.getSeconds()));
    const day = this.span > 86400 ? `${moment.getMonth() + 1}/${moment.getDate()} ` : '';
    const fraction = digits ? `.${String(moment.getMilliseconds()).padStart(3, '0').slice(0, digits)}` : '';
    return `${day}${parts.join(':')}${fraction}`;
  }

  tell() {
    const { data, page } = this;
    this.whole.hidden = !this.range;
    const timed = this.sums.all.reduce((sum, value) => sum + value, 0);
    const what = subject(data, page.type);
    if (!this.range) {
      const lacking = this.mine > 0 ? 1 - timed / this.mine : 0;
      const untimed = lacking > 0.0005 ? ` Of ${percent(lacking)} of the ${what} it is not known when it ${data.births ? 'came' : 'was'}.` : '';
      const births = data.births ? `When the ${what} that is in use at the end came: the oldest at the left. ` : '';
      this.told.textContent = `${births}Drag over the time, or use the arrow keys, and everything is of that part alone.${untimed}`;
      return;
    }
    const [from, to] = this.range;
    let inside = 0;
    for (let slice = from; slice < to; slice += 1) inside += this.sums.all[slice];
    const length = this.start(to) - this.start(from);
    const when = `${this.clock(this.start(from), data.slice)} to ${this.clock(this.start(to), data.slice)}`;
    const share = this.mine > 0 ? `, with ${percent(inside / this.mine)} of the ${what}` : '';
    this.told.textContent = `Only ${data.births ? 'what came ' : ''}${when}: ${duration(length * 1e9)} of ${duration(this.span * 1e9)}${share}.`;
  }

  resize() {
    if (!this.exists || !this.sums) return;
    const width = this.canvas.parentElement.clientWidth;
    if (width === 0) return;
    const lanes = this.open ? this.listed.length : 0;
    this.threads.setAttribute('aria-expanded', String(this.open));
    this.rest.textContent = lanes && this.more > 0 ? `${count(this.more)} more threads have no lane. ` : '';
    this.width = width;
    // Names of threads stand beside their lanes.
    this.left = lanes ? Math.min(170, Math.round(width / 4)) : 0;
    this.height = TIME_HEIGHT + lanes * LANE_HEIGHT + AXIS_HEIGHT;
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.canvas.style.height = `${this.height}px`;
    this.draw();
  }

  later() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  draw() {
    const { context, width } = this;
    if (!width) return;
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(`--${name}`);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = this.colour('paper');
    context.fillRect(0, 0, width, this.height);
    if (this.range) {
      const [left, right] = this.range.map((slice) => this.x(slice));
      context.fillStyle = this.colour('fill');
      context.globalAlpha = 0.35;
      context.fillRect(left, 0, right - left, this.height - AXIS_HEIGHT);
      context.globalAlpha = 1;
    }
    const { all, lanes } = this.sums;
    this.lane(all, 0, TIME_HEIGHT, this.highest([all]));
    if (this.open) {
      // One scale for all threads, so that they can be compared.
      const highest = this.highest([...lanes.values()]);
      this.listed.forEach((thread, row) => {
        const top = TIME_HEIGHT + row * LANE_HEIGHT;
        this.lane(lanes.get(thread), top, LANE_HEIGHT, highest);
        this.name(this.data.threads.name[thread], top, LANE_HEIGHT);
      });
      this.name('all', 0, TIME_HEIGHT);
    }
    this.axis();
    this.edges();
  }

  x(slice) {
    return this.at(this.start(slice));
  }

  at(seconds) {
    return this.left + (seconds / this.span) * (this.width - this.left);
  }

  // The last slice is as high as it would be if it were a whole one.
  heightOf(lane, slice) {
    const length = this.start(slice + 1) - this.start(slice);
    return length > 0.3 * this.data.slice ? (lane[slice] * this.data.slice) / length : lane[slice];
  }

  highest(lanes) {
    let highest = 0;
    for (const lane of lanes) for (let slice = 0; slice < lane.length; slice += 1) highest = Math.max(highest, this.heightOf(lane, slice));
    return highest;
  }

  lane(lane, top, height, highest) {
    const { context, data } = this;
    context.fillStyle = this.colour('line');
    context.fillRect(this.left, top + height - 1, this.width - this.left, 1);
    if (!(highest > 0)) return;
    context.fillStyle = this.colour('accent');
    for (let slice = 0; slice < data.slices; slice += 1) {
      if (!(lane[slice] > 0)) continue;
      const [left, right] = [this.x(slice), this.x(slice + 1)];
      const high = Math.max(1, (this.heightOf(lane, slice) / highest) * (height - 4));
      const outside = this.range && (slice < this.range[0] || slice >= this.range[1]);
      context.globalAlpha = outside ? 0.3 : 1;
      const gap = right - left > 4 ? 1 : 0;
      context.fillRect(left, top + height - 1 - high, Math.max(right - left - gap, 0.5), high);
    }
    context.globalAlpha = 1;
  }

  name(text, top, height) {
    const { context } = this;
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    const fits = (candidate) => context.measureText(candidate).width <= this.left - 6;
    // Equal workers differ by their ends.
    let shown = fits(text) ? text : text.replace(/ \(thread \d+\)$/u, '');
    for (let kept = shown.length - 1; kept > 4 && !fits(shown); kept -= 1) {
      shown = `${text.slice(0, kept - Math.ceil(kept / 3))}…${text.replace(/ \(thread \d+\)$/u, '').slice(-Math.ceil(kept / 3))}`;
    }
    context.fillStyle = this.colour('ink');
    context.fillText(shown, 0, top + height / 2);
  }

  // Marks at round times of the day.
  axis() {
    const { context, data } = this;
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    const wide = this.clock(0, data.slice).length * 7 + 24;
    const step = STEPS.find((each) => this.at(each) - this.left >= wide) ?? Math.ceil((this.span * wide) / this.width / 86400) * 86400;
    const began = data.started_at > 0 ? (data.started_at - new Date(data.started_at).setHours(0, 0, 0, 0)) / 1000 : 0;
    const y = this.height - AXIS_HEIGHT / 2 + 1;
    for (let mark = Math.ceil(began / step - 1e-6) * step; mark - began <= this.span; mark += step) {
      const x = this.at(mark - began);
      context.fillStyle = this.colour('quiet');
      context.fillRect(Math.min(x, this.width - 1), this.height - AXIS_HEIGHT, 1, 4);
      const text = this.clock(mark - began, step);
      const size = context.measureText(text).width;
      if (x + size / 2 <= this.width + size / 2 - 4) context.fillText(text, Math.min(Math.max(x - size / 2, this.left), this.width - size), y);
    }
  }

  edges() {
    const { context } = this;
    const bottom = this.height - AXIS_HEIGHT;
    context.fillStyle = this.colour('ink');
    if (this.range) for (const slice of this.range) context.fillRect(Math.min(this.x(slice), this.width - 2), 0, 2, bottom);
    if (this.hovered >= 0) {
      context.globalAlpha = 0.5;
      context.fillRect(this.x(this.hovered), 0, 1, bottom);
      context.globalAlpha = 1;
    }
  }

  slice(event) {
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    const seconds = ((x - this.left) / (this.width - this.left)) * this.span;
    return Math.min(Math.max(Math.floor(seconds / this.data.slice), 0), this.data.slices - 1);
  }

  press(event) {
    if (event.button !== 0) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    const near = (slice) => Math.abs(this.x(slice) - x) < 6;
    // An edge that is taken hold of moves, and the other stays.
    if (this.range && near(this.range[0])) this.anchor = this.range[1] - 1;
    else if (this.range && near(this.range[1])) this.anchor = this.range[0];
    else this.anchor = this.slice(event);
    this.pressed = { x, before: this.range, moved: false };
  }

  move(event) {
    const at = this.slice(event);
    this.point(at);
    if (!this.pressed) return;
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    if (!this.pressed.moved && Math.abs(x - this.pressed.x) < 4) return;
    this.pressed.moved = true;
    this.preview(at);
  }

  // Shows what would be chosen; the views follow when it is.
  preview(at) {
    this.cursor = at;
    this.range = [Math.min(this.anchor, at), Math.max(this.anchor, at) + 1];
    this.tell();
    this.later();
  }

  // Without a pull, all of it is taken again.
  release(event) {
    if (!this.pressed) return;
    const { before, moved } = this.pressed;
    this.pressed = null;
    if (!event) {
      this.range = before;
      this.tell();
      this.draw();
    } else if (moved) {
      this.choose(this.range);
    } else if (before) {
      this.choose(null);
    }
  }

  point(slice) {
    if (slice === this.hovered) return;
    this.hovered = slice;
    const { data, page } = this;
    this.pointed.textContent = slice < 0 ? '' : `${this.clock(this.start(slice), data.slice)}: ${amount(this.sums.all[slice], page.type)}`;
    this.later();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.data.slices - 1;
    const from = this.cursor < 0 ? -1 : this.cursor;
    const targets = {
      ArrowLeft: from < 0 ? last : from - 1,
      ArrowRight: from + 1,
      PageUp: from - 10,
      PageDown: from + 10,
      Home: 0,
      End: last,
    };
    if (event.key === 'Escape' && this.range) {
      event.preventDefault();
      this.choose(null);
      return;
    }
    if (!Object.hasOwn(targets, event.key)) return;
    event.preventDefault();
    const at = Math.min(Math.max(targets[event.key], 0), last);
    if (!event.shiftKey || this.cursor < 0) this.anchor = at;
    this.preview(at);
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.choose(this.range), KEYS_REST_MS);
  }
}
