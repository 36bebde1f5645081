"""Word error rates of every precision beside openai-whisper's: writes parity/BENCH_WER.md.

    python parity/bench_wer.py                       # everything that is not there yet, then the tables
    python parity/bench_wer.py --only base,4         # rows with all of these in their names
    python parity/bench_wer.py --tables              # the tables from what is there

What each row heard stays in ``out/wer/`` (ignored by git), an utterance a line: a run that was broken off goes
on where it was, and a folder removed is heard anew.

70 utterances of LibriSpeech test-other (7 readers) and the 8 of LJ Speech whose text is there; greedy at
temperature 0 without fallback, which would draw samples; openai-whisper's English normaliser; 95 % intervals from
10,000 draws of utterances with replacement, the differences from the same draws for both rows.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from asr_contestants import ctranslate2_folder
from bench_asr import word_errors, words_of

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.layers.layout import by_columns
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.quantization import DEFAULT_GROUP_SIZE, Quantization, layers_to_quantize
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
from mlx_speech.stages.sequential import transcribe_sequential
from mlx_speech.stages.tokenizer import tokenizer_for
from mlx_speech.stages.transcribe import transcribe_spans
from mlx_speech.types import Span

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / "out/wer"
AUDIO = Path(os.environ.get("MLX_SPEECH_DATA", HERE.parents[1] / "shared/data")) / "audio"
SIZES = ("tiny.en", "base")
BATCH = 8
DRAWS = 10_000
Hear = Callable[[Sequence[np.ndarray]], list[str]]
"""Utterances (T,) to their texts."""


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Args:
        name: what it is called.
        build: from a size to what hears.
        options: for ``build``.
        beside: the row that its difference is taken to.
    """

    name: str
    build: Callable[..., Hear]
    options: dict[str, Any]
    beside: str = ""


# --- what hears ---------------------------------------------------------------------------------------------


def openai_whisper(size: str) -> Hear:
    """The original's own program, an utterance at a time."""
    import torch
    from parity_whisper import openai_model, openai_weights, read_ctranslate2

    from mlx_speech.hub import locate

    torch.set_num_threads(1)  # its threads and those of the BLAS it shares with MLX would wait for each other
    tensors = read_ctranslate2(locate(f"whisper-{size}") / "model.bin")
    model = openai_model(tensors, openai_weights(tensors), size)

    def hear(audio: np.ndarray) -> str:
        return str(model.transcribe(audio, fp16=False, language="en", temperature=0.0)["text"])

    return lambda utterances: [hear(a) for a in utterances]


def faster_whisper(size: str, compute: str) -> Hear:
    """CTranslate2 on the same checkpoint, an utterance at a time."""
    from faster_whisper import WhisperModel

    from mlx_speech.hub import locate

    folder = ctranslate2_folder(locate(f"whisper-{size}"), KEPT / f"ctranslate2-{size}")
    model = WhisperModel(str(folder), device="cpu", compute_type=compute, cpu_threads=1)
    options: dict[str, Any] = {"beam_size": 1, "best_of": 1, "temperature": 0.0, "language": "en"}
    return lambda utterances: [
        " ".join(s.text for s in model.transcribe(a, **options)[0]) for a in utterances
    ]


def sequential(size: str) -> Hear:
    """Ours, as the original's program goes about it."""
    model = load(f"whisper-{size}", dtype="float32")
    tokenizer = tokenizer_for(model)
    options = TranscribeOptions(
        language="en", words=False, sequential=True, decode=DecodeOptions(temperatures=(0.0,))
    )

    def hear(audio: np.ndarray) -> str:
        return " ".join(s.text for s in transcribe_sequential(model, tokenizer, audio, options)[0])

    return lambda utterances: [hear(a) for a in utterances]


def batched(
    size: str,
    bits: Sequence[tuple[str, int]] = (),
    group_size: int = DEFAULT_GROUP_SIZE,
    dtype: str = "float32",
) -> Hear:
    """Ours in batches, each utterance a stretch of its own.

    ``bits`` are pairs of a module's beginning and the bits of its weights, 0 for as they are; the first that
    fits counts.
    """
    model = load(f"whisper-{size}", dtype=dtype)
    round_weights(model, bits, group_size)
    tokenizer = tokenizer_for(model)
    options = TranscribeOptions(
        language="en", words=False, batch_size=BATCH, decode=DecodeOptions(temperatures=(0.0,))
    )

    def hear(utterances: Sequence[np.ndarray]) -> list[str]:
        ends = np.cumsum([len(a) for a in utterances]) / SAMPLE_RATE
        spans = [Span(float(a), float(b)) for a, b in zip([0.0, *ends], ends, strict=False)]
        found, _ = transcribe_spans(model, tokenizer, np.concatenate(utterances), spans, options)
        return [
            " ".join(s.text for s in found if span.start <= (s.start + s.end) / 2 < span.end)
            for span in spans
        ]

    return hear


