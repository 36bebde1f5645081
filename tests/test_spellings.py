"""People who come from WhisperX may keep their fingers' habits."""

from __future__ import annotations

import pytest

from mlx_speech.cli.spellings import translated


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("a_b.wav --batch_size 4", "a_b.wav --batch-size 4"),
        ("--output_dir=my_out --min_speakers 2", "--output-dir=my_out --min-speakers 2"),
        ("--vad_onset 0.4 --compute_type float16", "--vad-threshold 0.4 --dtype float16"),
        ("--no_align x.wav", "--align none x.wav"),
        ("--vad_method silero", "--vad silero-vad"),
        ("--vad_method=pyannote -q", "--vad=pyannet -q"),
        ("-- --batch_size", "-- --batch_size"),
    ],
)
def test_their_spellings_become_ours(theirs, ours):
    assert translated(theirs.split()) == ours.split()
