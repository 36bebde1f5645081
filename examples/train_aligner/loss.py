"""CTC restricted by known word times, and the Viterbi path that times words.

A letter may stand where a word with it is spoken, a little beside it at a price; blanks inside a word cost, so
that the model goes on saying a letter as long as it sounds; the word border may not stand inside a word. The
gradient is the softmax less the paths' posterior occupancies: cross-entropy against these.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLANK, BORDER, LETTERS = 0, 4, 5
NEVER = -6.0  # natural logarithm: what is forbidden, yet possible where the times are wrong


def prices(
    times: Tensor, letters: Tensor, slack: Tensor, centres: Tensor, blank: float, beside: float
) -> Tensor:
    """What each token costs at each frame (B, T, V), 0 or below.

    Args:
        times: words (B, W, 2) in seconds; padding ends before it starts.
        letters: which a word has (B, W, V) of 0 and 1.
        slack: seconds that a word's letters may stand beside it (B,).
        centres: of the frames (T,) in seconds.
        blank: price of a blank inside a word.
        beside: price of a letter beside its word.
    """
    t, start, end = centres[None, :, None], times[:, None, :, 0], times[:, None, :, 1]
    room = slack[:, None, None]
    inside = ((t >= start) & (t < end)).float()
    near = ((t >= start - room) & (t < end + room) & (end > start)).float()
    deep = ((t >= start + room) & (t < end - room)).any(2)
    free, allowed = torch.bmm(inside, letters) > 0, torch.bmm(near, letters) > 0
    out = torch.where(free, 0.0, torch.where(allowed, -beside, NEVER))
    out[..., BLANK] = -blank * inside.amax(2)
    out[..., 1:BORDER] = NEVER
    out[..., BORDER] = NEVER * deep
    return out


def occupancies(scores: Tensor, price: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Posteriors (B, T, V) of the tokens over all paths of the targets, and whether there is a path (B,)."""
    frames = torch.full((len(scores),), scores.shape[1], dtype=torch.long)
    with torch.enable_grad():
        priced = (scores.detach() + price).transpose(0, 1).contiguous().requires_grad_()
        loss = functional.ctc_loss(
            priced, targets, frames, lengths, blank=BLANK, reduction="none", zero_infinity=True
        )
        (slope,) = torch.autograd.grad(loss.sum(), priced)
    good = (loss.detach() > 0) & torch.isfinite(loss.detach())
    return (priced.detach().exp() - slope).transpose(0, 1).clamp(0, 1) * good[:, None, None], good


def restricted_ctc(scores: Tensor, price: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The loss a frame, and the share of rows with a path. ``scores`` are log-probabilities (B, T, V)."""
    wanted, good = occupancies(scores, price, targets, lengths)
    return -(wanted * scores).sum() / (scores.shape[0] * scores.shape[1]), good.float().mean()


@torch.no_grad()
def viterbi(scores: Tensor, targets: Tensor, lengths: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The best path of each row: a state a frame (B, T), odd states 2k + 1 being the k-th token; its mean score.

    Rows may have fewer frames than T: ``frames`` (B,). Behind them the last state stays, at no cost.
    """
    rows, total, _ = scores.shape
    states = torch.zeros(rows, 2 * targets.shape[1] + 1, dtype=torch.long, device=scores.device)
    states[:, 1::2] = targets
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 2:] = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    best = torch.full(states.shape, -1e30, device=scores.device)
    best[:, :2] = scores[:, 0].gather(1, states[:, :2])
    came = torch.zeros(rows, total, states.shape[1], dtype=torch.int8, device=scores.device)
    for t in range(1, total):
        one = functional.pad(best, (1, 0), value=-1e30)[:, :-1]
        two = functional.pad(best, (2, 0), value=-1e30)[:, :-2].masked_fill(~skips, -1e30)
        value, step = torch.stack([best, one, two], 2).max(2)
        on = (t < frames)[:, None]
        came[:, t] = torch.where(on, step, 0).to(torch.int8)
        best = torch.where(on, value + scores[:, t].gather(1, states), best)
    last = 2 * lengths
    ends = torch.stack([best.gather(1, (last - 1)[:, None])[:, 0], best.gather(1, last[:, None])[:, 0]], 1)
    mean, choice = ends.max(1)
    state = last - 1 + choice
    path = torch.zeros(rows, total, dtype=torch.long, device=scores.device)
    for t in range(total - 1, -1, -1):
        path[:, t] = state
        state = state - came[:, t].gather(1, state[:, None])[:, 0].long()
    return path, mean / frames