def round_weights(model: Whisper, bits: Sequence[tuple[str, int]], group_size: int) -> None:
    """Give the layers that ``mlx-convert --quantize`` packs the numbers that their packed weights stand for.

    MLX's packed products are slow on a CPU: the same numbers are multiplied in float32 here, which is what the
    packed ones amount to but for the order of sums.
    """
    from mlx_speech.converters.whisper import FAMILY

    modules = dict(model.named_modules())
    for name in layers_to_quantize(model, FAMILY.quantised, Quantization(4, group_size)):
        width = next((b for start, b in bits if name.startswith(start)), None)
        if width:
            q = Quantization(width, group_size)
            plain = mx.dequantize(*q.quantize(modules[name].weight), q.group_size, q.bits)
            modules[name].weight = by_columns(plain)
    mx.eval(model.parameters())


ORIGINAL, OURS = "openai-whisper, float32", "ours, float32, batches of 8"
ROWS = (
    Row(ORIGINAL, openai_whisper, {}),
    Row("ours, float32, sequential", sequential, {}, ORIGINAL),
    Row(OURS, batched, {}, ORIGINAL),
    Row("ours, computed in float16", batched, {"dtype": "float16"}, OURS),
    Row("ours, 8 bits", batched, {"bits": [("", 8)]}, OURS),
    Row("ours, 4 bits", batched, {"bits": [("", 4)]}, OURS),
    Row("ours, decoder 4 bits, encoder 8 bits", batched, {"bits": [("encoder", 8), ("", 4)]}, OURS),
    Row("ours, encoder 4 bits, decoder 8 bits", batched, {"bits": [("encoder", 4), ("", 8)]}, OURS),
    Row(
        "ours, 4 bits, the embedding kept",
        batched,
        {"bits": [("decoder.token_embedding", 0), ("", 4)]},
        OURS,
    ),
    Row("faster-whisper, float32", faster_whisper, {"compute": "float32"}, ORIGINAL),
    Row("faster-whisper, int8", faster_whisper, {"compute": "int8"}, ORIGINAL),
)

# --- hearing ------------------------------------------------------------------------------------------------


def utterances() -> dict[str, tuple[Path, str]]:
    """Each utterance's file and what is said in it, by set and name."""
    found = {}
    for line in (AUDIO / "librispeech_test_other/transcripts.txt").read_text(encoding="utf-8").splitlines():
        name, text = line.split(" ", 1)
        file = AUDIO / f"librispeech_test_other/{name}.flac"
        if file.is_file():
            found[f"librispeech/{name}"] = (file, text)
    for line in (AUDIO / "ljspeech/metadata.csv").read_text(encoding="utf-8").splitlines():
        name, _, text = line.split("|", 2)
        file = AUDIO / f"ljspeech/{name}.wav"
        if file.is_file():
            found[f"ljspeech/{name}"] = (file, text)
    return found


def kept(size: str, row: Row) -> Path:
    """Where a row's answers are."""
    plain = "".join(c if c.isalnum() else "-" for c in row.name)
    return KEPT / size / f"{plain}.jsonl"


def heard(size: str, row: Row) -> dict[str, str]:
    """What a row has answered so far."""
    file = kept(size, row)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {d["utterance"]: d["text"] for d in map(json.loads, lines)}


def hear_all(size: str, row: Row) -> None:
    """Hear what a row has not heard yet."""
    done = heard(size, row)
    left = [(n, f) for n, (f, _) in utterances().items() if n not in done]
    KEPT.mkdir(parents=True, exist_ok=True)
    if not left:
        return
    hear = row.build(size, **row.options)
    file = kept(size, row)
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(left), BATCH):
        part = left[start : start + BATCH]
        texts = hear([load_audio(f) for _, f in part])
        lines = [json.dumps({"utterance": n, "text": t}) for (n, _), t in zip(part, texts, strict=True)]
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        print(f"{size}, {row.name}: {min(start + BATCH, len(left))} of {len(left)}", flush=True)


# --- tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Errors and words of each utterance, and the words themselves."""

    errors: np.ndarray
    words: np.ndarray
    said: list[list[str]]


