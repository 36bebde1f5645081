// The keyboard. Letters can be turned off, for those whose voice or slip types them.

const KEYS = [
  ["Space", " ", "Play or pause", () => player.toggle()],
  ["←", "ArrowLeft", "Back 5 seconds", () => player.seek(player.time - 5)],
  ["→", "ArrowRight", "Ahead 5 seconds", () => player.seek(player.time + 5)],
  ["Shift ←", "Shift ArrowLeft", "Previous word", () => seekWord(-1)],
  ["Shift →", "Shift ArrowRight", "Next word", () => seekWord(1)],
  ["[", "[", "Previous paragraph", () => seekTurn(-1)],
  ["]", "]", "Next paragraph", () => seekTurn(1)],
  ["/", "/", "Search", () => $("query").focus()],
  ["U", "u", "Next uncertain word", seekDoubt],
  ["D", "d", "Light or dark", toggleTheme],
  ["+", "+", "Zoom the timeline in", () => zoom(0.5)],
  ["−", "-", "Zoom the timeline out", () => zoom(2)],
  ["?", "?", "This list", () => $("keys").showModal()],
];
const actions = new Map(KEYS.map(([, key, , action]) => [key, action]));

for (const [label, , what] of KEYS) {
  $("keys-table").append(make("tr", {}, make("td", {}, make("kbd", {}, label)), make("td", {}, what)));
}
$("help").addEventListener("click", () => $("keys").showModal());
$("letters").checked = recall("letters") ?? true;
$("letters").addEventListener("change", () => remember("letters", $("letters").checked));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const focused = event.target instanceof Element ? event.target : document.body;
  if (focused.closest("input:not([type=checkbox]), select, textarea")) return;
  if (event.key === " " && focused.closest("button, summary, input, label")) return; // it presses these
  const arrow = event.key.startsWith("Arrow");
  if (event.key.length === 1 && event.key !== " " && !$("letters").checked) return;
  const action = actions.get(arrow && event.shiftKey ? `Shift ${event.key}` : event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (!action) return;
  event.preventDefault();
  action();
});

player.tell();
