"""The stages, composed: a recording goes in, words with times come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.errors import ModelNotFoundError, OptionError
from mlx_speech.hub import ASSETS
from mlx_speech.loading import load
from mlx_speech.models.pyannet import PyanNet
from mlx_speech.models.vad import SileroVAD, VADConfig
from mlx_speech.models.wav2vec2 import Wav2Vec2ForCTC
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.align import AlignOptions, align_segments, align_text
from mlx_speech.stages.aligners import ALIGNERS, default_aligner, known_lag
from mlx_speech.stages.diarize import DEFAULT_PRESET, DiarizeOptions, diarize_samples, preset
from mlx_speech.stages.embedding import embed_recording
from mlx_speech.stages.emissions import Listener
from mlx_speech.stages.segmentation import chunk_probabilities, segment
from mlx_speech.stages.speech import (
    SpeechOptions,
    merge_spans,
    spans_from_probabilities,
    speech_probabilities,
)
from mlx_speech.stages.tokenizer import Tokenizer, tokenizer_for
from mlx_speech.stages.transcribe import TranscribeOptions, check_ability, transcribe_spans
from mlx_speech.stages.vbx import PLDA
from mlx_speech.types import Diarization, Segment, Span, Transcript

AudioLike = str | os.PathLike[str] | Any
"""A path, or (T,) floating-point samples at 16 kHz within [-1, 1]: a numpy or an MLX array."""

Progress = Callable[[str, float, float], None]
"""Told a stage's name, and the seconds done and to do in it."""

VAD = SileroVAD | PyanNet
"""What tells speech from silence."""

DEFAULT_MODEL = "whisper-small"
DEFAULT_VAD = "silero-vad"
DEFAULT_SEGMENTATION = "segmentation-3.0"
DEFAULT_EMBEDDING = "wespeaker-resnet34-LM"

# Whisper wants a little silence around words, and loses them where a cut is tight
TRANSCRIBE_SPEECH = SpeechOptions(speech_pad=0.2, min_silence_duration=0.3)
_MAX_WINDOW = 30.0
_VAD_STEP = 5.0  # seconds between a segmentation's windows: each moment is heard twice