def score(size: str, row: Row, of: str) -> Score | None:
    """A row's score on one set; ``None`` where it has not heard all of it."""
    texts = heard(size, row)
    wanted = {n: words_of(t) for n, (_, t) in utterances().items() if n.startswith(of)}
    if not set(wanted) <= set(texts):
        return None
    said = [words_of(texts[n]) for n in wanted]
    errors = [word_errors(s, w) for s, w in zip(said, wanted.values(), strict=True)]
    return Score(np.array(errors), np.array([len(w) for w in wanted.values()]), said)


def draws(count: int) -> np.ndarray:
    """Utterances drawn with replacement, (DRAWS, count); the same for every row."""
    return np.random.default_rng(0).integers(0, count, (DRAWS, count))


def interval(values: np.ndarray) -> str:
    """The middle 95 %."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:.1f} to {high:.1f}"


def cells(size: str, row: Row, of: str) -> Iterator[str]:
    """A row's WER on one set, its difference to the row it stands beside, and where their words differ."""
    mine = score(size, row, of)
    if mine is None:
        yield from ("not run", "", "")
        return
    drawn = draws(len(mine.errors))
    rates = 100 * mine.errors[drawn].sum(1) / mine.words[drawn].sum(1)
    yield f"{100 * mine.errors.sum() / mine.words.sum():.2f} ({interval(rates)})"
    other = next((r for r in ROWS if r.name == row.beside), None)
    theirs = score(size, other, of) if other else None
    if theirs is None:
        yield from ("", "")
        return
    apart = mine.errors - theirs.errors
    changes = 100 * apart[drawn].sum(1) / mine.words[drawn].sum(1)
    yield f"{100 * apart.sum() / mine.words.sum():+.2f} ({interval(changes)})"
    yield f"{sum(a != b for a, b in zip(mine.said, theirs.said, strict=True))} of {len(apart)}"


def table(size: str) -> str:
    """One size's rows."""
    sets = {"librispeech": "LibriSpeech test-other", "ljspeech": "LJ Speech"}
    head = [f"{name}: WER %" for name in sets.values()]
    columns = [c for h in head for c in (h, "difference, points", "utterances with other words")]
    lines = ["| | beside | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in ROWS:
        body = [c for of in sets for c in cells(size, row, of)]
        lines.append(f"| {row.name} | {row.beside} | " + " | ".join(body) + " |")
    return "\n".join(lines)


def write_tables() -> None:
    """BENCH_WER.md from what is kept."""
    packages = ("mlx", "openai-whisper", "torch", "faster-whisper", "ctranslate2", "numpy")
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    today = datetime.datetime.now(datetime.timezone.utc).date()
    parts = [
        "# Word error rates",
        "Written by `python parity/bench_wer.py`: " + _about(),
        f"{today}; {platform.machine()} CPU, {platform.system()}; Python {platform.python_version()}, {versions}.",
        *(f"## {size}\n\n{table(size)}" for size in SIZES),
    ]
    text = "\n\n".join(parts) + "\n"
    (HERE / "BENCH_WER.md").write_text(text, encoding="utf-8")
    print(text)


def _about() -> str:
    return (
        "70 utterances of LibriSpeech test-other and 8 of LJ Speech, greedy at temperature 0 without fallback, "
        "openai-whisper's English normaliser. In brackets 95 % intervals over 10,000 draws of utterances with "
        "replacement; differences are taken within the same draws. Every row has the same checkpoint, whose "
        "weights are stored in float16, so that the float32 rows are those of float16 weights too; one row "
        "computes in float16 throughout. The rows in 8 and 4 bits have the numbers that the packed weights stand "
        "for, in groups of 64 where nothing else is said, multiplied in float32: MLX's packed products are slow on "
        "a CPU and differ by the order of sums alone. What is kept is `mlx-convert --keep-float`'s; the rows "
        "that mix 8 and 4 bits tell where the 4 bits hurt, and cannot be asked for."
    )


def main() -> None:
    """Hear what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="parts of a row's size and name, all of them, with commas")
    parser.add_argument("--tables", action="store_true", help="hear nothing")
    arguments = parser.parse_args()
    parts = [p for p in arguments.only.split(",") if p]
    for size in SIZES if not arguments.tables else ():
        for row in ROWS:
            if all(p in f"{size}, {row.name}" for p in parts):
                hear_all(size, row)
    write_tables()


if __name__ == "__main__":
    main()
