// JavaScript that stays busy: functions that V8 compiles, regular expressions, JSON, sorting, promises.
'use strict';

function spinInner(n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum = (sum * 31 + i) % 1000003;
  return sum;
}

function spinOuter(n) {
  return spinInner(n) + spinInner(n + 1);
}

function library() {
  const data = Array.from({ length: 500 }, (_, n) => ({ n, text: 'x'.repeat(n % 50) }));
  JSON.parse(JSON.stringify(data)).sort((a, b) => a.text.length - b.text.length);
  return 'one two three '.repeat(100).replace(/\w+/g, (word) => word.toUpperCase()).length;
}

async function round() {
  for (let i = 0; i < 20; i++) spinOuter(20000);
  library();
  await null;
}

async function forever() {
  for (;;) {
    for (let i = 0; i < 50; i++) await round();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

console.log('READY');
forever();