@dataclass(frozen=True)
class Transcriber:
    """The models of a transcription, loaded once and used for many recordings.

    One transcriber serves one thread at a time.
    """

    whisper: Whisper
    tokenizer: Tokenizer
    vad: VAD
    aligner: Aligner | None = None

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        vad: str = DEFAULT_VAD,
        align: str = "none",
        dtype: str | None = None,
    ) -> Transcriber:
        """Load a Whisper, a VAD and, if wanted, an aligner by name.

        Args:
            model: any name :func:`mlx_speech.load` takes that leads to a Whisper.
            vad: the same for the VAD, or a PyanNet; ``"pyannet"`` is the bundled one.
            align: what times the words: ``"none"`` for Whisper's own attention, otherwise as in
                :meth:`Aligner.load`; ``"auto"`` leaves languages without an aligner to Whisper.
            dtype: what Whisper computes in; the device's best by default.

        Raises:
            OptionError: a name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        whisper = expect(load(model, dtype=dtype), Whisper, model)
        aligner = None if align == "none" else Aligner.load(align)
        return cls(whisper, tokenizer_for(whisper), load_vad(vad), aligner)

    def transcribe(
        self,
        audio: AudioLike,
        options: TranscribeOptions | None = None,
        *,
        speech: SpeechOptions = TRANSCRIBE_SPEECH,
        progress: Progress | None = None,
    ) -> Transcript:
        """Transcribe one recording.

        Args:
            audio: a path in any container, or (T,) samples at 16 kHz.
            options: language, task, word times, batch size, decoding.
            speech: how speech is told from silence.
            progress: called as stages advance.

        Returns:
            Segments with words, times in seconds from the recording's start. Silence gives no segments.

        Raises:
            AudioError: the recording cannot be read.
            OptionError: the model cannot do what the options ask for.
        """
        options = options or TranscribeOptions()
        check_ability(self.tokenizer, options)
        report = progress or (lambda stage, done, total: None)
        samples = as_audio(audio)
        duration = len(samples) / SAMPLE_RATE
        report("speech", 0.0, duration)
        probabilities = hear_speech(self.vad, samples)
        spans = spans_from_probabilities(probabilities, len(samples), speech)
        windows = merge_spans(spans, _MAX_WINDOW, probabilities=probabilities)
        report("speech", duration, duration)
        total = sum(w.duration for w in windows)
        report("transcribe", 0.0, total)
        segments, language = transcribe_spans(
            self.whisper,
            self.tokenizer,
            samples,
            windows,
            options,
            lambda done: report("transcribe", done, total),
        )
        transcript = Transcript(tuple(segments), language, duration, tuple(spans))
        if self.aligner is None or not options.words or options.decode.task == "translate":
            return transcript  # a translation's words are not in the audio
        return self.aligner.align(samples, transcript, partial=True, progress=progress)


def transcribe(
    audio: AudioLike,
    model: str | Transcriber = DEFAULT_MODEL,
    options: TranscribeOptions | None = None,
    *,
    speech: SpeechOptions = TRANSCRIBE_SPEECH,
    progress: Progress | None = None,
) -> Transcript:
    """Transcribe one recording; see :meth:`Transcriber.transcribe`.

    Args:
        audio: a path in any container, or (T,) samples at 16 kHz.
        model: a Whisper's name, or a :class:`Transcriber` to use again and again.
        options: language, task, word times, batch size, decoding.
        speech: how speech is told from silence.
        progress: called as stages advance.
    """
    transcriber = model if isinstance(model, Transcriber) else Transcriber.load(model)
    return transcriber.transcribe(audio, options, speech=speech, progress=progress)


@dataclass(frozen=True)
class Aligner:
    """The models that time known words, loaded once and used for many recordings.

    One aligner serves one thread at a time. ``name`` is ``"auto"`` or a model's, which then serves every
    language. ``listeners`` are the models loaded so far, by language.
    """

    name: str = "auto"
    listeners: dict[str | None, Listener] = field(default_factory=dict)

    @classmethod
    def load(cls, model: str = "auto", *, languages: Iterable[str] = ()) -> Aligner:
        """Load aligners.

        Args:
            model: any name :func:`mlx_speech.load` takes that leads to a wav2vec2 with a CTC head, or
                ``"auto"``: for each language the best one of :mod:`mlx_speech.stages.aligners` that is on
                this machine. That downloads nothing.
            languages: with ``"auto"``, those to load now; others are loaded when they are met.

        Raises:
            OptionError: the name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        aligner = cls(model)
        for language in languages if model == "auto" else (None,):
            aligner.listener(language)
        return aligner

    def listener(self, language: str | None) -> Listener | None:
        """The model for a language, loaded on first use; ``None`` where there is none on this machine."""
        key = language if self.name == "auto" else None
        if key not in self.listeners:
            name, lag = self.name, known_lag(self.name)
            if name == "auto":
                choice = default_aligner(language or "en")
                if choice is None:
                    return None
                name, lag = choice.name, choice.lag
            self.listeners[key] = Listener(expect(load(name), Wav2Vec2ForCTC, name), lag)
        return self.listeners[key]

    def align(
        self,
        audio: AudioLike,
        transcript: str | Transcript | Sequence[Segment],
        options: AlignOptions | None = None,
        *,
        language: str | None = None,
        partial: bool = False,
        progress: Progress | None = None,
    ) -> Transcript:
        """Time the words of a transcript.

        Args:
            audio: a path in any container, or (T,) samples at 16 kHz.
            transcript: what is said. Text is placed in the whole recording, which takes time proportional
                to both lengths; segments near their times.
            options: how.
            language: of the text, and of segments that do not say theirs; English by default.
            partial: leave segments of a language without an aligner as they are.
            progress: called as the stage advances.

        Returns:
            Every written word once, in order, with a time.

        Raises:
            AudioError: the recording cannot be read.
            ModelNotFoundError: no aligner for a language is here, and ``partial`` is not set.
        """
        samples = as_audio(audio)
        duration = len(samples) / SAMPLE_RATE
        given = transcript.language if isinstance(transcript, Transcript) else None
        language = language or given or "en"

        def report(done: float) -> None:
            if progress:
                progress("align", done, duration)

        report(0.0)
        if isinstance(transcript, str):
            segments = align_text(self._needed(language), samples, transcript, language, options, report)
        else:
            rough = transcript.segments if isinstance(transcript, Transcript) else transcript
            rough = [replace(s, language=s.language or language) for s in rough]
            codes = dict.fromkeys(s.language for s in rough)
            found = {c: self.listener(c) if partial else self._needed(c) for c in codes}
            listeners = {c: listener for c, listener in found.items() if listener}
            segments = align_segments(listeners, samples, rough, options, report)
        report(duration)
        if isinstance(transcript, Transcript):
            return replace(transcript, segments=tuple(segments))
        return Transcript(tuple(segments), language, duration)

    def _needed(self, language: str | None) -> Listener:
        found = self.listener(language)
        if found is None:
            choices = ALIGNERS.get(language or "", ())
            hint = f"name {choices[0].name!r} to download it" if choices else "name a model"
            raise ModelNotFoundError(
                f"no aligner for the language {language!r} is on this machine: {hint}, "
                "or any wav2vec2 with a CTC head ('hub:org/name', 'path:/folder')"
            )
        return found


