"""How well an aligner spells and times: character error rate, and word borders where the true ones are known.

python evaluate.py MODEL FOLDER_OF_TEST_SHARDS --model whisper|mini
python evaluate.py MODEL DATA --model mini --time-words real --lag 0.043   # write the words' times
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from data import Corpus
from loss import BORDER, viterbi
from models import MODELS, RATE, STRIDE, TOKENS, trained
from torch import Tensor
from words import trimmed_words

MEET = 0.1  # seconds; words nearer than this meet in the middle, as in mlx_speech


def distance(a: str, b: str) -> int:
    """Levenshtein's."""
    row = np.arange(len(b) + 1)
    target = np.array(list(b))
    for n, c in enumerate(a):
        new = np.minimum(row[1:] + 1, row[:-1] + (target != c))
        new = np.r_[n + 1, new]
        row = np.minimum.accumulate(new - np.arange(len(new))) + np.arange(len(new))
    return int(row[-1])


def spelling(scores: Tensor) -> str:
    """The likeliest tokens (T, V), repeats joined, blanks dropped."""
    best = torch.unique_consecutive(scores.argmax(-1)).tolist()
    return "".join(TOKENS[c] for c in best if c >= BORDER).strip("|").replace("||", "|")


@torch.no_grad()
def hear(model: torch.nn.Module, corpus: Corpus, items: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, V) of utterances padded to one length, and their frames (B,)."""
    size = -(-max(int(corpus.size[n]) for n in items) // STRIDE) * STRIDE
    audio = torch.zeros(len(items), max(size, RATE), device=corpus.audio.device)
    for b, n in enumerate(items):
        audio[b, : corpus.size[n]] = corpus.clip(n)
    with torch.autocast("cuda", torch.bfloat16, enabled=audio.is_cuda):
        scores = model(audio)
    frames = [min(model.frames(int(corpus.size[n])), scores.shape[1]) for n in items]
    return scores, torch.tensor(frames, device=audio.device)


def batches(corpus: Corpus, items: list[int], seconds: float) -> list[list[int]]:
    """Of like lengths."""
    out: list[list[int]] = []
    for n in sorted(items, key=lambda n: corpus.size[n]):
        if not out or corpus.size[n] * (len(out[-1]) + 1) > seconds * RATE:
            out.append([])
        out[-1].append(n)
    return out


def error_rate(model: torch.nn.Module, corpus: Corpus, items: list[int]) -> float:
    """Of characters."""
    wrong = total = 0
    for n in items:  # one by one: padding changes what the mini model hears
        scores, _ = hear(model, corpus, [n])
        text = "".join(TOKENS[c] for c in corpus.text[n])
        wrong, total = wrong + distance(spelling(scores[0]), text), total + len(text)
    return wrong / max(total, 1)


def time_words(
    model: torch.nn.Module, corpus: Corpus, items: list[int], seconds: float = 60.0
) -> dict[int, tuple[np.ndarray, float]]:
    """Each utterance's words (W, 2) in seconds, near ones meeting, and the path's mean score."""
    edge = (model.centre - STRIDE / 2) / RATE
    out = {}
    for some in batches(corpus, items, seconds):
        scores, frames = hear(model, corpus, some)
        targets = torch.zeros(len(some), max(len(corpus.text[n]) for n in some), dtype=torch.long)
        for b, n in enumerate(some):
            targets[b, : len(corpus.text[n])] = torch.from_numpy(corpus.text[n])
        lengths = torch.tensor([len(corpus.text[n]) for n in some])
        path, score = viterbi(scores, targets.to(scores.device), lengths.to(scores.device), frames)
        for b, n in enumerate(some):
            states = path[b, : frames[b]].cpu().numpy()
            token = np.where(states % 2 == 1, states // 2, -1)
            times, k = [], 0
            for word in np.split(corpus.text[n], np.flatnonzero(corpus.text[n] == BORDER)):
                size = len(word) - (word[0] == BORDER)
                mine = np.flatnonzero((token >= k) & (token < k + size))
                if len(mine):
                    times.append((mine[0] * STRIDE / RATE + edge, (mine[-1] + 1) * STRIDE / RATE + edge))
                k += size + 1
            words = np.array(times, np.float32).reshape(-1, 2)
            gap = words[1:, 0] - words[:-1, 1]
            near = gap < MEET
            words[1:, 0] -= np.where(near, gap / 2, 0)
            words[:-1, 1] = np.where(near, words[1:, 0], words[:-1, 1])
            out[n] = words, float(score[b])
    return out


def borders(model: torch.nn.Module, corpus: Corpus, items: list[int]) -> str:
    """Errors of starts and ends together, in milliseconds."""
    found = time_words(model, corpus, items)
    pairs = [(found[n][0], corpus.words[n]) for n in items if len(found[n][0]) == len(corpus.words[n])]
    off = 1000 * (np.concatenate([a for a, _ in pairs]) - np.concatenate([b for _, b in pairs]))
    size = np.abs(off)
    return (
        f"mean {size.mean():.1f} median {np.median(size):.1f} within 20/50 ms {100 * (size < 20).mean():.0f}/"
        f"{100 * (size < 50).mean():.0f} % bias {off[:, 0].mean():+.1f}/{off[:, 1].mean():+.1f} ({len(off)} words)"
    )


def sound(corpus: Corpus, n: int) -> np.ndarray:
    """An utterance (S,) int16 on the host."""
    return corpus.audio[corpus.first[n] : corpus.first[n] + corpus.size[n]].cpu().numpy()


def report(model: torch.nn.Module, corpus: Corpus, most: int = 10**6) -> list[str]:
    """A line a source."""
    model.eval()
    lines = []
    for source in sorted(set(corpus.source)):
        items = np.flatnonzero(corpus.source == source)[:most].tolist()
        line = f"{source}: CER {100 * error_rate(model, corpus, items):.1f} %"
        timed = [n for n in items if corpus.words[n] is not None]
        if timed:
            line += f" borders {borders(model, corpus, timed)}"
        lines.append(line)
    model.train()
    return lines


def main() -> None:
    """Report, or time a source's words."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("checkpoint", type=Path)
    args.add_argument("data", type=Path)
    args.add_argument("--model", choices=MODELS, required=True)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--time-words", metavar="SHARD")
    args.add_argument("--lag", type=float, default=0.0, help="seconds that the model's times are late")
    a = args.parse_args()
    device = torch.device(a.device)
    model = trained(a.model, a.checkpoint).to(device)
    corpus = Corpus.read(a.data, device, held_out=0)
    if not a.time_words:
        print("\n".join(report(model, corpus)))
        return
    model.eval()
    items = np.flatnonzero(corpus.source == a.time_words).tolist()
    found = time_words(model, corpus, items)
    good = {
        corpus.names[n]: trimmed_words((words - a.lag).clip(0), sound(corpus, n)).round(3).tolist()
        for n, (words, score) in found.items()
        if score > -0.6 and len(words) == (corpus.text[n] == BORDER).sum() + 1
    }
    table = a.data / f"{a.time_words}.jsonl"
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**r, "words": good.get(r["name"])}) for r in rows]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{a.time_words}: {len(good)} of {len(rows)} timed")


if __name__ == "__main__":
    main()
