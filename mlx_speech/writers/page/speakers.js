// Speakers: who they are, how long they speak, and what the reader calls them.

const names = Object.assign(Object.create(null), recall(`names ${page.key}`) ?? {});
const nameOf = (speaker) => names[speaker] || speaker;

function rename(speaker, name) {
  const wanted = name.trim().replace(/\s+/g, " ");
  if (wanted && wanted !== speaker) names[speaker] = wanted;
  else delete names[speaker];
  remember(`names ${page.key}`, names);
  showNames();
}

function showNames() {
  for (const element of document.querySelectorAll("[data-speaker] > .name, .who")) {
    const index = Number(element.closest("[data-speaker]").dataset.speaker);
    element.textContent = nameOf(page.speakers[index]);
    if (element.matches("button")) element.title = `Rename ${element.textContent}`;
  }
  redraw();
}

function buildSpeakers() {
  $("speakers-box").hidden = !page.speakers.length;
  const seconds = lanes.map((turns) => turns.reduce((sum, turn) => sum + turn.end - turn.start, 0));
  const all = seconds.reduce((a, b) => a + b, 0) || 1;
  page.speakers.forEach((speaker, n) => {
    const share = Math.round((seconds[n] / all) * 100);
    const meter = make("i", { className: "meter" });
    meter.style.setProperty("--share", `${share}%`);
    const button = make("button", { type: "button", className: "name" });
    button.addEventListener("click", () => askName(n));
    const item = make("li", { className: `k${n % 8}` }, make("i", { className: "chip" }), button,
      make("small", {}, `${clock(seconds[n])} · ${share} %`), meter);
    item.dataset.speaker = n;
    $("speakers").append(item);
    const lane = make("li", {}, make("span", { className: "name" }));
    lane.dataset.speaker = n;
    $("lane-names").append(lane);
  });
  $("lane-names").hidden = !page.speakers.length;
}

let asked = 0;
function askName(index) {
  asked = index;
  $("rename-of").textContent = page.speakers[index];
  $("name").value = nameOf(page.speakers[index]);
  $("rename").returnValue = "";
  $("rename").showModal();
  $("name").select();
}
$("rename").addEventListener("close", () => {
  if ($("rename").returnValue === "save") rename(page.speakers[asked], $("name").value);
});
$("rename-cancel").addEventListener("click", () => $("rename").close());
$("rename-reset").addEventListener("click", () => {
  rename(page.speakers[asked], "");
  $("rename").close();
});
$("text").addEventListener("click", (event) => {
  const button = event.target.closest(".who");
  if (button) askName(Number(button.dataset.speaker));
});

// --- light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function showTheme() {
  $("theme").setAttribute("aria-pressed", isDark());
  readColours();
  redraw();
}
function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
  showTheme();
}
if (["light", "dark"].includes(recall("theme"))) document.documentElement.dataset.theme = recall("theme");
dark.addEventListener("change", showTheme);
$("theme").addEventListener("click", toggleTheme);

buildSpeakers();
showNames();
showTheme();
