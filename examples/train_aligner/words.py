"""From a synthesiser's durations to word times that agree with its audio."""

from __future__ import annotations

import numpy as np

RATE = 16000
SHORT_GAP = 0.1  # seconds; words nearer than this meet in the middle of the gap
QUIET = 35.0  # decibels below the loudest 10 ms


LAG = 0.055  # seconds by which Kokoro's borders are late, as lag.py measures it
SNAP = 0.1  # seconds that the edge of a word at a pause may move outwards, to where the sound begins or ends


def loudness(audio: np.ndarray) -> np.ndarray:
    """Decibels of each 10 ms of int16 audio."""
    x = audio[: len(audio) // 160 * 160].astype(np.float32).reshape(-1, 160) / 32768
    return 10 * np.log10((x**2).mean(1) + 1e-10)


def word_times(
    borders: np.ndarray, owners: list[int], count: int, audio: np.ndarray, lag: float
) -> np.ndarray:
    """Starts and ends (W, 2) in seconds.

    Args:
        borders: of the phonemes (N + 1,), in seconds.
        owners: each phoneme's word, or -1 (N,).
        count: words.
        audio: (S,) int16 at 16 kHz.
        lag: seconds taken off the borders.
    """
    times = np.full((count, 2), np.nan)
    for n, owner in enumerate(owners):
        if owner >= 0:
            if np.isnan(times[owner, 0]):
                times[owner, 0] = borders[n]
            times[owner, 1] = borders[n + 1]
    times = (times - lag).clip(0.0, len(audio) / RATE)
    gap = times[1:, 0] - times[:-1, 1]
    meets = gap < SHORT_GAP
    times[1:, 0] = np.where(meets, times[:-1, 1] + gap / 2, times[1:, 0])
    times[:-1, 1] = np.where(meets, times[1:, 0], times[:-1, 1])
    decibels = loudness(audio)
    loud = decibels > decibels.max() - QUIET
    for k in range(count):
        if k == 0 or not meets[k - 1]:
            times[k, 0] = snapped(loud, times[k, 0], True)
        if k == count - 1 or not meets[k]:
            times[k, 1] = snapped(loud, times[k, 1], False)
        times[k] = trimmed(loud, *times[k], k == 0 or not meets[k - 1], k == count - 1 or not meets[k])
    return np.maximum(times, times[:, :1] + [0.0, 0.02])


def trimmed(loud: np.ndarray, start: float, end: float, before: bool, after: bool) -> tuple[float, float]:
    """Without the silence before and after it, however long: Kokoro's last phoneme runs on into the pause."""
    first, last = int(start * 100), int(np.ceil(end * 100))
    sounding = np.flatnonzero(loud[first:last])
    if len(sounding):
        start = max(start, (first + sounding[0]) / 100) if before else start
        end = min(end, (first + sounding[-1] + 1) / 100) if after else end
    return start, end


def trimmed_words(words: np.ndarray, audio: np.ndarray, near: float = 0.05) -> np.ndarray:
    """Words (W, 2) in seconds whose edges at pauses go to the sound; ``audio`` (S,) is int16."""
    decibels = loudness(audio)
    loud = decibels > decibels.max() - QUIET
    gap = np.r_[1.0, words[1:, 0] - words[:-1, 1], 1.0] > near
    return np.array([trimmed(loud, *w, gap[k], gap[k + 1]) for k, w in enumerate(words)], np.float32)


def snapped(loud: np.ndarray, time: float, rising: bool) -> float:
    """The nearest border between quiet and loud, if it is within SNAP."""
    padded = np.r_[False, loud, False]
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    edges = edges[padded[edges + 1] == rising] / 100
    near = edges[np.abs(edges - time) < SNAP]
    return float(near[np.argmin(np.abs(near - time))]) if len(near) else time
