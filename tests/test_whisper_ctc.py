"""Whisper's encoder with a CTC head: the original's scores, windows, files and times. The tiny checkpoint is made
by parity/fixtures_whisper_ctc.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech import hub
from mlx_speech.audio import load_audio
from mlx_speech.converters._certificate import difference
from mlx_speech.errors import AudioError, CheckpointError
from mlx_speech.loading import load
from mlx_speech.models.whisper_ctc import WhisperCTCConfig, WhisperForCTC
from mlx_speech.pipeline import Aligner
from mlx_speech.stages import emissions
from mlx_speech.stages.align import align_segments
from mlx_speech.stages.emissions import Listener
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.types import Segment

FIXTURE = Path(__file__).parent / "fixtures/whisper_ctc"
LENGTHS = (320, 3200, 9600)  # as in parity/fixtures_whisper_ctc.py
DEMO = hub.ASSETS / "demo/sense_and_sensibility.flac"
LIMIT = 5e-6  # relative L2, float32 on both sides; measured at most 5e-7


@pytest.fixture(scope="module")
def model() -> WhisperForCTC:
    return load(f"path:{FIXTURE}", dtype="float32")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "expected.npz") as file:
        return {k: file[k] for k in file}


def samples(expected, length: int) -> mx.array:
    return mx.array(expected["audio"][None, :length].astype(np.float32))


@pytest.mark.parametrize("length", LENGTHS)
def test_scores_equal_the_original(model, expected, length):
    audio = samples(expected, length)
    features = model.encoder(model.features(audio))[0]
    assert difference(np.array(features), expected[f"encoder_{length}"])["relative_l2"] < LIMIT
    logits = model(model.normalize(audio))
    assert logits.dtype == mx.float32
    assert difference(np.array(logits[0]), expected[f"logits_{length}"])["relative_l2"] < LIMIT


def test_windows_of_one_length_share_a_batch(model, expected):
    audio = samples(expected, 9600).reshape(3, 3200)
    alone = mx.concatenate([model(row[None]) for row in audio])
    assert difference(np.array(model(audio)), np.array(alone))["relative_l2"] < LIMIT


def test_what_is_less_than_a_frame_is_not_heard(model, expected):
    config = model.config
    assert [config.output_length(n) for n in (0, 319, 320, 3519, 3520)] == [0, 0, 1, 10, 11]
    assert config.output_length(config.input_length(7)) == 7
    audio = samples(expected, 3519)
    assert mx.array_equal(model(audio), model(audio[:, :3200]))


def test_half_precision_is_close(expected):
    half = load(f"path:{FIXTURE}", dtype="float16")
    logits = half(samples(expected, 9600))
    assert logits.dtype == mx.float32
    assert 0 < difference(np.array(logits[0]), expected["logits_9600"])["relative_l2"] < 1e-2


def test_unusable_audio_is_refused(model):
    for audio, match in (
        (mx.zeros(3200), "1 dimensions"),
        (mx.zeros((1, 3200), mx.int16), "int16"),
        (mx.zeros((1, 319)), "319 samples; the model hears 320 to 32000"),
        (mx.zeros((1, 32320)), "32320 samples"),
    ):
        with pytest.raises(AudioError, match=match):
            model(audio)
    assert mx.isfinite(model(mx.zeros((1, 3200)))).all()


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("config.json", {"encoder_attention_heads": None}, "configuration does not fit"),
        ("config.json", {"encoder_attention_heads": 5}, "width 24 does not divide into 5 heads"),
        ("config.json", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("config.json", None, "encoder_attention_heads"),
        ("vocab.json", {"é": 32}, "ids up to 32, but the head has 32 rows"),
        ("vocab.json", None, r"vocab\.json: missing"),
    ],
)
def test_unfitting_files_are_named(tmp_path, file, change, match):
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "model"))
    if change is None:
        (folder / file).unlink()
    else:
        data = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(data | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=match):
        load(f"path:{folder}")


# --- as an aligner ----------------------------------------------------------------------------------------


class Spelling:
    """A model that hears each frame's token in the sample at the frame's middle."""

    config = WhisperCTCConfig(("<pad>", "|", *"abc"), 0, "|", 80, 1500, 384, 6, 4)

    def __init__(self):
        self.seconds = []

    def normalize(self, audio):
        return audio

    def __call__(self, audio):
        self.seconds.append(audio.shape[1] / 16000)
        heard = mx.round(audio[:, ::320] * 1000).astype(mx.int32)
        assert heard.shape[1] == self.config.output_length(audio.shape[1])
        return 8.0 * (heard[..., None] == mx.arange(5)).astype(mx.float32)


@pytest.mark.parametrize("window", [4.0, 10.0])
def test_a_frame_lies_around_its_sample(monkeypatch, window):
    monkeypatch.setattr(emissions, "_WINDOW", window)
    audio = np.zeros(16000 * 9 + 100, np.float32)
    for start, token in ((100, 2), (105, 3), (300, 4)):  # frames
        audio[320 * start : 320 * (start + 5) : 320] = token / 1000
    model = Spelling()
    segments = align_segments({"en": Listener(model)}, audio, [Segment(1, 9, "ab c", language="en")])
    found = [(w.text, w.start, w.end) for w in segments[0].words]
    assert [w for w, *_ in found] == ["ab", "c"]
    edges = [t for _, *times in found for t in times]
    np.testing.assert_allclose(edges, [1.99, 2.19, 5.99, 6.09], atol=1e-6)
    assert max(model.seconds) <= window


def test_it_aligns(expected):
    audio = np.tile(expected["audio"].astype(np.float32), 3)  # 1.8 s, less than the fixture hears at once
    options = AlignOptions(characters=True)
    found = Aligner.load(f"path:{FIXTURE}").align(audio, "one two", options, language="en")
    assert [w.text for w in found.words] == ["one", "two"]
    edges = [t for w in found.words for t in (w.start, w.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= 1.8


# --- the bundled one --------------------------------------------------------------------------------------


def spell(model, logits: mx.array) -> str:
    """The best token of each frame, repeats and blanks taken out."""
    best = mx.argmax(logits, axis=-1).tolist()
    kept = [n for i, n in enumerate(best) if n != model.config.blank and (i == 0 or n != best[i - 1])]
    return "".join(model.config.vocabulary[n] for n in kept).replace(model.config.word_delimiter, " ")


def test_the_bundled_aligner_hears_words():
    model = load("whisper-ctc-tiny.en")
    assert model.origin.layout == "mlx_speech"
    audio = mx.array(load_audio(DEMO)[: 12 * 16000])[None]
    logits = model(model.normalize(audio))
    assert logits.shape == (1, 600, 32)
    heard = spell(model, logits[0])
    # it spells by ear ("DASHWOD", "PRUDEINLY"), but these words come out whole
    assert {"MISTER", "JOHN", "LEISURE", "CONSIDER", "MUCH", "RATHER"} <= set(heard.split())


def test_the_bundled_aligner_is_small_and_says_what_it_is_made_of():
    folder = hub.locate("whisper-ctc-tiny.en")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20.1e6
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    for name in ("OpenAI", "LibriSpeech", "CC BY 4.0", "Kokoro", "Apache", "Austen"):
        assert name in licence
