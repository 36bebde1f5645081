"""Formats without markup: txt, tsv, and Audacity's labels."""

from __future__ import annotations

from mlx_speech.types import Transcript
from mlx_speech.writers.options import Target
from mlx_speech.writers.words import milliseconds, one_line, paragraphs


def txt(transcript: Transcript, target: Target) -> str:
    """One line a segment; with speakers, one line a paragraph of one's, after ``[SPEAKER_00]:``."""
    if target.options.speaker_labels and any(s.speaker is not None for s in transcript.segments):
        return "\n".join(f"{_label(p.speaker)}{p.text}\n" for p in paragraphs(transcript))
    lines = (one_line(segment.text) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def tsv(transcript: Transcript, target: Target) -> str:
    """Start, end (milliseconds, as decoded: they may overlap) and text, as openai-whisper writes them.

    With speakers, they are a fourth column.
    """
    labelled = target.options.speaker_labels and transcript.diarization is not None
    rows = [["start", "end", "text"] + ["speaker"] * labelled]
    for s in transcript.segments:
        if text := one_line(s.text):
            speaker = [one_line(s.speaker or "")] if labelled else []
            rows.append([str(milliseconds(s.start)), str(milliseconds(s.end)), text, *speaker])
    return "".join("\t".join(row) + "\n" for row in rows)


def aud(transcript: Transcript, target: Target) -> str:
    """A label track for Audacity, in seconds, as WhisperX writes it."""
    labels = target.options.speaker_labels
    return "".join(
        f"{milliseconds(s.start) / 1000:.3f}\t{milliseconds(s.end) / 1000:.3f}\t"
        f"{f'[[{one_line(s.speaker)}]]' if labels and s.speaker else ''}{text}\n"
        for s in transcript.segments
        if (text := one_line(s.text))
    )


def _label(speaker: str | None) -> str:
    return f"[{one_line(speaker)}]: " if speaker else ""
