"""Teach a trained aligner anew when to say nothing: the blank's row of its head, and nothing else.

    python settle.py CHECKPOINT OUT --model whisper --data raw real --device cpu

For checkpoints trained before words.py trimmed the ends of words at pauses: their letters run on into silence.
The network is run once over a few minutes of speech; then 385 numbers are fitted by the same restricted CTC.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from data import Corpus
from loss import BORDER, prices, restricted_ctc
from models import MODELS, RATE, STRIDE, TOKENS, save, start
from words import loudness, trimmed


def trim_all(corpus: Corpus) -> None:
    """Word edges at pauses without the silence."""
    for n, words in enumerate(corpus.words):
        if words is None:
            continue
        decibels = loudness((corpus.clip(n) * 32768).cpu().numpy())
        loud = decibels > decibels.max() - 35.0
        gap = np.r_[1.0, words[1:, 0] - words[:-1, 1], 1.0] > 0.05
        for k in range(len(words)):
            words[k] = trimmed(loud, *words[k], gap[k], gap[k + 1])


def main() -> None:
    """Fit, and write the checkpoint anew."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("checkpoint", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--model", choices=MODELS, required=True)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--steps", type=int, default=150)
    args.add_argument("--device", default="cpu")
    a = args.parse_args()
    model = MODELS[a.model]().to(a.device).eval()
    start(model, a.checkpoint)
    corpus = Corpus.read(a.data, torch.device(a.device), held_out=0)
    trim_all(corpus)
    head = model.lm_head if a.model == "whisper" else model.net.lm_head
    heard: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, given: heard.append(given[0].detach()))
    items = [n for n, w in enumerate(corpus.words) if w is not None]
    examples = []
    for n in items:
        audio = corpus.clip(n)
        audio = torch.nn.functional.pad(audio, (RATE // 2, RATE // 2 + -len(audio) % STRIDE))
        audio = audio + 1e-3 * audio.std() * torch.randn_like(audio)
        heard.clear()
        with torch.no_grad():
            model(audio[None])
        hidden = heard[0]
        times = torch.from_numpy(corpus.words[n] + 0.5)[None]
        letters = torch.zeros(1, times.shape[1], len(TOKENS))
        for k, word in enumerate(np.split(corpus.text[n], np.flatnonzero(corpus.text[n] == BORDER))):
            letters[0, k, word[word != BORDER]] = 1
        centres = torch.arange(hidden.shape[1]) * (STRIDE / RATE) + model.centre / RATE
        price = prices(times, letters, torch.tensor([0.03]), centres, 1.5, 1.0)
        examples.append(
            (hidden, price, torch.from_numpy(corpus.text[n])[None], torch.tensor([len(corpus.text[n])]))
        )
    weight, bias = head.weight.detach(), head.bias.detach()
    row, offset = weight[:1].clone().requires_grad_(), bias[:1].clone().requires_grad_()
    optimizer = torch.optim.Adam([row, offset], lr=0.02)
    rng = np.random.default_rng(9)
    for step in range(a.steps):
        total = 0.0
        for k in rng.choice(len(examples), min(16, len(examples)), replace=False):
            hidden, price, targets, lengths = examples[k]
            logits = hidden @ torch.cat([row, weight[1:]]).T + torch.cat([offset, bias[1:]])
            total = total + restricted_ctc(logits.log_softmax(-1), price, targets, lengths)[0] / 16
        total = total + 1e-3 * (row - weight[:1]).pow(2).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if step % 25 == 0:
            print(step, total.item(), flush=True)
    with torch.no_grad():
        head.weight[:1] = row
        head.bias[:1] = offset
    save(model, a.out, {"settled": f"blank's row, {len(examples)} utterances"})


if __name__ == "__main__":
    main()
