// What the page knows: the transcript as its JSON format has it, and each timed unit's element.
// All scripts share this one scope; html.py joins them in the order of its SCRIPTS.
"use strict";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("transcript-data").textContent);
const page = JSON.parse($("page-data").textContent);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// A unit is a word, or a segment whose words have no times. Texts only ever reach the page as text nodes.
const units = [];
for (const id of page.shown) {
  const segment = data.segments[id];
  for (const timed of segment.words.length ? segment.words : [segment]) {
    units.push({ start: timed.start, end: timed.end, timed, segment });
  }
}
[...document.querySelectorAll("#text p > span")].forEach((span, n) => {
  units[n].span = span;
  units[n].n = n;
});
const unitOf = new Map(units.map((unit) => [unit.span, unit]));
const ordered = [...units].sort((a, b) => a.start - b.start);
const duration = Math.max(data.duration ?? 0, ordered.at(-1)?.end ?? 0);

/** The place in `ordered` of the last unit that begins at or before a time; -1 before the first. */
function placeAt(time) {
  time += 1e-4; // a player that was sent to a time answers with one up to some microseconds less
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle].start <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The unit said at a time: of those that hold it the one begun last; else null. */
function unitAt(time) {
  const place = placeAt(time);
  for (let n = place; n >= Math.max(0, place - 8); n--) if (time + 1e-4 < ordered[n].end) return ordered[n];
  return null;
}

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** An element with properties and children, of which strings become text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A browser may refuse storage to a file; then nothing is remembered, and all else works.
function remember(key, value) {
  try { localStorage.setItem(`mlx-speech ${key}`, JSON.stringify(value)); } catch { /* as said */ }
}
function recall(key) {
  try { return JSON.parse(localStorage.getItem(`mlx-speech ${key}`)); } catch { return null; }
}

$("facts").textContent = [
  clock(duration),
  page.speakers.length ? `${page.speakers.length} ${page.speakers.length === 1 ? "speaker" : "speakers"}` : "",
  `${data.text.split(/\s+/).filter(Boolean).length.toLocaleString("en")} words`,
  data.language ? new Intl.DisplayNames(["en"], { type: "language", fallback: "code" }).of(data.language) : "",
].filter(Boolean).join(" · ");
