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
    "whisper.log_mel": Tolerance("max abs", 1e-5, ""),
    "whisper.encoder": Tolerance("relative L2", 1e-5, ""),
    "whisper.layers": Tolerance("relative L2", 1e-5, ""),
    "whisper.logits": Tolerance("relative L2", 1e-5, ""),
    "whisper.logprobs": Tolerance("max abs", 1e-3, ""),
    "whisper.avg_logprob": Tolerance("max abs", 1e-4, ""),
    "whisper.no_speech_prob": Tolerance("max abs", 1e-5, ""),
    "whisper.compression_ratio": Tolerance("max abs", 1e-9, ""),
    "whisper.word_times": Tolerance("max abs", 0.0201, ""),
    "whisper.word_probabilities": Tolerance("max abs", 1e-4, ""),
    "whisper.language": Tolerance("max abs", 1e-5, ""),
}
