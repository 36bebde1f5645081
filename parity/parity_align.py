"""Our two alignment rules against their originals.

- CTC Viterbi against its definition, written out as a plain recursion over states in float64.
- The blank-stay trellis against WhisperX 3.8.6's own ``get_trellis``, ``backtrack`` and ``merge_repeats``
  (``pip install --no-deps whisperx==3.8.6``, and what its ``alignment.py`` imports: pandas, nltk, torchaudio).

On random emissions, even ones and peaked ones, and on the mini checkpoint's for real speech.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from harness import Row, close, same
from whisperx.alignment import backtrack, get_trellis, merge_repeats

from mlx_speech.audio import load_audio
from mlx_speech.stages import ctc

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))


def whisperx_path(
    emission: torch.Tensor, tokens: list[int], blank: int = 0
) -> list[tuple[int, int, float]] | None:
    """Start, end and score of each token, as WhisperX finds them; ``None`` where it gives up."""
    path = backtrack(get_trellis(emission, tokens, blank), emission, tokens, blank)
    if path is None:
        return None
    return [(m.start, m.end, m.score) for m in merge_repeats(path, "?" * len(tokens))]


def plain_viterbi(log_probs: np.ndarray, tokens: list[int], blank: int = 0) -> float:
    """The best path's log-probability: a plain recursion over blanks and tokens in float64."""
    states = [blank, *(x for t in tokens for x in (t, blank))]
    score = {0: float(log_probs[0, blank]), 1: float(log_probs[0, states[1]])}
    for row in log_probs[1:].astype(np.float64):
        following = {}
        for s, symbol in enumerate(states):
            before = [score.get(s), score.get(s - 1)]
            if s >= 2 and symbol != blank and symbol != states[s - 2]:
                before.append(score.get(s - 2))
            best = max((b for b in before if b is not None), default=None)
            if best is not None:
                following[s] = best + float(row[symbol])
        score = following
    return max(score.get(len(states) - 1, -np.inf), score.get(len(states) - 2, -np.inf))


def path_score(log_probs: np.ndarray, tokens: list[int], path: ctc.Path, blank: int = 0) -> float:
    """The log-probability of a path: its tokens in their frames, blanks elsewhere."""
    symbols = np.full(len(log_probs), blank)
    for token, start, end in zip(tokens, path.starts, path.ends, strict=True):
        symbols[start:end] = token
    return float(log_probs[np.arange(len(log_probs)), symbols].astype(np.float64).sum())


def run() -> list[Row]:
    """Random cases, then real ones."""
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(2000):
        frames, symbols = int(rng.integers(1, 60)), int(rng.integers(2, 8))
        sharp = float(rng.choice([0.05, 0.3, 1.0]))
        log_probs = np.log(rng.dirichlet(np.full(symbols, sharp), frames) + 1e-12).astype(np.float32)
        cases.append((log_probs, rng.integers(1, symbols, int(rng.integers(1, 20))).tolist()))
    return [*_rows("random emissions", cases), *_rows("mini checkpoint, real speech", _real())]


def _real() -> list[tuple[np.ndarray, list[int]]]:
    folder = DATA / "weights/wav2vec2-mini-en"
    model = mlx_speech.load(f"path:{folder}")
    columns = {t: n for n, t in enumerate(model.config.vocabulary)}
    folder = DATA / "audio/librispeech_test_other"
    texts = dict(x.split(maxsplit=1) for x in (folder / "transcripts.txt").read_text("utf-8").splitlines())
    cases = []
    for path in sorted(folder.glob("*.flac"))[::7]:
        text, audio = texts[path.stem], mx.array(load_audio(path))[None]
        logits = model(model.normalize(audio))[0]
        log_probs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        cases.append((log_probs, [columns[c] for c in text.strip().upper().replace(" ", "|")]))
    return cases


def _rows(name: str, cases: list[tuple[np.ndarray, list[int]]]) -> list[Row]:
    refused, scores, best = [], [], []
    places, wanted, probabilities, expected, given_up = [], [], [], [], 0
    for number, (log_probs, tokens) in enumerate(cases):
        path = ctc.viterbi(log_probs, tokens)
        top = plain_viterbi(log_probs, tokens)
        if (path is None) != (top == -np.inf):
            refused.append(number)
        elif path:
            scores.append(path_score(log_probs, tokens, path) / len(log_probs))
            best.append(top / len(log_probs))
        ours = ctc.blank_stay(log_probs, tokens)
        theirs = whisperx_path(torch.from_numpy(log_probs), tokens) if len(tokens) <= len(log_probs) else None
        given_up += theirs is None
        places.append(
            None if ours is None else list(zip(ours.starts.tolist(), ours.ends.tolist(), strict=True))
        )
        wanted.append(None if theirs is None else [t[:2] for t in theirs])
        if ours and theirs:
            probabilities += ours.scores.tolist()
            expected += [t[2] for t in theirs]
    different = [n for n, (a, b) in enumerate(zip(places, wanted, strict=True)) if a != b]
    note = f"{len(cases)} cases"
    return [
        same(f"viterbi, {name}: wrongly refused or accepted", refused, [], note),
        close(f"viterbi, {name}: the path's log-probability a frame", scores, best, "align.score", note),
        same(
            f"blank-stay, {name}: cases whose places differ from WhisperX's",
            different,
            [],
            f"{note}, {given_up} without a path in both",
        ),
        close(f"blank-stay, {name}: scores", probabilities, expected, "align.blank_stay_scores", note),
    ]


if __name__ == "__main__":
    from harness import table

    print(table(run()))
