"""The page in a real browser, from file://: needs the browser extra's selenium, and Chromium on the machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_speech.hub import ASSETS
from mlx_speech.types import Diarization, Finding, Segment, Transcript, Turn, Word
from mlx_speech.writers import WriteOptions, render, write

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the browser extra's selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver"),
    pytest.mark.filterwarnings("default::ResourceWarning"),  # selenium's own sockets
]
CLIP = ASSETS / "demo" / "sense_and_sensibility.flac"
WAIT = 10.0
EVIL = "<img src=x onerror='window.pwned=1'></script><script>window.pwned=1</script>"
SPEAKERS = ("SPEAKER_00", EVIL)


def long_transcript(words: int, speakers: tuple[str, ...] = SPEAKERS) -> Transcript:
    """A word every third of a second, ten a segment, the speaker changing after two segments."""
    segments, turns = [], []
    for n in range(0, words, 10):
        who = speakers[n // 20 % len(speakers)]
        said = tuple(
            Word(
                f"w{k}" if k % 50 else "Straße", k / 3, k / 3 + 0.3, 0.2 if k % 25 == 24 else 0.9, speaker=who
            )
            for k in range(n, min(n + 10, words))
        )
        start, end = said[0].start, said[-1].end
        segments.append(Segment(start, end, " ".join(w.text for w in said), said, "en", speaker=who))
        turns.append(Turn(start, end + 0.4, who))
    voices = np.zeros((len(speakers), 2))
    found = Diarization(tuple(turns), tuple(turns), speakers, voices, voices, 0.01, 0.0, words / 3)
    findings = (Finding("loop", 10.0, 12.0, EVIL),)
    return Transcript(tuple(segments), "en", words / 3, (), found, findings)


class Browser:
    """Chromium without a window, and what the tests do in it."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def open(self, page: Path) -> None:
        self.driver.get(page.as_uri())

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def word(self, n: int) -> Any:
        return self.driver.execute_script(
            "return document.querySelectorAll('#text p > span')[arguments[0]]", n
        )

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def shift(self, key: str) -> None:
        actions = webdriver.ActionChains(self.driver)
        actions.key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    def until(self, wanted: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if found := wanted():
                return found
            time.sleep(0.02)
        pytest.fail(f"{what} did not come about in {WAIT} s")

    def theme(self, scheme: str) -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def complaints(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser")]

    def saved(self, kind: str) -> str:
        self.one("#save summary").click()
        self.one(f"[data-save={kind}]").click()
        path = self.downloads / f"talk.{kind}"
        self.until(path.exists, f"the download of {path.name}")
        text = path.read_text("utf-8")
        path.unlink()
        return text


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--mute-audio",
        "--autoplay-policy=no-user-gesture-required",
        "--window-size=1200,850",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    folder = tmp_path_factory.mktemp("downloads")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    """The page of 70 words beside its recording, opened; afterwards nothing may have been complained of."""
    browser = Browser(driver, driver.downloads)
    browser.theme("light")
    shutil.copyfile(CLIP, tmp_path / "talk #1.flac")
    write(long_transcript(70), tmp_path / "talk.html", "html", audio=tmp_path / "talk #1.flac")
    browser.open(tmp_path / "talk.html")
    browser.until(lambda: browser.run("audio.readyState > 0"), "the recording")
    yield browser
    assert not browser.run("window.pwned")
    assert browser.complaints() == []
    browser.run("localStorage.clear()")


def test_words_light_up_while_it_plays(page: Browser) -> None:
    page.press(Keys.SPACE)
    lit = page.until(lambda: page.run("current?.n"), "the second word")
    assert page.one("#play").get_attribute("aria-label") == "Pause"
    assert page.run("document.querySelectorAll('#text .on').length") == 1
    page.until(lambda: page.run("current?.n ?? -1") > lit, "a later word")
    page.one("#play").click()
    page.until(lambda: page.run("!player.playing"), "the pause")


def test_a_click_on_a_word_goes_there(page: Browser) -> None:
    page.word(42).click()
    page.until(lambda: page.run("Math.abs(audio.currentTime - 14) < 0.01 && !audio.seeking"), "the seek")
    assert page.run("current.n") == 42
    assert page.one(".turn[aria-current]").get_attribute("data-speaker") == "0"


def test_keys(page: Browser) -> None:
    page.press(Keys.ARROW_RIGHT)
    assert page.run("player.time") == 5
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.run("player.time") == 5
    page.run("player.seek(5.2)")
    page.shift(Keys.ARROW_RIGHT)
    assert page.run("current.n") == 16
    page.press("]")
    assert page.run("current.n") == 20
    page.press("u")
    assert page.run("current.n") == 24
    page.press("?")
    assert page.one("#keys").is_displayed()
    page.press(Keys.ESCAPE)
    page.press("/")
    page.press("d ")  # typed, not obeyed
    assert page.one("#query").get_attribute("value") == "d "
    assert not page.run("player.playing")


def test_letters_can_be_turned_off(page: Browser) -> None:
    page.one("#help").click()
    page.one("#letters").click()
    page.press(Keys.ESCAPE)
    page.press("]")
    assert page.run("player.time") == 0


def test_search_marks_and_jumps(page: Browser) -> None:
    page.one("#query").send_keys("STRASSE W1")
    page.until(lambda: page.one("#hits").text == "none", "no hit: ß is no ss")
    page.one("#query").clear()
    page.one("#query").send_keys("w48  w49 straße")
    page.until(lambda: page.one("#hits").text == "1 of 1", "the hit")
    assert page.run("[...document.querySelectorAll('.hit')].map((e) => e.textContent)") == [
        "w48",
        "w49",
        "Straße",
    ]
    page.one("#query").clear()
    page.one("#query").send_keys("straße", Keys.ENTER)
    page.until(lambda: page.one("#hits").text == "1 of 2", "two hits")
    page.one("#query").send_keys(Keys.ENTER)
    assert page.one("#hits").text == "2 of 2"
    assert page.run("unitOf.get(document.querySelector('.here')).n") == 50
    page.one("#query").send_keys(Keys.ESCAPE)
    assert not page.run("document.querySelectorAll('.hit, .here').length")


def test_renaming_is_shown_everywhere_kept_and_saved(page: Browser) -> None:
    page.one("#speakers [data-speaker='1'] .name").click()
    assert page.one("#rename-of").text == EVIL
    page.press("  Zoë <b>X</b> ", Keys.ENTER)
    both = "[data-speaker='1'] .who, [data-speaker='1'] .name"
    shown = f'[...document.querySelectorAll("{both}")].map((e) => e.textContent)'
    page.until(lambda: set(page.run(shown)) == {"Zoë <b>X</b>"}, "the new name everywhere")
    page.driver.refresh()
    assert set(page.run(shown)) == {"Zoë <b>X</b>"}
    assert "[Zoë <b>X</b>]: w20" in page.saved("txt")
    value = json.loads(page.saved("json"))
    assert value["speakers"] == ["SPEAKER_00", "Zoë <b>X</b>"]
    assert value["segments"][2]["words"][0]["speaker"] == value["turns"][2]["speaker"] == "Zoë <b>X</b>"
    page.one("#text .who[data-speaker='1']").click()
    page.one("#rename-reset").click()
    page.until(lambda: set(page.run(shown)) == {EVIL}, "the old name everywhere")


def test_what_is_saved_is_what_is_written(page: Browser) -> None:
    found = long_transcript(70)
    assert page.saved("txt") == render(found, "txt")
    assert page.saved("srt") == render(found, "srt")
    assert json.loads(page.saved("json")) == json.loads(render(found, "json"))


def test_light_and_dark(page: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.one("#theme").click()
    dark = page.run(colour)
    assert light != dark
    assert page.one("#theme").get_attribute("aria-pressed") == "true"
    page.driver.refresh()
    assert page.run(colour) == dark  # remembered
    page.run("localStorage.clear()")
    page.driver.refresh()
    assert page.run(colour) == light
    page.theme("dark")
    assert page.run(colour) == dark


def test_the_timeline_seeks_and_zooms(page: Browser) -> None:
    canvas = page.one("#canvas")
    webdriver.ActionChains(page.driver).move_to_element(canvas).click().perform()
    middle = page.run("duration / 2")
    assert page.run("player.time") == pytest.approx(middle, abs=0.1)
    assert page.one("#tip").text.startswith("0:11")
    page.one("#zoom-in").click()
    assert page.run("view.to - view.from") == pytest.approx(middle, rel=0.01)
    page.one("#zoom-fit").click()
    assert page.run("view.to - view.from") == page.run("duration")
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert int(canvas.get_attribute("aria-valuenow")) == int(middle + 5)


def test_findings_and_doubts(page: Browser) -> None:
    page.one("#findings button").click()
    assert page.run("player.time") == 10
    assert EVIL in page.one("#findings small").text
    page.one("#next-doubt").click()
    assert page.run("current.n") == 49
    page.one("#doubts").click()
    assert page.run("getComputedStyle(document.querySelector('#text .low')).textDecorationLine") == "none"


def test_an_embedded_recording_plays(page: Browser, tmp_path: Path) -> None:
    write(long_transcript(70), tmp_path / "alone.html", "html", WriteOptions(embed_audio=True), audio=CLIP)
    (tmp_path / "elsewhere").mkdir()
    page.open((tmp_path / "alone.html").rename(tmp_path / "elsewhere" / "alone.html"))
    page.until(lambda: page.run("audio.readyState > 0"), "the recording")
    page.word(60).click()
    page.until(lambda: page.run("Math.abs(audio.currentTime - 20) < 0.01 && !audio.seeking"), "the seek")
    page.press(Keys.SPACE)
    page.until(lambda: page.run("current && current.n > 60"), "a later word")


def test_a_missing_recording_can_be_chosen(page: Browser, tmp_path: Path) -> None:
    page.driver.get_log("browser")
    write(long_transcript(70), tmp_path / "lost.html", "html", audio=tmp_path / "gone 1.wav")
    page.open(tmp_path / "lost.html")
    page.until(lambda: page.one("#notice").is_displayed(), "the notice")
    assert "gone 1.wav" in page.one("#notice").text
    page.word(30).click()  # the page is of use without it
    assert page.run("current.n") == 30
    page.one("#file").send_keys(str(CLIP))
    page.until(
        lambda: page.run("audio.readyState > 0 && audio.currentTime === 10"), "the recording at that word"
    )
    assert not page.one("#notice").is_displayed()
    assert [m for m in page.complaints() if "ERR_FILE_NOT_FOUND" not in m] == []


def test_scrolling_away_while_it_plays_is_respected(page: Browser, tmp_path: Path) -> None:
    write(long_transcript(3000), tmp_path / "long.html", "html", audio=tmp_path / "talk #1.flac")
    page.open(tmp_path / "long.html")
    page.until(lambda: page.run("audio.readyState > 0"), "the recording")
    page.press(Keys.SPACE)
    page.until(lambda: page.run("current !== null"), "a word")
    main = page.one("main")
    webdriver.ActionChains(page.driver).scroll_from_origin(
        webdriver.common.actions.wheel_input.ScrollOrigin.from_element(page.word(5)), 0, 4000
    ).perform()
    page.until(lambda: page.run("scrollY > 1000"), "the scroll")
    lit = page.run("current?.n ?? 0")
    page.until(lambda: page.run("current?.n ?? -1") > lit + 1, "later words")
    assert page.run("scrollY") > 1000
    page.one("#follow").click()
    page.until(lambda: page.run("scrollY") < 1000, "the way back")
    assert main.is_displayed()


def test_three_hours_of_words(page: Browser, tmp_path: Path) -> None:
    write(long_transcript(30_000), tmp_path / "long.html", "html")
    page.open(tmp_path / "long.html")
    assert page.run("units.length") == 30_000
    page.run("player.seek(9000.1)")
    box = "current.span.getBoundingClientRect()"
    page.until(
        lambda: page.run(f"current.n === 27000 && {box}.top > 0 && {box}.bottom < innerHeight"),
        "the word in view",
    )


@pytest.mark.parametrize(
    "found",
    [
        Transcript((), None, 0.0),
        Transcript((Segment(1.0, 2.0, "No words."), Segment(2.0, 3.0, "今日は", language="ja")), "ja", 4.0),
    ],
    ids=["nothing said", "no words, no speakers"],
)
def test_little_is_enough(page: Browser, tmp_path: Path, found: Transcript) -> None:
    write(found, tmp_path / "little.html", "html", audio=tmp_path / "talk #1.flac")
    page.open(tmp_path / "little.html")
    page.until(lambda: page.run("audio.readyState > 0"), "the recording")
    page.press("]", "[", "u")
    page.shift(Keys.ARROW_RIGHT)
    page.one("#query").send_keys("x")
    assert page.run("current?.segment.text ?? null") == (None if not found.segments else "今日は")
