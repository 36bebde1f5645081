"""WeSpeaker's ResNet: a voice as a vector.

Original: https://github.com/wenet-e2e/wespeaker/blob/v1.2.0/wespeaker/models/resnet.py (Apache-2.0) as
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/models/embedding/wespeaker (MIT)
wraps it, from Wang et al., "Wespeaker: A research and production oriented speaker embedding learning toolkit"
(2022), https://arxiv.org/abs/2210.17016. Batch norms are folded into the convolutions before them.

B batch, L samples, T frames of 10 ms, M mel bands (80), U frames after the trunk (80 ms), C features of such
a frame, S masks (speakers), F frames of the masks, E size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.errors import AudioError
from mlx_speech.features import FBANK_HOP, FBANK_WINDOW, kaldi_fbank
from mlx_speech.layers.conv2d import Conv2d
from mlx_speech.layers.fused import slow_functions
from mlx_speech.layers.pooling import pool_statistics

_BLOCK = 32  # windows in the trunk at once on a GPU; one at a time on a CPU, where its cache counts

# name: (blocks a stage, whether blocks are bottlenecks)
VARIANTS = {
    "ResNet18": ((2, 2, 2, 2), False),
    "ResNet34": ((3, 4, 6, 3), False),
    "ResNet50": ((3, 4, 6, 3), True),
    "ResNet101": ((3, 4, 23, 3), True),
    "ResNet152": ((3, 8, 36, 3), True),
    "ResNet221": ((6, 16, 48, 3), True),
    "ResNet293": ((10, 20, 64, 3), True),
}


@dataclass(frozen=True)
class WeSpeakerConfig:
    """The network's sizes.

    ``blocks`` is how many blocks each of the four stages has, ``bottleneck`` whether they are bottlenecks
    (1×1, 3×3, 1×1) rather than pairs of 3×3; ``channels`` is the first stage's width, ``n_mels`` the number
    of mel bands. With ``two_layers`` a second linear layer makes the embedding.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    bottleneck: bool = False
    channels: int = 32
    n_mels: int = 80
    embedding: int = 256
    two_layers: bool = False
    sampling_rate: int = 16_000

    def __post_init__(self) -> None:
        if len(self.blocks) != 4 or not all(isinstance(n, int) and n >= 1 for n in self.blocks):
            raise ValueError(f"blocks is {self.blocks!r}, not four positive whole numbers")
        for name in ("channels", "n_mels", "embedding"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, not a positive whole number")
        if self.n_mels % 8:
            raise ValueError(f"n_mels is {self.n_mels}, not a multiple of 8")
        if self.sampling_rate != 16_000:
            raise ValueError(f"sampling_rate is {self.sampling_rate!r}; the filters here are for 16000 Hz")

    @property
    def variant(self) -> str:
        """The original's name for these blocks, ``"ResNet34"`` …, or ``"ResNet"``."""
        wanted = (tuple(self.blocks), self.bottleneck)
        return next((name for name, shape in VARIANTS.items() if shape == wanted), "ResNet")

    @property
    def expansion(self) -> int:
        """How many times wider a block's output is than its inside."""
        return 4 if self.bottleneck else 1

    @property
    def num_features(self) -> int:
        """C."""
        return self.channels * 8 * self.expansion * (self.n_mels // 8)

    @property
    def min_samples(self) -> int:
        """The shortest audio that has an embedding without a mask: two frames after the trunk."""
        return FBANK_WINDOW + 8 * FBANK_HOP

    def num_frames(self, samples: int) -> int:
        """U of so many samples."""
        frames = max(0, (samples - FBANK_WINDOW) // FBANK_HOP + 1)
        return -(-frames // 8)


class Block(nn.Module):
    """Convolutions with a way around them."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.convs = [
                Conv2d(inputs, width, 1),
                Conv2d(width, width, 3, stride),
                Conv2d(width, outputs, 1),
            ]
        else:
            self.convs = [Conv2d(inputs, width, 3, stride), Conv2d(width, width, 3)]
        self.shortcut = Conv2d(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def __call__(self, x: mx.array) -> mx.array:
        """(B, M', T', N) → (B, M'', T'', N'')."""
        y = x
        for conv in self.convs[:-1]:
            y = conv.rectified(y)
        return self.convs[-1].rectified(y, x if self.shortcut is None else self.shortcut(x))


class WeSpeaker(nn.Module):
    """Speaker embeddings of 16 kHz audio. Compute in float32: half precision ruins the clustering after it.

    :meth:`embed` is :meth:`fbank`, :meth:`trunk` and :meth:`pool` after each other; nearly all time goes into
    the trunk, which does not depend on the masks.
    """

    def __init__(self, config: WeSpeakerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WeSpeakerConfig()
        self.conv1 = Conv2d(1, config.channels, 3)
        self.stages: list[list[Block]] = []
        inputs = config.channels
        for n, count in enumerate(config.blocks):
            width = config.channels * 2**n
            stage = []
            for block in range(count):
                stride = 2 if n and not block else 1
                stage.append(Block(inputs, width, stride, bottleneck=config.bottleneck))
                inputs = width * config.expansion
            self.stages.append(stage)
        self.seg_1 = nn.Linear(2 * config.num_features, config.embedding)
        if config.two_layers:
            self.seg_2 = nn.Linear(config.embedding, config.embedding)

    def embed(self, audio: mx.array, masks: mx.array | None = None) -> mx.array:
        """One embedding for each mask over each window; the trunk runs once a window.

        Args:
            audio: (B, L) float32 samples at 16 kHz, mono, within [-1, 1].
            masks: (B, S, F) float32 weights of at least 0 over the windows' length, at any frame rate.
                Without masks all of a window counts, and L is at least ``config.min_samples``.

        Returns:
            (B, S, E) float32, S = 1 without masks; not normalised to unit length. A mask without weight
            gives a vector that means nothing.

        Raises:
            AudioError: another rank, samples that are not floating point, too few of them, or masks that do
                not fit the audio.
        """
        if audio.ndim != 2:
            raise AudioError(f"audio has {audio.ndim} dimensions; give (windows, samples)")
        if masks is None and audio.shape[1] < self.config.min_samples:
            raise AudioError(
                f"audio has {audio.shape[1]} samples a window; an embedding takes {self.config.min_samples}"
            )
        return self.pool(self.trunk(self.fbank(audio)), masks)

    def fbank(self, audio: mx.array) -> mx.array:
        """Log mel energies less their mean over the window: (B, L) float32 → (B, T, M) float32.

        Raises:
            AudioError: another rank, samples that are not floating point, or fewer than 400 of them.
        """
        x = kaldi_fbank(audio, self.config.n_mels)
        return x - mx.mean(x, axis=1, keepdims=True)

    def fbank_of_stretch(self, audio: mx.array, size: int, step: int, rows: np.ndarray) -> mx.array:
        """:meth:`fbank` of overlapping windows of a stretch; each frame is computed once.

        Args:
            audio: (L,) float32, the stretch.
            size: of a window, in samples, at least 400.
            step: from one window's start to the next one's, in samples, a multiple of the frames' 160.
            rows: (B,) the windows' numbers; the stretch reaches to the last one's end.

        Returns:
            (B, T, M) float32.
        """
        width = self.config.n_mels
        energies = mx.contiguous(kaldi_fbank(audio, width))
        shape = (int(rows.max()) + 1, (size - FBANK_WINDOW) // FBANK_HOP + 1, width)
        windows = mx.as_strided(energies, shape, (step // FBANK_HOP * width, width, 1))[mx.array(rows)]
        return windows - mx.mean(windows, axis=1, keepdims=True)

    def trunk(self, fbank: mx.array) -> mx.array:
        """The convolutions.

        Args:
            fbank: (B, T, M) float32 from :meth:`fbank`, T at least 1.

        Returns:
            (B, U, C) float32, evaluated on a CPU, U = ⌈T / 8⌉; 2560 features for 32 channels and 80 bands.

        Raises:
            AudioError: another rank, or another number of bands.
        """
        if fbank.ndim != 3 or fbank.shape[2] != self.config.n_mels or not fbank.shape[1]:
            raise AudioError(
                f"features have shape {tuple(fbank.shape)}, not (windows, frames, {self.config.n_mels})"
            )
        none = mx.zeros((0, -(-fbank.shape[1] // 8), self.config.num_features))
        if not runtime.on_cpu():  # whoever waits may have the host do something else meanwhile
            blocks = range(0, fbank.shape[0], _BLOCK)
            return mx.concatenate([none, *(self._convolve(fbank[n : n + _BLOCK]) for n in blocks)])
        mx.eval(fbank, self.parameters())  # nothing lazy may cross threads
        shares = runtime.shares(fbank.shape[0], 1 if slow_functions() else _BLOCK)
        return mx.concatenate([none, *runtime.spread(lambda part: self._evaluated(fbank[part]), shares)])

    def _evaluated(self, fbank: mx.array) -> mx.array:
        features = self._convolve(fbank)
        mx.eval(features)
        return features

    def pool(self, features: mx.array, masks: mx.array | None = None) -> mx.array:
        """Statistics of the trunk's features under each mask, made into an embedding.

        Args:
            features: (B, U, C) float32 from :meth:`trunk`.
            masks: (B, S, F) float32 or ``None``, see :meth:`embed`; resized to U frames by nearest neighbour.

        Returns:
            (B, S, E) float32, S = 1 without masks.

        Raises:
            AudioError: masks of another rank or batch, or none and a single frame.
        """
        if masks is None and features.shape[1] < 2:
            raise AudioError("a window of a single frame has no spread: longer audio or a mask is needed")
        if masks is not None and (
            masks.ndim != 3 or masks.shape[0] != features.shape[0] or not masks.shape[2]
        ):
            raise AudioError(
                f"masks have shape {tuple(masks.shape)}, not ({features.shape[0]} windows, speakers, frames)"
            )
        x = self.seg_1(pool_statistics(features, masks))
        return self.seg_2(nn.relu(x)) if self.config.two_layers else x

    def _convolve(self, fbank: mx.array) -> mx.array:
        x = self.conv1.rectified(fbank.swapaxes(1, 2)[..., None])
        for stage in self.stages:
            for block in stage:
                x = block(x)
        batch, bands, frames, channels = x.shape
        return x.transpose(0, 2, 3, 1).reshape(batch, frames, channels * bands)
