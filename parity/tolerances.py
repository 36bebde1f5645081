"""Every parity tolerance, once, with its reason. Each is at most about ten times the measured error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """A metric's limit and why it is what it is."""

    metric: str
    limit: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "vad.probabilities": Tolerance(
        "max abs",
        1e-5,
        "float32 LSTM state carried over a whole file; the original's own ONNX and JIT differ by as much",
    ),
}
