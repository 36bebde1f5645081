// What the reader takes along: the transcript with their names, made of the data that the page holds.

/** The JSON format itself, speakers under their new names. */
function asJson() {
  const person = (value) => (value === null ? null : nameOf(value));
  const turns = (list) => list.map((turn) => ({ ...turn, speaker: nameOf(turn.speaker) }));
  const words = (list) => list.map((word) => ({
    ...word, speaker: person(word.speaker), overlap_speakers: word.overlap_speakers.map(nameOf),
  }));
  const segments = data.segments.map((s) => ({ ...s, speaker: person(s.speaker), words: words(s.words) }));
  return JSON.stringify({
    ...data,
    segments,
    speakers: [...new Set(data.speakers.map(nameOf))],
    turns: turns(data.turns),
    exclusive_turns: turns(data.exclusive_turns),
  }, null, 2) + "\n";
}

const oneLine = (string) => string.split(/\s+/).filter(Boolean).join(" ");

function asText() {
  const paragraphs = [];
  for (const turn of document.querySelectorAll(".turn")) {
    const speaker = page.speakers[Number(turn.dataset.speaker)];
    paragraphs.push((speaker ? `[${nameOf(speaker)}]: ` : "") + oneLine(turn.querySelector("p").textContent) + "\n");
  }
  return paragraphs.join("\n");
}

/** A subtitle a segment; none overlaps the next. */
function asSubtitles() {
  const stamp = (ms) => {
    const pad = (n, width = 2) => String(n).padStart(width, "0");
    const s = Math.floor(ms / 1000);
    return `${pad(Math.floor(s / 3600))}:${pad(Math.floor(s / 60) % 60)}:${pad(s % 60)},${pad(ms % 1000, 3)}`;
  };
  const cues = [];
  const segments = page.shown.map((id) => data.segments[id]).sort((a, b) => a.start - b.start);
  for (const segment of segments) {
    const label = segment.speaker ? `[${nameOf(segment.speaker)}]: ` : "";
    const last = cues.at(-1);
    let start = Math.max(0, Math.round(segment.start * 1000));
    let end = Math.max(Math.round(segment.end * 1000), start + 1);
    if (last && start > last.start) last.end = Math.min(last.end, start);
    else if (last) [start, end] = [last.end, Math.max(end, last.end + 1)];
    cues.push({ start, end, said: label + oneLine(segment.text).replace(/-+->/g, "->") });
  }
  return cues.map((cue, n) => `${n + 1}\n${stamp(cue.start)} --> ${stamp(cue.end)}\n${cue.said}\n`).join("\n");
}

const SAVED = {
  json: [asJson, "application/json"],
  txt: [asText, "text/plain"],
  srt: [asSubtitles, "application/x-subrip"],
};

for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => {
    const [render, type] = SAVED[button.dataset.save];
    const link = make("a", {
      href: URL.createObjectURL(new Blob([render()], { type: `${type};charset=utf-8` })),
      download: `${page.name}.${button.dataset.save}`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    $("save").open = false;
  });
}
$("print").addEventListener("click", () => {
  $("save").open = false;
  print();
});
document.addEventListener("click", (event) => {
  if (!$("save").contains(event.target)) $("save").open = false;
});
