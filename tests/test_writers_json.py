"""JSON as its schemas describe it, with WhisperX's names."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest

from mlx_speech.types import (
    Character,
    Diarization,
    Finding,
    Identity,
    Redone,
    Segment,
    Span,
    Transcript,
    Turn,
    Word,
)
from mlx_speech.writers import render

fastjsonschema = pytest.importorskip("fastjsonschema", reason="needs the test extra's fastjsonschema")

DIARIZATION = Diarization(
    (Turn(0.4, 1.3, "Ann"), Turn(1.2, 2.0, "Bob")),
    (Turn(0.4, 1.25, "Ann"), Turn(1.25, 2.0, "Bob")),
    ("Ann", "Bob"),
    np.zeros((2, 256), np.float32),
    np.zeros((9, 2), np.float32),
    0.016875,
    0.03,
    3.0,
    (Identity("Ann", "SPEAKER_00", 0.75, 0.9),),
)
WORDS = (
    Word("Grüß", 0.5004, 0.9, 0.98766, (Character("Grüß", 0.5, 0.9, 0.5),), False, "Ann", 0.75, ("Bob",)),
    Word("Gott!", 0.9, 1.25, float("nan"), uncertain=True, speaker="Ann", speaker_confidence=1.0),
)
SEGMENT = Segment(0.5, 1.25, " Grüß Gott!", WORDS, "de", (1, 2), -0.123456, 0.01, 0.9, 0.2, "Ann")
TRANSCRIPT = Transcript(
    (SEGMENT,), "de", 3.00049, (Span(0.4, 1.3),), DIARIZATION, (Finding("loop", 1.0, 2.0, "Said twice."),)
)
TRANSCRIPT = replace(TRANSCRIPT, redone=(Redone(0.0, 2.0, "beams", 1.0, 0.5, True),))


def schema(name: str) -> dict[str, Any]:
    return json.loads((resources.files("mlx_speech.writers") / f"{name}.schema.json").read_text("utf-8"))


def test_a_transcript() -> None:
    text = render(TRANSCRIPT, "json")
    assert "Grüß" in text  # not escaped
    assert json.loads(text) == {
        "language": "de",
        "duration": 3.0,
        "text": "Grüß Gott!",
        "segments": [
            {
                "id": 0,
                "start": 0.5,
                "end": 1.25,
                "text": " Grüß Gott!",
                "speaker": "Ann",
                "avg_logprob": -0.1235,
                "no_speech_prob": 0.01,
                "compression_ratio": 0.9,
                "temperature": 0.2,
                "language": "de",
                "words": [
                    {
                        "word": "Grüß",
                        "start": 0.5,
                        "end": 0.9,
                        "score": 0.9877,
                        "uncertain": False,
                        "speaker": "Ann",
                        "speaker_confidence": 0.75,
                        "overlap_speakers": ["Bob"],
                    },
                    {
                        "word": "Gott!",
                        "start": 0.9,
                        "end": 1.25,
                        "score": None,
                        "uncertain": True,
                        "speaker": "Ann",
                        "speaker_confidence": 1.0,
                        "overlap_speakers": [],
                    },
                ],
                "chars": [{"char": "Grüß", "start": 0.5, "end": 0.9, "score": 0.5}],
            }
        ],
        "speech": [{"start": 0.4, "end": 1.3}],
        "speakers": ["Ann", "Bob"],
        "turns": [
            {"start": 0.4, "end": 1.3, "speaker": "Ann"},
            {"start": 1.2, "end": 2.0, "speaker": "Bob"},
        ],
        "exclusive_turns": [
            {"start": 0.4, "end": 1.25, "speaker": "Ann"},
            {"start": 1.25, "end": 2.0, "speaker": "Bob"},
        ],
        "identities": [{"speaker": "Ann", "label": "SPEAKER_00", "similarity": 0.75, "confidence": 0.9}],
        "findings": [{"kind": "loop", "start": 1.0, "end": 2.0, "message": "Said twice."}],
        "redone": [
            {"start": 0.0, "end": 2.0, "settings": "beams", "before": 1.0, "after": 0.5, "kept": True}
        ],
    }


def test_without_diarization_no_key_is_missing() -> None:
    plain = Transcript((Segment(0, 1, "hi", (Word("hi", 0, 1, 1.0),)),), None, 1.0)
    value = json.loads(render(plain, "json"))
    assert (value["speakers"], value["turns"], value["segments"][0]["speaker"]) == ([], [], None)
    word = value["segments"][0]["words"][0]
    assert (word["speaker"], word["speaker_confidence"], word["overlap_speakers"]) == (None, 0.0, [])
    assert "chars" not in value["segments"][0]


def test_finite_plain_numbers_only() -> None:
    segment = replace(SEGMENT, avg_logprob=float("-inf"), no_speech_prob=np.float32(0.5), temperature=np.nan)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    parsed = json.loads(render(Transcript((segment,), "de", 2.0), "json"), parse_constant=refuse)
    first = parsed["segments"][0]
    assert (first["avg_logprob"], first["no_speech_prob"], first["temperature"]) == (None, 0.5, None)


@pytest.mark.parametrize(
    "transcript",
    [TRANSCRIPT, replace(TRANSCRIPT, diarization=None, findings=()), Transcript((), None, 0.0)],
    ids=["everything", "no speakers", "nothing said"],
)
def test_the_schema_describes_it(transcript: Transcript) -> None:
    fastjsonschema.compile(schema("transcript"))(json.loads(render(transcript, "json")))


def test_the_schema_describes_a_diarization() -> None:
    fastjsonschema.compile(schema("diarization"))(json.loads(render(DIARIZATION, "json")))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value["segments"][0]["words"][0].pop("speaker"),
        lambda value: value["segments"][0].update(surprise=1),
        lambda value: value["segments"][0]["words"][0].update(score=2),
        lambda value: value["turns"][0].update(start="0.4"),
        lambda value: value["findings"][0].update(kind="odd"),
        lambda value: value.pop("language"),
    ],
)
def test_the_schema_is_strict(spoil: Any) -> None:
    value = json.loads(render(TRANSCRIPT, "json"))
    spoil(value)
    with pytest.raises(fastjsonschema.JsonSchemaException):
        fastjsonschema.compile(schema("transcript"))(value)
