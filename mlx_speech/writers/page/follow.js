// The text: words light up as they are said, and a click on one goes there.

const text = $("text");
let current = null; // the lit unit
let currentTurn = null;
let following = true; // until the reader scrolls; then the way back is offered

function light(time, jumped) {
  const unit = unitAt(time);
  if (unit !== current || jumped) {
    current?.span.classList.remove("on");
    unit?.span.classList.add("on");
    current = unit;
    const near = unit ?? (jumped ? ordered[placeAt(time) + 1] ?? ordered.at(-1) : null); // in a pause: what comes
    if (near) showTurn(near.span.closest(".turn"));
    if (near && jumped) reveal(near.span);
  }
  if (unit && following && !jumped) reveal(unit.span, false);
}

function showTurn(turn) {
  if (turn === currentTurn) return;
  currentTurn?.removeAttribute("aria-current");
  turn.setAttribute("aria-current", "true");
  currentTurn = turn;
}

/** Bring an element into the middle of what can be seen, if it is outside of it. */
function reveal(element, jumped = true) {
  if (jumped) setFollowing(true);
  const box = element.getBoundingClientRect();
  const top = document.querySelector(".top").getBoundingClientRect().bottom;
  const bottom = $("dock").getBoundingClientRect().top;
  if (box.height && box.top >= top + 8 && box.bottom <= bottom - 24) return;
  const near = Math.abs(box.top - innerHeight / 2) < 1.5 * innerHeight;
  const behavior = near && !calm.matches ? "smooth" : "instant";
  element.scrollIntoView({ block: "center", behavior });
  // paragraphs far away are as high as guessed until they are seen: look again
  if (behavior === "instant") requestAnimationFrame(() => element.scrollIntoView({ block: "center", behavior }));
}

function setFollowing(on) {
  following = on;
  $("follow").hidden = on;
}

player.listeners.push(light);
for (const event of ["wheel", "touchmove"]) {
  document.addEventListener(event, (e) => {
    if (e.target instanceof Element && e.target.closest("#text") && player.playing) setFollowing(false);
  }, { passive: true });
}
$("follow").addEventListener("click", () => reveal(current?.span ?? currentTurn));

text.addEventListener("click", (event) => {
  if (!getSelection().isCollapsed) return; // a word marked to be copied is not a wish to hear it
  const unit = unitOf.get(event.target);
  if (unit) player.seek(unit.start);
  const button = event.target.closest(".at");
  if (button) player.seek(firstOf(button.closest(".turn")).start);
});

function firstOf(turn) { return unitOf.get(turn.querySelector("p > span")); }

// What is known of a word is put together when it is pointed at
text.addEventListener("pointerover", (event) => {
  const unit = unitOf.get(event.target);
  if (!unit) return;
  const { timed } = unit;
  const also = (timed.overlap_speakers ?? []).map(nameOf);
  unit.span.title = [
    `${clock(unit.start)}`,
    timed.score == null ? "" : `${Math.round(timed.score * 100)} % sure`,
    timed.uncertain ? "time is a guess or the word is unclear" : "",
    also.length ? `${also.join(", ")} ${also.length > 1 ? "speak" : "speaks"} too` : "",
  ].filter(Boolean).join(" · ");
});

/** Go to the start of the turn before or after the time. */
function seekTurn(step) {
  const turns = [...document.querySelectorAll(".turn")];
  const here = turns.indexOf(currentTurn);
  const turn = turns[Math.min(Math.max(here + step, 0), turns.length - 1)];
  if (turn) player.seek(firstOf(turn).start);
}

/** Go to the word before or after the time. */
function seekWord(step) {
  const place = placeAt(player.time) + step;
  if (ordered[place]) player.seek(ordered[place].start);
}

// --- uncertain words

const doubts = units.filter((unit) => unit.span.classList.contains("low"));
$("doubts-box").hidden = !doubts.length;
$("next-doubt").append(` (${doubts.length.toLocaleString("en")})`);
$("doubts").addEventListener("change", () => text.classList.toggle("sure", !$("doubts").checked));
$("next-doubt").addEventListener("click", seekDoubt);
function seekDoubt() {
  const next = doubts.find((unit) => unit.start > player.time + 0.001) ?? doubts[0];
  if (next) player.seek(next.start);
}

// --- findings

const KINDS = {
  "speech-without-words": "Speech without words",
  "words-without-speech": "Words without speech",
  "loop": "Repetition",
  "uncertain-alignment": "Uncertain times",
};
$("findings-box").hidden = !data.findings.length;
for (const finding of data.findings) {
  const button = make("button", { type: "button" },
    make("b", {}, KINDS[finding.kind] ?? finding.kind), ` ${clock(finding.start)}`, make("small", {}, finding.message));
  button.addEventListener("click", () => player.seek(finding.start));
  $("findings").append(make("li", {}, button));
}
