// What `why` found: the worst first, with what it rests on, where it is and what to type next.

// The worst of them, in one sentence.
function showWorst(answer, { list, nothing }) {
  if (!list.length) {
    replace(answer, nothing ?? '');
    return;
  }
  const [{ severity, kind, sentence }] = list;
  const more = list.length > 1 ? ` (and ${list.length - 1} more)` : '';
  replace(answer, el('strong', {}, `${severity} ${kind}`), `: ${sentence}${more}`);
}

class FindingsView {
  constructor(page) {
    this.page = page;
  }

  show() {
    const { head, list, nothing, rest } = this.page.data.findings;
    replace(
      byId('view-findings'),
      ...head.map((line) => el('p', { class: 'quiet' }, line)),
      ...(nothing ? [el('p', {}, nothing)] : []),
      ...list.map((finding) => this.one(finding)),
      ...rest.map((line) => el('p', { class: 'quiet' }, line)),
    );
  }

  one(finding) {
    const { severity, kind, sentence, error, who, gain, evidence, next } = finding;
    const sure = error >= 0.0005 ? ` (± ${(error * 100).toFixed(1)} %)` : '';
    const whose = who ? ` ${who}` : '';
    const facts = evidence.map(([name, text]) => el('tr', {}, el('th', { class: 'text', scope: 'row' }, name), el('td', { class: 'text' }, text)));
    return el(
      'article',
      { class: `finding ${severity}` },
      el('h3', {}, el('span', { class: 'severity' }, severity), ` ${kind}${whose}`),
      el('p', {}, `${sentence}${sure}`),
      ...(gain ? [el('p', {}, `if it were gone: ${gain}`)] : []),
      ...this.place(finding),
      ...(facts.length ? [el('details', {}, el('summary', {}, 'what it rests on'), el('table', { class: 'facts' }, el('tbody', {}, ...facts)))] : []),
      el('p', {}, 'next: ', el('code', {}, next)),
    );
  }

  // Where it is, and buttons that lead there if the recording has met the line.
  place({ function: name, file, short, line, via }) {
    if (!file) return [];
    const { page } = this;
    const text = [el('span', { class: 'name' }, name), ' ', el('span', { class: 'place' }, line ? `${short}:${line}` : short)];
    if (via) text.push(' via ', el('span', { class: 'name' }, via));
    const unit = this.unitOf(name, file, line);
    if (unit >= 0) {
      const button = (label, onclick) => el('button', { type: 'button', onclick }, label);
      text.push(' ', button('Callers', () => page.callers(unit)), ' ', button('Source', () => page.source(unit)));
    }
    return [el('p', { class: 'where' }, ...text)];
  }

  // The line of the recording, as a unit; -1 for none.
  unitOf(name, file, line) {
    const { data, units } = this.page;
    const at = data.files.path.indexOf(file);
    let best = -1;
    for (let frame = 0; at >= 0 && frame < data.frames; frame += 1) {
      const called = data.frameFunction[frame];
      if (data.functions.file[called] !== at || data.frameLine[frame] !== line) continue;
      if (data.functions.name[called] === name) return units.lines + frame;
      if (best < 0) best = units.lines + frame;
    }
    return best;
  }
}
