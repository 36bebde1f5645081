"""What beams change, and speech heard once more: errors and time of the recogniser. Writes BENCH_BEAMS.md.

    python parity/bench_beams.py             # everything that is not there yet (half an hour), then the tables
    python parity/bench_beams.py --tables    # the tables from what is there

Each recording goes through the Transcriber as users run it: its VAD, batches of windows, the temperature fallback,
times of words by the bundled aligner; the settings take turns with each recording, so that a busy machine hits
all. What was heard stays in ``out/beams`` until our code changes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jiwer
import numpy as np
from bench_speakers import CLIPS, DATA, normal, reference
from bench_wer import draws, interval, utterances

from mlx_speech import DecodeOptions, TranscribeOptions, Transcriber

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / "out/beams"
SIZES = ("tiny.en", "base")
GREEDY, BEAMS = DecodeOptions(beam_size=1), DecodeOptions(beam_size=5)
SETTINGS = {
    "greedy": TranscribeOptions(language="en", decode=GREEDY),
    "beams of 5": TranscribeOptions(language="en", decode=BEAMS),
    "greedy, gaps left": TranscribeOptions(language="en", decode=GREEDY, fill_gaps=False),
    "beams of 5, gaps left": TranscribeOptions(language="en", decode=BEAMS, fill_gaps=False),
}
"""The first is what the others are compared with."""
SETS = {
    "librispeech": "LibriSpeech test-other, 70 utterances",
    "ljspeech": "LJ Speech, 8 utterances",
    "sim_librispeech": "sim_librispeech, 4 sessions",
    "pyannote_sample": "pyannote_sample, a call",
    "kokoro_dialog": "kokoro_dialog, a call",
}


@dataclass(frozen=True)
class Heard:
    """One recording by one setting."""

    recording: str
    setting: str
    text: str
    seconds: float
    """CPU seconds."""
    findings: int
    """What the audit finds fault with."""


def recordings() -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    """Name, file and the words that are said."""
    for name, (file, text) in utterances().items():
        yield name, file, normal(text)
    for pattern in CLIPS:
        for file in sorted((DATA / "audio").glob(pattern)):
            yield f"{file.parent.name}/{file.stem}", file, tuple(w.word for w in reference(file))


def kept(size: str) -> Path:
    return KEPT / f"{size}.jsonl"


def heard(size: str) -> dict[tuple[str, str], Heard]:
    file = kept(size)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {(h.recording, h.setting): h for h in (Heard(**json.loads(line)) for line in lines)}


def hear(size: str) -> None:
    """Every recording by every setting that has not heard it."""
    done = heard(size)
    transcriber = Transcriber.load(f"whisper-{size}")
    KEPT.mkdir(parents=True, exist_ok=True)
    for name, file, _ in recordings():
        for setting, options in SETTINGS.items():
            if (name, setting) in done:
                continue
            began = time.process_time()
            result = transcriber.transcribe(file, options)
            seconds = time.process_time() - began
            text = " ".join(s.text for s in result.segments)
            row = Heard(name, setting, text, seconds, len(result.findings))
            with kept(size).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")
        print(f"{size}: {name}", flush=True)


def counts(said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Substitutions, deletions, insertions and words."""
    found = jiwer.process_words(" ".join(wanted), " ".join(said))
    return np.array([found.substitutions, found.deletions, found.insertions, len(wanted)])


def rows(size: str) -> Iterator[str]:
    """A table's lines: each set and all together, by settings."""
    answers = heard(size)
    wanted = {n: words for n, _, words in recordings() if all((n, s) in answers for s in SETTINGS)}
    for prefix, title in [*SETS.items(), ("", "all")]:
        names = [n for n in wanted if n.startswith(prefix + "/" if prefix else "")]
        if not names:
            continue
        drawn = draws(len(names))
        first = None
        for setting in SETTINGS:
            found = [answers[n, setting] for n in names]
            made = np.array([counts(normal(h.text), wanted[n]) for h, n in zip(found, names, strict=True)])
            errors, words = made[:, :3].sum(1), made[:, 3]
            alike = [answers[n, setting.replace("beams of 5", "greedy")] for n in names]
            longer = sum(h.seconds for h in found) / sum(h.seconds for h in alike)
            apart = ""
            if first is None:
                first = errors
            else:
                change = errors - first
                apart = f"{100 * change.sum() / words.sum():+.2f}"
                if len(names) > 1:
                    apart += f" ({interval(100 * change[drawn].sum(1) / words[drawn].sum(1))})"
            kinds = " + ".join(str(n) for n in made[:, :3].sum(0))
            yield (
                f"| {title} | {setting} | {100 * errors.sum() / words.sum():.2f} | {apart} | {kinds} "
                f"| {sum(h.findings for h in found)} | {longer:.2f} |"
            )


def write_tables() -> None:
    head = [
        "set", "", "WER %", "difference, points", "replaced + left out + put in", "audit's findings",
        "CPU s ÷ greedy's",
    ]  # fmt: skip
    parts = [
        "# Beams, and speech heard once more",
        "Written by `python parity/bench_beams.py`: the whole recogniser as users run it (VAD, batches of windows, "
        "temperature fallback, words timed by the bundled aligner), openai-whisper's English normaliser. In "
        "brackets 95 % intervals over 10,000 draws of recordings with replacement. CPU seconds are of one process "
        "that other work ran beside; beams and greedy took turns in it. Gaps are speech without words, which is "
        "decoded once more by itself (docs/pipeline.md); the settings that leave them were heard in another run.",
    ]
    for size in SIZES:
        if kept(size).is_file():
            lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows(size)]
            parts.append(f"## {size}\n\n" + "\n".join(lines))
    (HERE / "BENCH_BEAMS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    arguments = parser.parse_args()
    if not arguments.tables:
        for size in arguments.sizes:
            hear(size)
    write_tables()


if __name__ == "__main__":
    main()
