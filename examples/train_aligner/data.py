"""Shards on the GPU, and windows drawn from them.

A window is filled with utterances of any speakers, or phrases cut out of them at pauses, with short gaps between;
each batch has one length and one speed. Shares say how much of the speech comes from each source.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from models import RATE, TOKENS
from torch import Tensor

IDS = {t: n for n, t in enumerate(TOKENS)}
LENGTHS, CHANCES = (
    (3.0, 5.0, 8.0, 12.0, 16.0, 20.0, 24.0, 30.0),
    (0.08, 0.1, 0.16, 0.16, 0.16, 0.16, 0.1, 0.08),
)
SPEEDS = (0.85, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.15, 1.2)
SLACK = {"kokoro": 0.03, "real": 0.05}  # seconds that letters may stand beside their word
PAUSE, EDGE = 0.06, 0.2  # seconds: between words where an utterance may be cut; silence left at most at a cut
PHRASES = 0.6  # of the draws take a run of phrases in place of a whole utterance


@dataclass
class Corpus:
    """Utterances one after another, int16 on the device, and what is said in them."""

    audio: Tensor
    first: np.ndarray
    size: np.ndarray
    source: np.ndarray
    names: list[str]
    text: list[np.ndarray]
    words: list[np.ndarray | None]
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def read(cls, folder: Path, device: torch.device, held_out: int = 20) -> Corpus:
        """All shards of a folder; every n-th real recording is held out for watching."""
        parts, first, size, source, names, text, words = [], [], [], [], [], [], []
        base = 0
        for table in sorted(folder.glob("*.jsonl")):
            pcm = np.fromfile(table.with_suffix(".pcm"), np.int16)
            at = 0
            for line in table.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n") or at + (row := json.loads(line))["n"] > len(pcm):
                    break  # a shard that is being written
                label = row["text"].replace(" ", "|")
                frames = row["n"] / 320
                if (
                    row["n"] < 17 * RATE
                    and set(label) <= set(TOKENS)
                    and len(label) * 1.25 + 2 < frames * 0.9
                ):
                    first.append(base + at)
                    size.append(row["n"])
                    source.append(row["source"])
                    names.append(row.get("name", row.get("voice", "")))
                    text.append(np.array([IDS[c] for c in label]))
                    words.append(np.array(row["words"], np.float32) if row.get("words") else None)
                at += row["n"]
            parts.append(torch.from_numpy(pcm[:at]).to(device))
            base += at
        out = cls(torch.cat(parts), np.array(first), np.array(size), np.array(source), names, text, words)
        out.held = np.zeros(len(first), bool)
        real = np.flatnonzero(out.source == "real")
        if held_out and len(real):
            out.held[real[:: max(len(real) // held_out, 1)]] = True
        return out

    def hours(self) -> dict[str, float]:
        """Of each source."""
        return {
            str(s): round(float(self.size[self.source == s].sum()) / RATE / 3600, 2)
            for s in sorted(set(self.source))
        }

    def clip(self, n: int) -> Tensor:
        """An utterance (S,) as floats."""
        return self.audio[self.first[n] : self.first[n] + self.size[n]].float() / 32768


@dataclass(frozen=True)
class Piece:
    """Words of an utterance one after another, and the samples that they are cut from."""

    item: int
    words: slice
    first: int  # sample of the utterance
    size: int


@dataclass
class Plan:
    """A batch before it is on the device."""

    samples: int
    pieces: list[tuple[int, int, int, int]]  # row, place, first sample in the corpus, samples
    times: np.ndarray  # (B, W, 2) seconds
    letters: np.ndarray  # (B, W, V)
    slack: np.ndarray  # (B,)
    targets: np.ndarray  # (B, L)
    lengths: np.ndarray  # (B,)
    mask: np.ndarray  # (B, T)
    source_samples: int


class Planner:
    """Draws batches; several threads may."""

    def __init__(self, corpus: Corpus, shares: Mapping[str, float], seconds: float, frames: object) -> None:
        self.corpus, self.seconds, self.frames = corpus, seconds, frames
        timed = np.array([w is not None for w in corpus.words])
        self.pools = {}
        for source, share in shares.items():
            pool = np.flatnonzero((corpus.source == source) & ~corpus.held & timed)
            if len(pool) and share > 0:
                self.pools[source] = pool
        total = sum(shares[s] for s in self.pools)
        self.sources = list(self.pools)
        # shares are of the time, so a draw's chance is a share over the mean length
        weight = np.array([shares[s] / total / corpus.size[self.pools[s]].mean() for s in self.sources])
        self.chances = weight / weight.sum()
        self.spellings: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}
        self.over = threading.Event()

    def _spelling(self, n: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The letters of each word of an utterance, and which they are (W, V)."""
        if n not in self.spellings:
            words = np.split(self.corpus.text[n], np.flatnonzero(self.corpus.text[n] == IDS["|"]))
            words = [w[w != IDS["|"]] for w in words]
            rows = np.zeros((len(words), len(TOKENS)), np.float32)
            for k, word in enumerate(words):
                rows[k, word] = 1
            self.spellings[n] = words, rows
        return self.spellings[n]

    def _piece(self, rng: np.random.Generator, n: int) -> Piece:
        """A run of phrases of an utterance; often all of it."""
        words, size = self.corpus.words[n], int(self.corpus.size[n])
        cuts = [0, *(np.flatnonzero(words[1:, 0] - words[:-1, 1] > PAUSE) + 1).tolist(), len(words)]
        if len(cuts) == 2 or rng.random() > PHRASES:
            return Piece(n, slice(0, len(words)), 0, size)
        a, b = sorted(rng.choice(len(cuts), 2, replace=False).tolist())
        first, last = cuts[a], cuts[b]
        start = words[first, 0] - min(words[first, 0] - (words[first - 1, 1] if a else 0.0), 2 * EDGE) / 2
        after = words[last, 0] if last < len(words) else size / RATE
        end = words[last - 1, 1] + min(after - words[last - 1, 1], 2 * EDGE) / 2
        begin = max(int(start * RATE), 0)
        return Piece(n, slice(first, last), begin, min(int(end * RATE), size) - begin)

    def _draw(self, rng: np.random.Generator, room: float) -> Piece | None:
        pool = self.pools[self.sources[rng.choice(len(self.sources), p=self.chances)]]
        piece = self._piece(rng, int(pool[rng.integers(len(pool))]))
        return piece if piece.size < room else None

    def _row(self, rng: np.random.Generator, samples: int) -> list[tuple[Piece, int]]:
        """Pieces, and where they begin."""
        out: list[tuple[Piece, int]] = []
        at, misses = int(rng.uniform(0, 0.4) * RATE), 0
        while misses < 8:
            piece = self._draw(rng, samples - at)
            if piece is None:
                misses += 1
                continue
            out.append((piece, at))
            at += int(piece.size + rng.uniform(0.02, 0.7) * RATE)
        # half of the rows are moved right, so that some begin with silence
        free = samples - (out[-1][1] + out[-1][0].size) if out else 0
        move = int(rng.integers(free + 1)) if free > 0 and rng.random() < 0.5 else 0
        return [(p, a + move) for p, a in out]

    def plan(self, rng: np.random.Generator) -> Plan:
        """A batch."""
        speed = rng.choice(SPEEDS)
        samples = int(rng.choice(LENGTHS, p=CHANCES) * RATE)
        before = round(samples * speed / 80) * 80
        speed = before / samples
        rows = [
            r
            for r in (self._row(rng, before) for _ in range(max(int(self.seconds * RATE / samples), 1)))
            if r
        ]
        most = max(sum(p.words.stop - p.words.start for p, _ in row) for row in rows)
        times = np.tile(np.array([0.0, -1.0], np.float32), (len(rows), most, 1))
        letters = np.zeros((len(rows), most, len(TOKENS)), np.float32)
        pieces, texts, slack = [], [], np.zeros(len(rows), np.float32)
        for b, row in enumerate(rows):
            k, text = 0, []
            for piece, at in row:
                n = piece.item
                spelling, some = self._spelling(n)
                words = (self.corpus.words[n][piece.words] + (at - piece.first) / RATE) / speed
                times[b, k : k + len(words)] = words
                letters[b, k : k + len(words)] = some[piece.words]
                k += len(words)
                text += [x for word in spelling[piece.words] for x in ([IDS["|"]], word)]
                pieces.append((b, at, int(self.corpus.first[n]) + piece.first, piece.size))
                slack[b] = max(slack[b], SLACK.get(self.corpus.source[n], 0.04))
            texts.append(np.concatenate(text[1:]))
        targets = np.zeros((len(rows), max(map(len, texts))), np.int64)
        for b, text in enumerate(texts):
            targets[b, : len(text)] = text
        frames = self.frames(samples)
        mask = np.zeros((len(rows), frames), bool)
        for b in range(len(rows)):
            for start in rng.integers(0, frames, rng.integers(0, max(int(frames * 0.015), 1) + 1)):
                mask[b, start : start + rng.integers(4, 13)] = True
        lengths = np.array([len(t) for t in texts])
        return Plan(samples, pieces, times, letters, slack, targets, lengths, mask, before)

    def stream(self, seed: int, threads: int = 4) -> Iterator[Plan]:
        """Batches without end, from some threads."""
        line: queue.Queue[Plan] = queue.Queue(8)

        def work(number: int) -> None:
            rng = np.random.default_rng((seed, number))
            while not self.over.is_set():
                line.put(self.plan(rng))

        for number in range(threads):
            threading.Thread(target=work, args=(number,), daemon=True).start()
        while True:
            yield line.get()


def clean_audio(plan: Plan, corpus: Corpus) -> Tensor:
    """(B, S) before the change of speed."""
    out = torch.zeros(len(plan.lengths), plan.source_samples, device=corpus.audio.device)
    for row, place, first, size in plan.pieces:
        out[row, place : place + size] = corpus.audio[first : first + size].float() / 32768
    return out
