"""PyanNet: who of up to a few local speakers talks in each frame of a short window.

Original: https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/models/segmentation/PyanNet.py
(MIT, Copyright (c) 2020 CNRS), from Bredin, "pyannote.audio 2.1 speaker diarization pipeline" (2023), and
Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization" (2023),
https://arxiv.org/abs/2310.13025

B batch, S samples, T frames, K classes, N local speakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import mlx.core as mx
import mlx.nn as nn

from mlx_speech import runtime
from mlx_speech.errors import AudioError
from mlx_speech.layers.fused import kernels
from mlx_speech.layers.lstm import DeepLSTM
from mlx_speech.layers.sincnet import CHANNELS, SincNet, num_frames, receptive_field

# windows that run at once: enough to share each step's overhead; by loops, as many as read weights together
_BLOCK, _LOOPS_BLOCK, _GPU_BLOCK = 64, 4, 128


@dataclass(frozen=True)
class PyanNetConfig:
    """The original's hyper-parameters and what the task it was trained for tells of its output.

    ``num_speakers`` local speakers (or classes of sound) are told apart; ``max_simultaneous`` of them can
    talk at once where the classes are a powerset, ``None`` stands for independent ones. ``duration`` is
    the length in seconds of the windows it was trained on, ``warm_up`` the seconds at their two ends that
    it is less sure of.
    """

    num_speakers: int
    max_simultaneous: int | None = None
    duration: float = 10.0
    warm_up: tuple[float, float] = (0.0, 0.0)
    stride: int = 10
    lstm_hidden: int = 128
    lstm_layers: int = 2
    bidirectional: bool = True
    linear_hidden: int = 128
    linear_layers: int = 2
    sampling_rate: int = 16_000

    def __post_init__(self) -> None:
        least = {"num_speakers": 1, "stride": 1, "lstm_hidden": 1, "lstm_layers": 1, "linear_layers": 0}
        if self.linear_layers:
            least["linear_hidden"] = 1
        if self.max_simultaneous is not None:
            least["max_simultaneous"] = 1
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise ValueError(f"{name} is {value!r}, not a whole number of at least {smallest}")
        if self.max_simultaneous is not None and self.max_simultaneous > self.num_speakers:
            raise ValueError(f"max_simultaneous {self.max_simultaneous} of {self.num_speakers} speakers")
        if not isinstance(self.duration, (int, float)) or not self.duration > 0:
            raise ValueError(f"duration is {self.duration!r}, not a positive number of seconds")
        if self.sampling_rate != 16_000:
            raise ValueError(f"sampling_rate is {self.sampling_rate!r}; SincNet hears 16000 Hz only")

    @property
    def powerset(self) -> bool:
        """Whether the classes are sets of speakers."""
        return self.max_simultaneous is not None

    @property
    def speaker_sets(self) -> tuple[tuple[int, ...], ...]:
        """The speakers of each class: (), (0,), (1,), (2,), (0, 1), … or one each where not a powerset."""
        people = range(self.num_speakers)
        if self.max_simultaneous is None:
            return tuple((n,) for n in people)
        return tuple(c for size in range(self.max_simultaneous + 1) for c in combinations(people, size))

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.speaker_sets)

    @property
    def window_samples(self) -> int:
        """Samples of a window of ``duration``."""
        return round(self.duration * self.sampling_rate)

    @property
    def frame_duration(self) -> float:
        """Seconds of audio that one frame hears."""
        return receptive_field(self.stride)[0] / self.sampling_rate

    @property
    def frame_step(self) -> float:
        """Seconds between two frames."""
        return receptive_field(self.stride)[1] / self.sampling_rate

    def num_frames(self, samples: int) -> int:
        """Frames that so many samples make."""
        return max(0, num_frames(samples, self.stride))


class PyanNet(nn.Module):
    """Speaker activity every 270 samples (16.9 ms) of 16 kHz windows, whatever the windows' length."""

    def __init__(self, config: PyanNetConfig) -> None:
        super().__init__()
        self.config = config
        self.sincnet = SincNet(config.stride)
        self.lstm = DeepLSTM(
            CHANNELS, config.lstm_hidden, config.lstm_layers, bidirectional=config.bidirectional
        )
        width = config.lstm_hidden * (2 if config.bidirectional else 1)
        sizes = [width] + [config.linear_hidden] * config.linear_layers
        self.linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.classifier = nn.Linear(sizes[-1], config.num_classes)

    def __call__(self, audio: mx.array) -> mx.array:
        """Class scores of windows that are each heard on their own.

        Args:
            audio: (B, S) float32 samples at 16 kHz, mono, within [-1, 1]; 160000 for the 10 s that
                segmentation-3.0 was trained on. B may be 0.

        Returns:
            (B, T, K) float32, evaluated on a CPU, ``T = config.num_frames(S)`` (589 for 10 s): natural
            logarithms of probabilities that sum to one over ``config.speaker_sets`` where
            ``config.powerset``, else independent probabilities, one a speaker.

        Raises:
            AudioError: another rank, samples that are not floating point, or too few for one frame.
        """
        frames = self._check(audio)
        none = mx.zeros((0, frames, self.config.num_classes))
        if not runtime.on_cpu():  # whoever waits may have the host do something else meanwhile
            blocks = range(0, audio.shape[0], _GPU_BLOCK)
            return mx.concatenate([none, *(self._scores(audio[n : n + _GPU_BLOCK]) for n in blocks)])
        mx.eval(audio, self.parameters())  # nothing lazy may cross threads
        shares = runtime.shares(audio.shape[0], _LOOPS_BLOCK if kernels() else _BLOCK)
        return mx.concatenate([none, *runtime.spread(lambda part: self._evaluated(audio[part]), shares)])

    def _evaluated(self, audio: mx.array) -> mx.array:
        scores = self._scores(audio)
        mx.eval(scores)
        return scores

    def _scores(self, audio: mx.array) -> mx.array:
        x = self.lstm(self.sincnet(audio.astype(mx.float32)))
        for layer in self.linear:
            x = nn.leaky_relu(layer(x))
        x = self.classifier(x)
        if not self.config.powerset:
            return mx.sigmoid(x)
        return x - mx.logsumexp(x, axis=-1, keepdims=True)

    def _check(self, audio: mx.array) -> int:
        if audio.ndim != 2:
            raise AudioError(f"audio has {audio.ndim} dimensions; give (windows, samples)")
        if not mx.issubdtype(audio.dtype, mx.floating):
            raise AudioError(f"audio holds {audio.dtype}; give float32 samples within [-1, 1]")
        frames = self.config.num_frames(audio.shape[1])
        if frames < 1:
            least = receptive_field(self.config.stride)[0]
            raise AudioError(f"audio has {audio.shape[1]} samples a window; one frame takes {least}")
        return frames
