"""What is said, and by whom: the stages one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.pipeline.aligner import Aligner
from mlx_speech.pipeline.basis import AudioLike, Progress, expect
from mlx_speech.pipeline.detector import DEFAULT_VAD, VAD, hear_speech, load_vad
from mlx_speech.stages.speech import SpeechOptions, merge_spans, spans_from_probabilities
from mlx_speech.stages.tokenizer import Tokenizer, tokenizer_for
from mlx_speech.stages.transcribe import TranscribeOptions, check_ability, transcribe_spans
from mlx_speech.types import Transcript

DEFAULT_MODEL = "whisper-small"

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
