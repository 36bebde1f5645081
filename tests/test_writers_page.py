"""The page as text: what is in it, and that nothing a recording says can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech.errors import OutputError
from mlx_speech.types import Diarization, Finding, Segment, Span, Transcript, Turn, Word
from mlx_speech.writers import WriteOptions, html, render, write

EVIL = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"' onmouseover='window.pwned=1",
    "<!--<script>",
    "${7*7}$title{{7*7}}",
    "javascript:window.pwned=1",
    "\u2028&lt;b&gt;\u202e",
)


def evil_transcript() -> Transcript:
    """Markup wherever a recording or a person can put text."""
    turns = tuple(Turn(float(n), n + 1.5, text) for n, text in enumerate(EVIL))
    voices = np.zeros((len(EVIL), 2))
    found = Diarization(turns, turns, EVIL, voices, np.zeros((3, len(EVIL))), 0.01, 0.0, 9.0)
    segments = tuple(
        Segment(
            float(n),
            n + 0.9,
            f" {text} said",
            (
                Word(text, float(n), n + 0.5, 0.9, speaker=text, overlap_speakers=(EVIL[0],)),
                Word("said", n + 0.5, n + 0.9, 0.2, speaker=text),
            ),
            "en",
            speaker=text,
        )
        for n, text in enumerate(EVIL)
    )
    findings = tuple(Finding("loop", 1.0, 2.0, text) for text in EVIL)
    return Transcript(segments, EVIL[0], 9.0, (Span(0, 9),), found, findings)


class Reader(HTMLParser):
    """Elements with their attributes, text by element, and scripts as they are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if self._open[-2:] == ["p", "span"] and "main" in self._open:
            self.words.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        if self._open[-1:] == ["style"]:
            self.style += data
        if self._open[-2:] == ["p", "span"] and "main" in self._open:
            self.words[-1] += data

    def script(self, name: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)


PLAIN = Transcript(
    (
        Segment(0.5, 2.0, " Hello there", (Word("Hello", 0.5, 1, 0.9), Word("there", 1, 2, 0.2)), "en"),
        Segment(2.0, 2.5, "   "),
        Segment(5.0, 6.0, " No words here.", language="en"),
    ),
    "en",
    7.0,
    (Span(0.4, 6.1),),
)


def test_the_words_in_order() -> None:
    page = Reader(render(PLAIN, "html", name="A & B"))
    assert page.words == ["Hello", "there", "No words here."]
    marks = [a.get("class") for tag, a in page.elements if tag == "span" and a.get("class") in (None, "low")]
    assert marks.count("low") == 2  # one is the legend's
    assert json.loads(page.script("page-data"))["shown"] == [0, 2]


def test_the_data_is_the_json_format() -> None:
    fastjsonschema = pytest.importorskip("fastjsonschema")
    found = evil_transcript()
    held = json.loads(Reader(render(found, "html")).script("transcript-data"))
    assert held == json.loads(render(found, "json"))
    schema = Path(html.__file__).with_name("transcript.schema.json").read_text("utf-8")
    fastjsonschema.compile(json.loads(schema))(held)


def test_markup_in_the_data_stays_text() -> None:
    text = render(evil_transcript(), "html", name=EVIL[0], audio=EVIL[1])
    page, harmless = Reader(text), Reader(render(PLAIN, "html"))
    assert len(page.scripts) == len(harmless.scripts) == 3
    assert not [a for _, a in page.elements for name in a if name.startswith("on") or name == "style"]
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements} | {"button"}
    assert page.words[::2] == [" ".join(t.split()) for t in EVIL]
    for _, script in page.scripts[:-1]:
        assert not set(script) & set("<>&\u2028\u2029")


@given(st.text(st.sampled_from("<>&\"'/!-scriptSCRIPT \u2028$\\"), max_size=30))
def test_no_text_ends_its_script(text: str) -> None:
    found = Transcript((Segment(0, 1, text, speaker=text),), text, 1.0)
    page = Reader(render(found, "html", name=text))
    assert len(page.scripts) == 3
    assert json.loads(page.script("transcript-data"))["segments"][0]["text"] == text


def test_the_policy_allows_this_script_and_this_style_only() -> None:
    page = Reader(render(evil_transcript(), "html"))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"] == digest(page.scripts[-1][1])
    assert allowed["style-src"] == digest(page.style)


