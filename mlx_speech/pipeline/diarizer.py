"""Who speaks when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np

from mlx_speech.audio import SAMPLE_RATE, as_audio, load_audio
from mlx_speech.errors import OptionError
from mlx_speech.hub import ASSETS
from mlx_speech.loading import load
from mlx_speech.models.pyannet import PyanNet
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.pipeline.basis import AudioLike, Progress, expect, sparing, unheard
from mlx_speech.stages.cluster import VBxOptions
from mlx_speech.stages.diarize import (
    DEFAULT_PRESET,
    DiarizeOptions,
    diarize_samples,
    diarize_windows,
    preset,
    segment_samples,
)
from mlx_speech.stages.identify import IdentifyOptions, identify, name_speakers, weights_digest
from mlx_speech.stages.segmentation import Segmentation
from mlx_speech.stages.vbx import PLDA
from mlx_speech.types import Diarization
from mlx_speech.voices import Voices

DEFAULT_SEGMENTATION = "segmentation-3.0"
DEFAULT_EMBEDDING = "wespeaker-resnet34-LM"
PLDA_EMBEDDING = DEFAULT_EMBEDDING
"""Whose embeddings the bundled PLDA was trained on."""

# the least cosine of two networks' embeddings of one voice for them to be one network in different precisions:
# int8 and full precision have 0.99 in the middle, 0.94 for the shortest voices; networks trained apart about 0
_ONE_NETWORK = 0.9


@dataclass(frozen=True)
class Diarizer:
    """The models of a diarization, loaded once and used for many recordings.

    One diarizer serves one thread at a time.
    """

    segmentation: PyanNet
    embedding: WeSpeaker
    plda: PLDA | None
    voices: Voices | None = None
    identify: IdentifyOptions = field(default_factory=IdentifyOptions)

    @classmethod
    def load(
        cls,
        segmentation: str = DEFAULT_SEGMENTATION,
        embedding: str = DEFAULT_EMBEDDING,
        *,
        voices: Voices | None = None,
        identify: IdentifyOptions | None = None,
    ) -> Diarizer:
        """Load the two networks by name, and the PLDA if it belongs to the embedding.

        Args:
            segmentation: any name :func:`mlx_speech.load` takes that leads to a PyanNet.
            embedding: the same for a WeSpeaker. The bundled PLDA was trained on the bundled one, and serves it
                in any precision; with others there is none, and VBx (``community-1``) is refused.
            voices: known ones; speakers who have them get their names.
            identify: how alike the voices must be.

        Raises:
            OptionError: a name leads to another kind of model.
            VoicesError: another embedding model has heard the voices.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        model = expect(load(embedding), WeSpeaker, embedding)
        if voices is not None:
            voices.check(weights_digest(model))
        return cls(
            expect(load(segmentation), PyanNet, segmentation),
            model,
            PLDA.load(ASSETS / "plda") if embedding == PLDA_EMBEDDING or _serves(model) else None,
            voices,
            identify or IdentifyOptions(),
        )

    def check(self, options: DiarizeOptions) -> DiarizeOptions:
        """These options, if the models at hand can do what they ask for.

        Raises:
            OptionError: VBx, and the PLDA belongs to another embedding.
        """
        if isinstance(options.clustering, VBxOptions) and self.plda is None:
            origin = getattr(self.embedding, "origin", None)
            raise OptionError(
                f"VBx (preset community-1) has no PLDA for the embedding {origin.name if origin else 'given'!r}: "
                f"the bundled one was trained on {PLDA_EMBEDDING}; take that embedding, or centroid linkage "
                "(preset fast or 3.1)"
            )
        return options

    def diarize(
        self,
        audio: AudioLike,
        options: DiarizeOptions | str = DEFAULT_PRESET,
        *,
        segmentation: Segmentation | None = None,
        progress: Progress | None = None,
    ) -> Diarization:
        """Find out who speaks when.

        Args:
            audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
            options: how, or the name of a preset.
            segmentation: of this recording with these options, where :meth:`segment` was called before.
            progress: called as stages advance.

        Returns:
            Turns in seconds from the recording's start, of ``SPEAKER_00`` and so on; speakers whose voices are
            known have their names. Silence gives none.

        Raises:
            AudioError: the recording cannot be read.
            OptionError: no preset has that name, or it is not for this embedding.
        """
        options = self.check(preset(options) if isinstance(options, str) else options)
        samples = as_audio(audio)
        report = sparing(samples, progress or unheard)
        if segmentation is None:
            found = diarize_samples(self.segmentation, self.embedding, self.plda, samples, options, report)
        else:
            found = diarize_windows(self.embedding, self.plda, samples, segmentation, options, report)
        if self.voices is None:
            return found
        return name_speakers(
            found, identify(found.embeddings, found.speakers, self.voices.voices, self.identify)
        )

    def segment(
        self,
        audio: AudioLike,
        options: DiarizeOptions | str = DEFAULT_PRESET,
        *,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Who may be speaking within each window: the first half of :meth:`diarize`, and a speech detector."""
        options = preset(options) if isinstance(options, str) else options
        return segment_samples(self.segmentation, as_audio(audio), options, progress or unheard)


def _serves(model: WeSpeaker) -> bool:
    """Whether the bundled PLDA belongs to an embedding network: one voice is heard as by its own."""
    own: WeSpeaker = load(PLDA_EMBEDDING)
    if model.config.embedding != own.config.embedding:
        return False
    audio = mx.array(load_audio(ASSETS / "demo" / "sense_and_sensibility.flac")[None, : 5 * SAMPLE_RATE])
    a, b = (np.array(network.embed(audio)[0, 0], np.float64) for network in (model, own))
    return bool(a @ b >= _ONE_NETWORK * np.linalg.norm(a) * np.linalg.norm(b))


def diarize(
    audio: AudioLike,
    num_speakers: int | None = None,
    *,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    options: DiarizeOptions | str = DEFAULT_PRESET,
    diarizer: Diarizer | None = None,
    progress: Progress | None = None,
) -> Diarization:
    """Find out who speaks when; see :meth:`Diarizer.diarize`.

    Args:
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        num_speakers: how many speakers there are, where that is known.
        min_speakers: the fewest there can be.
        max_speakers: the most there can be.
        options: everything else, or the name of a preset.
        diarizer: models to use again and again.
        progress: called as stages advance.
    """
    options = preset(options) if isinstance(options, str) else options
    options = replace(
        options,
        num_speakers=options.num_speakers if num_speakers is None else num_speakers,
        min_speakers=options.min_speakers if min_speakers is None else min_speakers,
        max_speakers=options.max_speakers if max_speakers is None else max_speakers,
    )
    return (diarizer or Diarizer.load()).diarize(audio, options, progress=progress)
