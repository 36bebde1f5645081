// Search over the whole text, also across words and paragraphs' ends.

const search = { hits: [], at: -1, haystack: null, offsets: null };

const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** All text once, and where in it each unit begins. */
function prepare() {
  const pieces = [];
  search.offsets = new Uint32Array(units.length);
  let length = 0;
  units.forEach((unit, n) => {
    const before = n && /^\s/.test(unit.span.previousSibling?.data ?? " ") ? " " : "";
    const piece = before + plain(unit.span.textContent);
    search.offsets[n] = length + before.length;
    length += piece.length;
    pieces.push(piece);
  });
  search.haystack = pieces.join("");
}

function unitHolding(offset) {
  let low = 0, high = units.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (search.offsets[middle] <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function find(query) {
  for (const span of document.querySelectorAll("#text .hit")) span.classList.remove("hit", "here");
  search.hits = [];
  search.at = -1;
  const wanted = plain(query).trim().replace(/\s+/g, " ");
  if (wanted) {
    if (search.haystack === null) prepare();
    for (let at = search.haystack.indexOf(wanted); at >= 0; at = search.haystack.indexOf(wanted, at + wanted.length)) {
      const hit = units.slice(unitHolding(at), unitHolding(at + wanted.length - 1) + 1);
      for (const unit of hit) unit.span.classList.add("hit");
      search.hits.push(hit);
    }
  }
  if (search.hits.length) {
    const next = search.hits.findIndex((hit) => hit[0].start >= player.time);
    show(next < 0 ? 0 : next);
  } else $("hits").textContent = wanted ? "none" : "";
  $("hit-before").disabled = $("hit-after").disabled = !search.hits.length;
  redraw();
}

function show(n) {
  const mark = (on) => search.hits[search.at]?.forEach((unit) => unit.span.classList.toggle("here", on));
  mark(false);
  search.at = (n + search.hits.length) % search.hits.length;
  mark(true);
  reveal(search.hits[search.at][0].span);
  if (player.playing) setFollowing(false);
  $("hits").textContent = `${search.at + 1} of ${search.hits.length.toLocaleString("en")}`;
}

let typed = 0;
$("query").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => find($("query").value), 120);
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (search.hits.length) show(search.at + 1);
});
$("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.shiftKey && search.hits.length) {
    event.preventDefault();
    show(search.at - 1);
  }
  if (event.key === "Escape") {
    $("query").value = "";
    find("");
    $("query").blur();
  }
});
$("hit-before").addEventListener("click", () => show(search.at - 1));
$("hit-after").addEventListener("click", () => show(search.at + 1));
