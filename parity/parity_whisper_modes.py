"""Whisper's other ways of decoding, token by token against openai-whisper: beams, prompts, translation, languages.

Real tiny.en and base in float32; each side runs whole, from the waveform on. The original's answers stay in
``out/whisper/`` (ignored by git) under a name made of the question, so that a second run computes ours alone.
Languages other than English are spoken by a machine (foreign_speech.py).
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
import whisper
from foreign_speech import foreign_speech
from harness import Row, close, same
from parity_whisper import ROOT, SIZES, Pair, clips_of, data_folder, first_difference, open_pair
from whisper.decoding import DecodingOptions

from mlx_speech.audio import load_audio
from mlx_speech.stages.decode import decode, detect_language
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
from mlx_speech.stages.sequential import transcribe_sequential
from mlx_speech.stages.transcribe import encode

KEPT = ROOT / "out/whisper"
CLIPS = (
    "jfk.flac",
    "pyannote_sample/sample.wav",
    "ami/trn00_EN2001a_0-30s.wav",
    "librispeech_test_other/1998-15444-0005.flac",
    "ljspeech/LJ001-0003.wav",
)
RECORDING = "kokoro_dialog/call2.flac"
PROMPT = "A talk about Mister Hale, Kennedy and the woodcutters of the Netherlands."


@dataclass(frozen=True)
class Mode:
    """A way of decoding: ours and the original's options for it, and the clips it is run on."""

    name: str
    ours: dict[str, Any]
    theirs: dict[str, Any]
    clips: tuple[str, ...] = CLIPS


MODES = (
    Mode("beam 5", {"beam_size": 5}, {"beam_size": 5}),
    Mode(
        "beam 5, no timestamps",
        {"beam_size": 5, "timestamps": False},
        {"beam_size": 5, "without_timestamps": True},
        CLIPS[:2],
    ),
    Mode(
        "beam 3, patience 2, length penalty 0.6",
        {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6},
        {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6},
        CLIPS[:2],
    ),
    Mode("with a prompt", {"prompt": PROMPT}, {"prompt": PROMPT}),
    Mode(
        "with a prompt, beam 5",
        {"prompt": PROMPT, "beam_size": 5},
        {"prompt": PROMPT, "beam_size": 5},
        CLIPS[:2],
    ),
    Mode("with a prefix", {"prefix": "And so my"}, {"prefix": "And so my"}, CLIPS[:1]),
)
FOREIGN = (
    Mode("transcribed", {}, {}),
    Mode("translated", {"task": "translate"}, {"task": "translate"}),
    Mode("translated, beam 5", {"task": "translate", "beam_size": 5}, {"task": "translate", "beam_size": 5}),
)


def run() -> list[Row]:
    """All rows; needs the real weights, the recordings and eSpeak NG."""
    torch.set_num_threads(1)  # see parity_whisper.run
    clips, spoken = clips_of(CLIPS), foreign_speech()
    rows = []
    with torch.no_grad():
        for size in SIZES:
            pair = open_pair(size)
            for mode in MODES:
                chosen = {n: Heard(clips[n]) for n in mode.clips}
                rows.append(tokens_row(pair, mode, chosen, f"whisper {size}: {mode.name}"))
            rows += recording_rows(pair)
            if pair.ours.config.multilingual:
                chosen = {code: Heard(audio, code) for code, audio in spoken.items()}
                rows += [
                    tokens_row(pair, mode, chosen, f"whisper {size}: {', '.join(spoken)} {mode.name}")
                    for mode in FOREIGN
                ]
                rows += language_rows(pair, spoken)
    return rows


@dataclass(frozen=True)
class Heard:
    """A window's samples, and the language it is taken to be in."""

    audio: np.ndarray = field(repr=False)
    language: str = "en"


