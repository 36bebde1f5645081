"""What somebody's voice is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, as_audio
from mlx_speech.errors import AudioError
from mlx_speech.loading import load
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.pipeline.basis import AudioLike, expect
from mlx_speech.pipeline.detector import detect_speech
from mlx_speech.pipeline.diarizer import DEFAULT_EMBEDDING
from mlx_speech.stages.embedding import embed_recording
from mlx_speech.stages.speech import SpeechOptions
from mlx_speech.types import Span

_ANY_SPEECH = SpeechOptions(min_speech_duration=0.0)


def embed(audio: AudioLike, model: str | WeSpeaker = DEFAULT_EMBEDDING) -> np.ndarray:
    """The voice of a recording in which one person speaks.

    Args:
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        model: a WeSpeaker's name, or a loaded one.

    Returns:
        (256,) float32. Voices are compared by the cosine of their embeddings.

    Raises:
        AudioError: the recording cannot be read, is too short, or nobody speaks in it.
    """
    embedder = expect(load(model), WeSpeaker, model) if isinstance(model, str) else model
    samples = as_audio(audio)
    if len(samples) >= embedder.config.min_samples and not detect_speech(samples, options=_ANY_SPEECH):
        raise AudioError(
            "no speech is heard in it: silence and noise have no voice; 'mlx-speech vad' tells where speech is"
        )
    return embed_recording(embedder, samples)


def hear_voice(
    audio: AudioLike, embedder: WeSpeaker, spans: Iterable[Span], least: float = 2.0
) -> tuple[np.ndarray, float]:
    """The voice of somebody who speaks in parts of a recording.

    Args:
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        embedder: a loaded WeSpeaker.
        spans: where they speak.
        least: seconds; less speech tells too little.

    Returns:
        (256,) float32, and the seconds of speech that it was made of.

    Raises:
        AudioError: the recording cannot be read, or there is too little speech.
    """
    samples = as_audio(audio)
    parts = [samples[max(0, round(s.start * SAMPLE_RATE)) : round(s.end * SAMPLE_RATE)] for s in spans]
    spoken = np.concatenate(parts) if parts else samples[:0]
    seconds = len(spoken) / SAMPLE_RATE
    if seconds < least:
        raise AudioError(
            f"only {seconds:.1f} s of speech: {least:g} s are needed to know a voice, 10 s are good"
        )
    return embed_recording(embedder, spoken), seconds