def align(
    audio: AudioLike,
    transcript: str | Transcript | Sequence[Segment],
    model: str | Aligner = "auto",
    options: AlignOptions | None = None,
    *,
    language: str | None = None,
    progress: Progress | None = None,
) -> Transcript:
    """Time the words of a transcript; see :meth:`Aligner.align`.

    Args:
        audio: a path in any container, or (T,) samples at 16 kHz.
        transcript: what is said: text, a transcript, or segments.
        model: an aligner's name, ``"auto"``, or an :class:`Aligner` to use again and again.
        options: how.
        language: of the text, and of segments that do not say theirs; English by default.
        progress: called as the stage advances.
    """
    aligner = model if isinstance(model, Aligner) else Aligner.load(model)
    return aligner.align(audio, transcript, options, language=language, progress=progress)


def detect_speech(
    audio: AudioLike, model: str | VAD = DEFAULT_VAD, options: SpeechOptions | None = None
) -> list[Span]:
    """The stretches of speech in a recording.

    Args:
        audio: a path in any container, or (T,) samples at 16 kHz.
        model: a VAD's or a PyanNet's name, or a loaded one.
        options: the original's defaults by default.

    Returns:
        Spans in seconds, in order, that do not overlap.

    Raises:
        AudioError: the recording cannot be read.
    """
    vad = load_vad(model) if isinstance(model, str) else model
    samples = as_audio(audio)
    return spans_from_probabilities(hear_speech(vad, samples), len(samples), options)


def load_vad(name: str) -> VAD:
    """A speech detector by name; ``"pyannet"`` is the segmentation that diarization uses.

    Raises:
        OptionError: the name leads to another kind of model.
        ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
    """
    model = load(DEFAULT_SEGMENTATION if name == "pyannet" else name)
    return model if isinstance(model, PyanNet) else expect(model, SileroVAD, name)


def hear_speech(vad: VAD, samples: np.ndarray) -> np.ndarray:
    """Speech probability of each 32 ms, (N,) float32, of (T,) samples at 16 kHz."""
    if isinstance(vad, PyanNet):
        segmentation = segment(vad, samples, step=min(_VAD_STEP, vad.config.duration))
        return chunk_probabilities(segmentation, len(samples), VADConfig.chunk)
    return speech_probabilities(vad, samples)


@dataclass(frozen=True)
class Diarizer:
    """The models of a diarization, loaded once and used for many recordings.

    One diarizer serves one thread at a time.
    """

    segmentation: PyanNet
    embedding: WeSpeaker
    plda: PLDA

    @classmethod
    def load(cls, segmentation: str = DEFAULT_SEGMENTATION, embedding: str = DEFAULT_EMBEDDING) -> Diarizer:
        """Load the two networks by name, and the PLDA that belongs to the bundled embedding.

        Args:
            segmentation: any name :func:`mlx_speech.load` takes that leads to a PyanNet.
            embedding: the same for a WeSpeaker.

        Raises:
            OptionError: a name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        return cls(
            expect(load(segmentation), PyanNet, segmentation),
            expect(load(embedding), WeSpeaker, embedding),
            PLDA.load(ASSETS / "plda"),
        )

    def diarize(
        self,
        audio: AudioLike,
        options: DiarizeOptions | str = DEFAULT_PRESET,
        *,
        progress: Progress | None = None,
    ) -> Diarization:
        """Find out who speaks when.

        Args:
            audio: a path in any container, or (T,) samples at 16 kHz.
            options: how, or the name of a preset.
            progress: called as stages advance.

        Returns:
            Turns in seconds from the recording's start. Silence gives none.

        Raises:
            AudioError: the recording cannot be read.
            OptionError: no preset has that name.
        """
        options = preset(options) if isinstance(options, str) else options
        report = progress or (lambda stage, done, total: None)
        samples = as_audio(audio)
        return diarize_samples(self.segmentation, self.embedding, self.plda, samples, options, report)


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
        audio: a path in any container, or (T,) samples at 16 kHz.
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


def embed(audio: AudioLike, model: str | WeSpeaker = DEFAULT_EMBEDDING) -> np.ndarray:
    """The voice of a recording in which one person speaks.

    Args:
        audio: a path in any container, or (T,) samples at 16 kHz.
        model: a WeSpeaker's name, or a loaded one.

    Returns:
        (256,) float32. Voices are compared by the cosine of their embeddings.

    Raises:
        AudioError: the recording cannot be read, or is too short.
    """
    embedder = expect(load(model), WeSpeaker, model) if isinstance(model, str) else model
    return embed_recording(embedder, as_audio(audio))


def expect(model: Any, kind: type[Any], name: str) -> Any:
    """A loaded model, if it is of the wanted kind.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(model, kind):
        raise OptionError(f"{name!r} is a {type(model).__name__}, where a {kind.__name__} is wanted")
    return model
