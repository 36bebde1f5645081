"""Compose the stages by hand: each takes plain values and gives plain values.

python examples/custom_pipeline.py [RECORDING]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS
from mlx_speech.stages.segmentation import chunk_probabilities
from mlx_speech.stages.speech import merge_spans, spans_from_probabilities
from mlx_speech.stages.tokenizer import tokenizer_for
from mlx_speech.stages.transcribe import transcribe_spans

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"

samples = mlx_speech.load_audio(recording)  # (T,) float32 at 16 kHz, decoded once for all stages
whisper = mlx_speech.load("whisper-tiny.en")
diarizer = mlx_speech.Diarizer.load()
aligner = mlx_speech.Aligner.load()

# the segmentation tells who speaks, and where speech is
segmentation = diarizer.segment(samples)
probabilities = chunk_probabilities(segmentation, len(samples), 512)
spans = spans_from_probabilities(probabilities, len(samples), mlx_speech.SpeechOptions(speech_pad=0.2))
windows = merge_spans(spans, 30.0, probabilities=probabilities)

options = mlx_speech.TranscribeOptions(language="en")
segments, language = transcribe_spans(whisper, tokenizer_for(whisper), samples, windows, options)
segments = aligner.align(samples, segments, language=language).segments
diarization = diarizer.diarize(samples, segmentation=segmentation)
for segment in mlx_speech.assign_speakers(segments, diarization):
    print(f"[{segment.start:7.2f} → {segment.end:7.2f}] {segment.speaker}: {segment.text}")
