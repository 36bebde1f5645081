"""The stages, composed: a recording goes in, words with times come out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.errors import OptionError
from mlx_speech.loading import load
from mlx_speech.models.vad import SileroVAD
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.speech import SpeechOptions, detect, merge_spans, spans_from_probabilities
from mlx_speech.stages.speech import speech_probabilities as probabilities_of
from mlx_speech.stages.tokenizer import Tokenizer, tokenizer_for
from mlx_speech.stages.transcribe import TranscribeOptions, check_ability, transcribe_spans
from mlx_speech.types import Span, Transcript

AudioLike = str | os.PathLike[str] | Any
"""A path, or (T,) floating-point samples at 16 kHz within [-1, 1]: a numpy or an MLX array."""

Progress = Callable[[str, float, float], None]
"""Told a stage's name, and the seconds done and to do in it."""

DEFAULT_MODEL = "whisper-small"
DEFAULT_VAD = "silero-vad"

# Whisper wants a little silence around words, and loses them where a cut is tight
TRANSCRIBE_SPEECH = SpeechOptions(speech_pad=0.2, min_silence_duration=0.3)
_MAX_WINDOW = 30.0


@dataclass(frozen=True)
class Transcriber:
    """The models of a transcription, loaded once and used for many recordings.

    One transcriber serves one thread at a time.
    """

    whisper: Whisper
    tokenizer: Tokenizer
    vad: SileroVAD

    @classmethod
    def load(
        cls, model: str = DEFAULT_MODEL, *, vad: str = DEFAULT_VAD, dtype: str | None = None
    ) -> Transcriber:
        """Load a Whisper and a VAD by name.

        Args:
            model: any name :func:`mlx_speech.load` takes that leads to a Whisper.
            vad: the same for the VAD.
            dtype: what Whisper computes in; the device's best by default.

        Raises:
            OptionError: a name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        whisper = expect(load(model, dtype=dtype), Whisper, model)
        return cls(whisper, tokenizer_for(whisper), expect(load(vad), SileroVAD, vad))

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
        probabilities = probabilities_of(self.vad, samples)
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
        return Transcript(tuple(segments), language, duration, tuple(spans))


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


def detect_speech(
    audio: AudioLike, model: str | SileroVAD = DEFAULT_VAD, options: SpeechOptions | None = None
) -> list[Span]:
    """The stretches of speech in a recording.

    Args:
        audio: a path in any container, or (T,) samples at 16 kHz.
        model: a VAD's name, or a loaded one.
        options: the original's defaults by default.

    Returns:
        Spans in seconds, in order, that do not overlap.

    Raises:
        AudioError: the recording cannot be read.
    """
    vad = expect(load(model), SileroVAD, model) if isinstance(model, str) else model
    return detect(vad, audio, options)


def expect(model: Any, kind: type[Any], name: str) -> Any:
    """A loaded model, if it is of the wanted kind.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(model, kind):
        raise OptionError(f"{name!r} is a {type(model).__name__}, where a {kind.__name__} is wanted")
    return model
