"""What is said, when, and by whom: the stages one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.errors import OptionError
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.pipeline.aligner import Aligner
from mlx_speech.pipeline.basis import AudioLike, Progress, expect, sparing, unheard
from mlx_speech.pipeline.detector import DEFAULT_VAD, VAD, hear_speech, load_vad, segmented_speech
from mlx_speech.pipeline.diarizer import Diarizer
from mlx_speech.pipeline.gaps import fill_gaps
from mlx_speech.pipeline.journal import BATCH, PASSAGE, SEGMENTATION, Journal, journal_key
from mlx_speech.pipeline.redo import redo
from mlx_speech.spool import forget
from mlx_speech.stages.audit import audit
from mlx_speech.stages.diarize import DEFAULT_PRESET, DiarizeOptions, preset
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.stages.segmentation import Segmentation
from mlx_speech.stages.sequential import transcribe_sequential
from mlx_speech.stages.speakers import assign_speakers
from mlx_speech.stages.speech import SpeechOptions, merge_spans, spans_from_probabilities
from mlx_speech.stages.tokenizer import Tokenizer, tokenizer_for
from mlx_speech.stages.transcribe import check_ability, clip_spans, transcribe_spans
from mlx_speech.types import Segment, Span, Transcript

DEFAULT_MODEL = "whisper-small"
AUTO_VAD = "auto"
"""The segmentation of the diarization where there is one, else ``silero-vad``."""

# Whisper wants a little silence around words, and loses them where a cut is tight
TRANSCRIBE_SPEECH = SpeechOptions(speech_pad=0.2, min_silence_duration=0.3)

Diarizing = DiarizeOptions | str | bool
"""How speakers are found: options, a preset's name, ``True`` for the default, ``False`` for not at all."""