def tokens_row(pair: Pair, mode: Mode, clips: Mapping[str, Heard], name: str) -> Row:
    """The tokens of each window, ours in one batch."""
    features = encode(pair.ours, [c.audio for c in clips.values()])
    options = DecodeOptions(temperatures=(0.0,), **mode.ours)
    languages = [c.language for c in clips.values()]
    mine = decode(pair.ours, pair.tokenizer, features, languages, options)
    theirs = [_decoded(pair, mode, c) for c in clips.values()]
    different = {
        n: first_difference(m.tokens, t["tokens"]) for n, m, t in zip(clips, mine, theirs, strict=True)
    }
    count = sum(len(t["tokens"]) for t in theirs)
    apart = max(abs(m.avg_logprob - t["avg_logprob"]) for m, t in zip(mine, theirs, strict=True))
    note = f"{len(clips)} windows, {count} tokens; avg_logprob at most {apart:.1e} apart"
    return same(f"{name}: tokens that differ", {n: d for n, d in different.items() if d}, {}, note)


def _decoded(pair: Pair, mode: Mode, clip: Heard) -> dict[str, Any]:
    options = {"language": clip.language, **mode.theirs}

    def work() -> dict[str, Any]:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip.audio))
        found = pair.theirs.decode(mel, DecodingOptions(fp16=False, **options))
        return {"tokens": found.tokens, "avg_logprob": found.avg_logprob}

    return kept(("decode", pair.size, options), clip.audio, work)


def recording_rows(pair: Pair) -> list[Row]:
    """A recording of several windows, each with the text so far as its prompt: what is said, and when."""
    audio = load_audio(data_folder() / RECORDING)

    def work() -> list[list[Any]]:
        found = pair.theirs.transcribe(audio, fp16=False, language="en", temperature=0.0, beam_size=5)
        return [[s["tokens"], s["start"], s["end"]] for s in found["segments"]]

    theirs = kept(("transcribe", pair.size, "beam 5"), audio, work)
    options = TranscribeOptions(
        language="en",
        words=False,
        sequential=True,
        decode=DecodeOptions(temperatures=(0.0,), beam_size=5),
    )
    mine, _ = transcribe_sequential(pair.ours, pair.tokenizer, audio, options)
    begin = pair.tokenizer.special.timestamp_begin
    said = [[t for t in tokens if t < begin] for tokens, _, _ in theirs]
    name = f"whisper {pair.size}: {len(audio) / 16000:.0f} s recording, beam 5, conditioned on its own text"
    times = [(round(s.start, 2), round(s.end, 2)) for s in mine]
    return [
        same(
            f"{name}: tokens", [list(s.tokens) for s in mine] == said, True, f"{sum(map(len, said))} tokens"
        ),
        same(
            f"{name}: times",
            times == [(round(a, 2), round(b, 2)) for _, a, b in theirs],
            True,
            f"{len(said)} segments",
        ),
    ]


def language_rows(pair: Pair, spoken: Mapping[str, np.ndarray]) -> list[Row]:
    """The likeliest language of each window, and all languages' probabilities."""
    mine = detect_language(pair.ours, pair.tokenizer, encode(pair.ours, list(spoken.values())))

    def work(audio: np.ndarray) -> dict[str, float]:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))
        return dict(whisper.detect_language(pair.theirs, mel)[1])

    theirs = [kept(("language", pair.size), a, lambda a=a: work(a)) for a in spoken.values()]
    best = [max(row, key=lambda code: row[code]) for row in theirs]
    ours = [max(row, key=lambda code: row[code]) for row in mine]
    name = f"whisper {pair.size}: language of speech in {', '.join(spoken)}"
    return [
        same(f"{name}: found", ours, best, f"found: {', '.join(best)}"),
        close(
            f"{name}: probabilities",
            [[m[code] for code in t] for m, t in zip(mine, theirs, strict=True)],
            [list(t.values()) for t in theirs],
            "whisper.language",
        ),
    ]


def kept(question: tuple[Any, ...], audio: np.ndarray, work: Callable[[], Any]) -> Any:
    """The original's answer, computed once."""
    told = json.dumps(
        [question, metadata.version("openai-whisper"), metadata.version("torch")], sort_keys=True
    )
    key = hashlib.sha256(told.encode() + audio.tobytes()).hexdigest()[:24]
    file = KEPT / f"{key}.json"
    if not file.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(work()), encoding="utf-8")
        part.replace(file)
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    from harness import table

    print(table(run()))
