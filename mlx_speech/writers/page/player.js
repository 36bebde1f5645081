// The sound: play, seek, speed, and where it comes from.

const audio = $("audio");
const player = {
  listeners: [],
  wanted: 0, // where to start once the recording is there; without one, just where the reader is

  get time() { return audio.readyState > 0 ? audio.currentTime : this.wanted; },
  get playing() { return !audio.paused && !audio.ended; },

  seek(time) {
    this.wanted = Math.min(Math.max(time, 0), duration);
    if (audio.readyState > 0) audio.currentTime = this.wanted;
    this.tell(true);
  },
  toggle() {
    if (this.playing) audio.pause();
    else audio.play().catch(() => missing());
  },
  /** Call everyone who follows the time; `jumped` if it did not just pass. */
  tell(jumped = false) {
    const time = this.time;
    for (const listener of this.listeners) listener(time, jumped);
  },
};

function missing() {
  const source = audio.getAttribute("src");
  $("notice-text").textContent = source && !source.startsWith("blob:")
    ? `The recording “${decodeURIComponent(source.split("/").at(-1))}” could not be played from where this page is.`
    : "This page came without its recording, or in a format this browser does not play.";
  $("notice").hidden = false;
}

function tick() {
  player.tell();
  if (player.playing) requestAnimationFrame(tick);
}

audio.addEventListener("play", () => requestAnimationFrame(tick));
for (const event of ["play", "pause", "ended"]) {
  audio.addEventListener(event, () => {
    document.body.classList.toggle("playing", player.playing);
    $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  });
}
audio.addEventListener("seeked", () => player.tell(true));
audio.addEventListener("timeupdate", () => { if (!player.playing) player.tell(); });
audio.addEventListener("loadedmetadata", () => {
  $("notice").hidden = true;
  audio.playbackRate = Number($("speed").value);
  if (player.wanted) audio.currentTime = player.wanted;
});
audio.addEventListener("error", missing);

function load(blob) {
  player.wanted = player.time;
  audio.src = URL.createObjectURL(blob);
}
$("file").addEventListener("change", () => { if ($("file").files[0]) load($("file").files[0]); });
const embedded = $("audio-data");
if (embedded) {
  const bytes = Uint8Array.from(atob(embedded.textContent), (char) => char.charCodeAt(0));
  embedded.remove();
  load(new Blob([bytes], { type: embedded.dataset.type }));
} else if (!audio.getAttribute("src")) missing();
if (audio.error) missing(); // failed before this script ran

$("play").addEventListener("click", () => player.toggle());
$("back").addEventListener("click", () => player.seek(player.time - 5));
$("ahead").addEventListener("click", () => player.seek(player.time + 5));
$("speed").addEventListener("change", () => { audio.playbackRate = Number($("speed").value); });
$("length").textContent = clock(duration);
player.listeners.push((time) => {
  const text = clock(time);
  if ($("now").textContent !== text) $("now").textContent = text;
});
