"""Know people by their voices: learn one from a recording, find it in another.

python examples/identify_speakers.py [RECORDING_OF_ONE_PERSON RECORDING]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS
from mlx_speech.pipeline import DEFAULT_EMBEDDING
from mlx_speech.stages.identify import weights_digest

if len(sys.argv) > 2:
    learnt, heard = sys.argv[1:3]
else:
    learnt = ASSETS / "demo" / "sense_and_sensibility.flac"
    heard = ASSETS / "demo" / "three_readers.flac"

embedder = mlx_speech.load(DEFAULT_EMBEDDING)
voice, seconds = mlx_speech.hear_voice(learnt, embedder, mlx_speech.detect_speech(learnt))
# kept in a file: mlx_speech.load_voices and change_voices, or the command 'mlx-speech speakers'
voices = mlx_speech.Voices(DEFAULT_EMBEDDING, weights_digest(embedder)).enroll("Jane", voice, seconds)

diarization = mlx_speech.Diarizer.load(voices=voices).diarize(heard)
for identity in diarization.identities:
    print(f"{identity.label} is {identity.name}: cosine {identity.similarity:.2f}")
for turn in diarization.turns:
    print(f"[{turn.start:7.2f} → {turn.end:7.2f}] {turn.speaker}")
