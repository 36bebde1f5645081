"""When known words are said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.errors import ModelNotFoundError
from mlx_speech.loading import load
from mlx_speech.models.wav2vec2 import Wav2Vec2ForCTC
from mlx_speech.models.whisper_ctc import WhisperForCTC
from mlx_speech.pipeline.basis import AudioLike, Progress, expect
from mlx_speech.stages.align import align_segments, align_text
from mlx_speech.stages.aligners import ALIGNERS, default_aligner, known_lag
from mlx_speech.stages.emissions import Listener
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.types import Segment, Transcript

_KINDS = (Wav2Vec2ForCTC, WhisperForCTC)


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
            model: any name :func:`mlx_speech.load` takes that leads to a wav2vec2, or to Whisper's encoder,
                with a CTC head, or ``"auto"``: for each language the best one of
                :mod:`mlx_speech.stages.aligners` that is on this machine. That downloads nothing.
            languages: with ``"auto"``, those to load now; others are loaded when they are met.

        Raises:
            OptionError: the name leads to another kind of model.
            ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
        """
        aligner = cls(model)
        for language in languages if model == "auto" else (None,):
            aligner.listener(language)
        return aligner

    def covers(self, language: str) -> bool:
        """Whether there is a model for a language on this machine; loads none."""
        return self.name != "auto" or language in self.listeners or default_aligner(language) is not None

    def listener(self, language: str | None) -> Listener | None:
        """The model for a language, loaded on first use; ``None`` where there is none on this machine."""
        key = language if self.name == "auto" else None
        if key not in self.listeners:
            name = self.name
            if name == "auto":
                choice = default_aligner(language or "en")
                if choice is None:
                    return None
                name = choice.alias
            self.listeners[key] = Listener(expect(load(name), _KINDS, name), known_lag(name))
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
            audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
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
            hint = f"name {choices[0]!r} to download it" if choices else "name a model"
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
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        transcript: what is said: text, a transcript, or segments.
        model: an aligner's name, ``"auto"``, or an :class:`Aligner` to use again and again.
        options: how.
        language: of the text, and of segments that do not say theirs; English by default.
        progress: called as the stage advances.
    """
    aligner = model if isinstance(model, Aligner) else Aligner.load(model)
    return aligner.align(audio, transcript, options, language=language, progress=progress)
