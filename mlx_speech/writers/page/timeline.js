// The timeline: a lane a speaker (or one for speech), drawn anew whenever something changes.

const canvas = $("canvas");
const pen = canvas.getContext("2d");
const lanes = page.speakers.length
  ? page.speakers.map((name) => data.turns.filter((turn) => turn.speaker === name))
  : [data.speech.length ? data.speech : data.segments];
const LANE = Math.max(4, Math.min(14, Math.floor(84 / lanes.length)));
const GAP = lanes.length > 8 ? 1 : 3;
const AXIS = 16;
const OVERVIEW = 5;
const TOP = 9; // for the marks of findings and hits
const HEIGHT = TOP + lanes.length * (LANE + GAP) + AXIS + OVERVIEW;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
const view = { from: 0, to: Math.max(duration, 1) };
let hover = null;
let colours = {};
let drawing = false;

function readColours() {
  const style = (element) => getComputedStyle(element);
  const probe = make("i", { className: "probe" });
  document.body.append(probe);
  const read = (name) => {
    probe.className = `probe ${name}`;
    return style(probe).color;
  };
  colours = Object.fromEntries(["ink", "muted", "line", "hit", "warn", "track"].map((n) => [n, read(`c-${n}`)]));
  colours.speakers = lanes.map((_, n) => read(page.speakers.length ? `k${n % 8}` : "c-muted"));
  probe.remove();
}

function draw() {
  drawing = false;
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(HEIGHT * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, HEIGHT);
  const x = (time) => ((time - view.from) / (view.to - view.from)) * width;
  lanes.forEach((turns, n) => {
    const y = TOP + n * (LANE + GAP);
    bar(0, y, width, LANE, colours.track);
    for (const turn of turns) {
      if (turn.end < view.from || turn.start > view.to) continue;
      bar(x(turn.start), y, Math.max(x(turn.end) - x(turn.start), 1), LANE, colours.speakers[n]);
    }
  });
  drawAxis(x, width);
  for (const finding of data.findings) mark(x(finding.start), colours.warn);
  for (const hit of search.hits) mark(x(hit[0].start), colours.hit);
  if (hover !== null) line(x(hover), colours.muted, 1);
  line(x(player.time), colours.ink, 2);
  drawOverview(width);
}

function bar(x, y, width, height, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.roundRect(x, y, width, height, Math.min(2, width / 2));
  pen.fill();
}

function line(x, colour, width) {
  pen.fillStyle = colour;
  pen.fillRect(x - width / 2, 2, width, HEIGHT - AXIS - OVERVIEW - 2);
}

function mark(x, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.moveTo(x - 3.5, 1);
  pen.lineTo(x + 3.5, 1);
  pen.lineTo(x, 7);
  pen.fill();
}

function drawAxis(x, width) {
  const span = view.to - view.from;
  const step = STEPS.find((s) => (s / span) * width >= 64) ?? 14400;
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillStyle = colours.muted;
  const y = HEIGHT - OVERVIEW - 5;
  for (let time = Math.ceil(view.from / step) * step; time <= view.to; time += step) {
    const text = step < 1 ? `${clock(time)}.${Math.round((time % 1) * 10)}` : clock(time);
    const wide = pen.measureText(text).width;
    const left = Math.min(Math.max(x(time) - wide / 2, 0), width - wide);
    pen.fillText(text, left, y);
  }
}

function drawOverview(width) {
  if (view.to - view.from >= duration) return;
  bar(0, HEIGHT - 3, width, 3, colours.track);
  bar((view.from / duration) * width, HEIGHT - 3, Math.max(((view.to - view.from) / duration) * width, 6), 3, colours.muted);
}

function redraw() {
  if (!drawing) requestAnimationFrame(draw);
  drawing = true;
}

/** Show `span` seconds with `time` staying at the same place. */
function zoom(factor, time = player.time) {
  const full = Math.max(duration, 1);
  const span = Math.min(Math.max((view.to - view.from) * factor, Math.min(2, full)), full);
  const inside = time >= view.from && time <= view.to;
  const place = inside ? (time - view.from) / (view.to - view.from) : 0.5;
  pan(time - place * span, span);
}

function pan(from, span = view.to - view.from) {
  const full = Math.max(duration, 1);
  view.from = Math.min(Math.max(from, 0), full - span);
  view.to = view.from + span;
  redraw();
}

const timeOf = (event) => view.from + (event.offsetX / canvas.clientWidth) * (view.to - view.from);

function point(event) {
  hover = Math.min(Math.max(timeOf(event), 0), duration);
  const who = page.speakers.filter((_, n) => lanes[n].some((t) => t.start <= hover && hover < t.end)).map(nameOf);
  $("tip").textContent = [clock(hover), who.join(", ")].filter(Boolean).join(" · ");
  $("tip").hidden = false;
  const half = $("tip").offsetWidth / 2;
  $("tip").style.left = `${Math.min(Math.max(event.offsetX, half), canvas.clientWidth - half)}px`;
  redraw();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  player.seek(timeOf(event));
});
canvas.addEventListener("pointermove", (event) => {
  point(event);
  if (event.buttons & 1) player.seek(timeOf(event));
});
canvas.addEventListener("pointerleave", () => {
  hover = null;
  $("tip").hidden = true;
  redraw();
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode ? 30 : 1;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
    const moved = (event.deltaX || event.deltaY) * unit;
    pan(view.from + (moved / canvas.clientWidth) * (view.to - view.from));
  } else zoom(Math.exp(event.deltaY * unit * 0.0025), timeOf(event));
}, { passive: false });
$("zoom-in").addEventListener("click", () => zoom(0.5));
$("zoom-out").addEventListener("click", () => zoom(2));
$("zoom-fit").addEventListener("click", () => pan(0, Math.max(duration, 1)));

player.listeners.push((time) => {
  const span = view.to - view.from;
  if (time < view.from || time > view.to) pan(time - span * 0.1);
  if (canvas.getAttribute("aria-valuenow") !== String(Math.floor(time))) {
    canvas.setAttribute("aria-valuenow", Math.floor(time));
    const who = unitAt(time)?.segment.speaker;
    canvas.setAttribute("aria-valuetext", `${clock(time)} of ${clock(duration)}${who ? `, ${nameOf(who)}` : ""}`);
  }
  redraw();
});

canvas.style.height = `${HEIGHT}px`;
canvas.setAttribute("aria-valuemax", Math.floor(duration));
$("lane-names").style.setProperty("--lane", `${LANE}px`);
$("lane-names").style.setProperty("--gap", `${GAP}px`);
$("lane-names").style.setProperty("--top", `${TOP}px`);
new ResizeObserver(redraw).observe(canvas);
new ResizeObserver(() => document.documentElement.style.setProperty("--dock", `${$("dock").offsetHeight}px`)).observe($("dock"));