def test_nothing_is_fetched() -> None:
    page = Reader(render(PLAIN, "html", audio="talk.wav"))
    sources = [
        v for tag, a in page.elements for n, v in a.items() if n in ("src", "href", "srcset", "action") and v
    ]
    assert sources == ["data:,", "#text", "./talk.wav"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", render(PLAIN, "html"))


@pytest.mark.parametrize(
    ("audio", "page", "address"),
    [
        ("talk.wav", "talk.html", "./talk.wav"),
        ("in/a b#1?.mp3", "out/deep/x.html", "./../../in/a%20b%231%3F.mp3"),
        ("a:b.wav", "x.html", "./a%3Ab.wav"),
        ('"><i>.wav', "x.html", "./%22%3E%3Ci%3E.wav"),
        ("grün.ogg", "x.html", "./gr%C3%BCn.ogg"),
    ],
)
def test_the_recording_is_found_from_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: str, page: str, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
    write(PLAIN, page, "html", audio=audio)
    elements = Reader((tmp_path / page).read_text("utf-8")).elements
    assert [a["src"] for tag, a in elements if tag == "audio"] == [address]


def test_the_recording_can_be_embedded(tmp_path: Path) -> None:
    (tmp_path / "talk.flac").write_bytes(bytes(range(256)))
    write(PLAIN, tmp_path / "a.html", "html", WriteOptions(embed_audio=True), audio=tmp_path / "talk.flac")
    page = Reader((tmp_path / "a.html").read_text("utf-8"))
    assert base64.b64decode(page.script("audio-data")) == bytes(range(256))
    assert [a["data-type"] for tag, a in page.elements if "data-type" in a] == ["audio/flac"]
    with pytest.raises(OutputError, match=r"gone\.wav: could not be read to be embedded"):
        write(PLAIN, tmp_path / "b.html", "html", WriteOptions(embed_audio=True), audio=tmp_path / "gone.wav")
    assert not (tmp_path / "b.html").exists()


def test_a_speaker_is_named_where_another_begins() -> None:
    def said(start: float, who: str | None) -> Segment:
        return Segment(start, start + 0.5, "Yes.", speaker=who)

    found = Transcript((said(0, "A"), said(9, "A"), said(10, "B"), said(20, None)), "en", 30.0)
    page = Reader(render(found, "html"))
    turns = [a["data-speaker"] for tag, a in page.elements if tag == "section"]
    named = [a["data-speaker"] for tag, a in page.elements if a.get("class") == "who"]
    assert (turns, named) == (["0", "0", "1", "-1"], ["0", "1"])


def test_colours_begin_anew_after_the_last() -> None:
    many = [Segment(float(n), n + 0.5, "Yes.", speaker=f"S{n}") for n in range(10)]
    page = Reader(render(Transcript(tuple(many), "en", 10.0), "html"))
    assert [a["class"] for tag, a in page.elements if tag == "section"][6:] == [
        f"turn k{n}" for n in (6, 7, 0, 1)
    ]


def test_each_page_remembers_its_own_names() -> None:
    def key(found: Transcript, name: str = "a") -> str:
        return json.loads(Reader(render(found, "html", name=name)).script("page-data"))["key"]

    assert key(PLAIN) == key(replace(PLAIN))
    assert len({key(PLAIN), key(PLAIN, "b"), key(replace(PLAIN, duration=8.0))}) == 3


@pytest.mark.parametrize("nothing", [Transcript((), None, 0.0), Transcript((), "en", 5.0)])
def test_nothing_said(nothing: Transcript) -> None:
    assert Reader(render(nothing, "html")).words == []


def test_times_must_be_finite() -> None:
    with pytest.raises(OutputError, match="must be finite"):
        render(Transcript((Segment(float("nan"), 1.0, "hm"),), "en", 1.0), "html")


def _scripts() -> list[Any]:
    return [pytest.param(name, id=name) for name in html.SCRIPTS]


@pytest.mark.parametrize("name", _scripts())
def test_scripts_make_no_markup(name: str) -> None:
    script = (Path(html.__file__).parent / "page" / f"{name}.js").read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script
    )
    assert "</script" not in script.lower()


def test_every_script_is_used() -> None:
    assert {p.stem for p in (Path(html.__file__).parent / "page").glob("*.js")} == set(html.SCRIPTS)