@dataclass(frozen=True)
class Transcriber:
    """The models of a transcription, loaded once and used for many recordings.

    One transcriber serves one thread at a time.
    """

    whisper: Whisper
    tokenizer: Tokenizer
    vad: VAD
    aligner: Aligner | None = None
    diarizer: Diarizer | None = None

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        vad: str = AUTO_VAD,
        align: str = "auto",
        diarize: bool | Diarizer = False,
        dtype: str | None = None,
    ) -> Transcriber:
        """Load a Whisper, a VAD and, if wanted, an aligner and what tells speakers apart, by name.

        Args:
            model: any name :func:`mlx_speech.load` takes that leads to a Whisper.
            vad: the same for the VAD, or a PyanNet; ``"pyannet"`` is the bundled one. With ``"auto"`` the
                diarizer's segmentation serves, and Silero's without a diarizer.
            align: what times the words: ``"none"`` for Whisper's own attention, otherwise as in
                :meth:`Aligner.load`; ``"auto"`` leaves languages without an aligner to Whisper.
            diarize: whether to say who speaks; a :class:`Diarizer` takes its models.
            dtype: what Whisper computes in; the device's best by default.

        Raises:
            OptionError: a name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        whisper = expect(load(model, dtype=dtype), Whisper, model)
        aligner = None if align == "none" else Aligner.load(align)
        diarizer = Diarizer.load() if diarize is True else diarize or None
        if diarizer and vad in (AUTO_VAD, "pyannet"):
            detector: VAD = diarizer.segmentation
        else:
            detector = load_vad(DEFAULT_VAD if vad == AUTO_VAD else vad)
        return cls(whisper, tokenizer_for(whisper), detector, aligner, diarizer)

    def transcribe(
        self,
        audio: AudioLike,
        options: TranscribeOptions | None = None,
        *,
        speech: SpeechOptions = TRANSCRIBE_SPEECH,
        diarize: Diarizing | None = None,
        resume: str | os.PathLike[str] | Journal | None = None,
        progress: Progress | None = None,
    ) -> Transcript:
        """Transcribe one recording.

        Args:
            audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
            options: language, task, word times, batch size, decoding.
            speech: how speech is told from silence.
            diarize: how speakers are found; by default as the diarizer's preset does, if there is one.
            resume: a folder in which finished parts are kept until the end; a run that was broken off is
                gone on with if the samples, the models and all options are the same. A :class:`Journal` is
                removed by whoever made it, once the result is where it should be.
            progress: called as stages advance.

        Returns:
            Segments with words, times in seconds from the recording's start. Silence gives no segments. With
            a diarizer every word has its speaker, and a segment has one.

        Raises:
            AudioError: the recording cannot be read.
            OptionError: the model cannot do what the options ask for, there is no diarizer, or no clip lies in
                the recording.
        """
        options = self._reading(options or TranscribeOptions())
        speakers = self._diarizing(diarize)
        tell = progress or unheard
        tell("read", 0.0, 0.0)
        samples = as_audio(audio)  # decoded once, for all stages
        duration = len(samples) / SAMPLE_RATE
        _check_clips(options.clips, duration)
        report = sparing(samples, tell)
        report("read", duration, duration)
        with self._journal(resume, samples, (options, speech, speakers)) as journal:
            segmentation = None
            if self.diarizer and speakers:
                listen = partial(self.diarizer.segment, samples, speakers, progress=report)
                segmentation = journal.keep("segmentation.npz", listen, SEGMENTATION)
            spans, windows = self._windows(samples, segmentation, (speech, options), report)
            segments, language = self._read(samples, windows, options, journal, report)
            transcript = Transcript(tuple(segments), language, duration, tuple(spans))
            if self.aligner and _aligned(options):
                transcript = self.aligner.align(samples, transcript, partial=True, progress=report)
            again, decoded = partial(self._read_again, samples), clip_spans(windows, options.clips)
            if options.fill_gaps and options.words and not options.sequential:
                wanted = clip_spans(spans, options.clips)
                transcript = fill_gaps(transcript, wanted, decoded, options, again, report)
            if options.redo:
                transcript = redo(transcript, decoded, options, again, report)
            if self.diarizer and speakers:
                found = self.diarizer.diarize(samples, speakers, segmentation=segmentation, progress=report)
                segments = assign_speakers(transcript.segments, found)
                report("speakers", duration, duration)
                transcript = replace(transcript, segments=tuple(segments), diarization=found)
        return replace(transcript, findings=tuple(audit(transcript)))

    @contextmanager
    def _journal(
        self,
        resume: str | os.PathLike[str] | Journal | None,
        samples: np.ndarray,
        options: tuple[object, ...],
    ) -> Iterator[Journal]:
        """Where this run's finished parts are kept, if they are; whose journal it is, ends it."""
        if resume is None:
            yield Journal(None)
            return
        models = (self.whisper, self.vad, self.diarizer.segmentation if self.diarizer else None)
        key = journal_key(samples, models, options)
        forget(samples)
        if isinstance(resume, Journal):
            resume.start(key)
            yield resume
            return
        with Journal(resume, key) as journal:
            yield journal

    def _read(
        self,
        samples: np.ndarray,
        windows: Sequence[Span],
        options: TranscribeOptions,
        journal: Journal,
        report: Progress,
    ) -> tuple[list[Segment], str | None]:
        """What is said in the windows, or by the sequential way in the recording as a whole."""
        if options.sequential:
            total = len(samples) / SAMPLE_RATE
            report("transcribe", 0.0, total)
            return transcribe_sequential(
                self.whisper,
                self.tokenizer,
                samples,
                options,
                lambda done: report("transcribe", done, total),
                lambda name, work: journal.keep(f"{name}.json", work, PASSAGE),
            )
        windows = clip_spans(windows, options.clips)
        total = sum(w.duration for w in windows)
        report("transcribe", 0.0, total)
        return transcribe_spans(
            self.whisper,
            self.tokenizer,
            samples,
            windows,
            options,
            lambda done: report("transcribe", done, total),
            lambda name, work: journal.keep(f"{name}.json", work, BATCH),
        )

    def _read_again(
        self, samples: np.ndarray, windows: Sequence[Span], options: TranscribeOptions
    ) -> tuple[Segment, ...]:
        """What is said in some windows, with words where they are asked for."""
        segments, language = transcribe_spans(self.whisper, self.tokenizer, samples, windows, options)
        found = Transcript(tuple(segments), language, len(samples) / SAMPLE_RATE)
        if self.aligner and _aligned(options):
            found = self.aligner.align(samples, found, partial=True)
        return found.segments

    def _reading(self, options: TranscribeOptions) -> TranscribeOptions:
        """Options that the model can do; Whisper times no words that the aligner will."""
        check_ability(self.tokenizer, options)
        if not (self.aligner and _aligned(options)):
            return options
        known = self.tokenizer.languages if self.tokenizer.multilingual else ("en",)
        languages = known if options.language is None else (options.language,)
        covered = (x for x in languages if self.aligner.covers(x))
        return replace(options, untimed=(*options.untimed, *covered))

    def _diarizing(self, wish: Diarizing | None) -> DiarizeOptions | None:
        """How speakers are found; ``None`` for not at all."""
        if wish is None:
            wish = self.diarizer is not None
        if wish is False:
            return None
        if self.diarizer is None:
            raise OptionError("this transcriber has no diarizer: load it with diarize=True")
        named = DEFAULT_PRESET if wish is True else wish
        return self.diarizer.check(preset(named) if isinstance(named, str) else named)

    def _windows(
        self,
        samples: np.ndarray,
        segmentation: Segmentation | None,
        how: tuple[SpeechOptions, TranscribeOptions],
        report: Progress,
    ) -> tuple[list[Span], list[Span]]:
        """The stretches of speech, and the windows that they make."""
        duration = len(samples) / SAMPLE_RATE
        report("speech", 0.0, duration)
        if segmentation and self.diarizer and self.vad is self.diarizer.segmentation:
            probabilities = segmented_speech(segmentation, samples)  # it has heard all of it already
        else:
            probabilities = hear_speech(self.vad, samples)
        spans = spans_from_probabilities(probabilities, len(samples), how[0])
        windows = merge_spans(spans, how[1].chunk_size, probabilities=probabilities)
        report("speech", duration, duration)
        return spans, windows


def _check_clips(clips: Sequence[float], duration: float) -> None:
    if clips and not clip_spans([Span(0.0, duration)], clips):
        given = ", ".join(f"{t:g}" for t in clips)
        raise OptionError(f"clips {given}: none lies in the recording, which lasts {duration:.2f} s")


def _aligned(options: TranscribeOptions) -> bool:
    return options.words and options.decode.task != "translate"  # whose words are not in the audio


def transcribe(
    audio: AudioLike,
    model: str | Transcriber = DEFAULT_MODEL,
    options: TranscribeOptions | None = None,
    *,
    speech: SpeechOptions = TRANSCRIBE_SPEECH,
    diarize: Diarizing | None = None,
    progress: Progress | None = None,
) -> Transcript:
    """Transcribe one recording; see :meth:`Transcriber.transcribe`.

    Args:
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        model: a Whisper's name, or a :class:`Transcriber` to use again and again.
        options: language, task, word times, batch size, decoding.
        speech: how speech is told from silence.
        diarize: whether and how speakers are found; a :class:`Transcriber` knows by itself whether.
        progress: called as stages advance.
    """
    transcriber = (
        model
        if isinstance(model, Transcriber)
        else Transcriber.load(model, diarize=diarize not in (None, False))
    )
    return transcriber.transcribe(audio, options, speech=speech, diarize=diarize, progress=progress)
