"""WhisperX's spellings of options: underscores, and names of its own for what is the same."""

from __future__ import annotations

from collections.abc import Sequence

RENAMED: dict[str, tuple[str, ...]] = {
    "--vad-onset": ("--vad-threshold",),
    "--compute-type": ("--dtype",),
    "--align-model": ("--align",),
    "--no-align": ("--align", "none"),
    "--vad-method": ("--vad",),
}
"""WhisperX's option → ours, where the meaning is the same (docs/from-whisperx.md)."""

VALUES: dict[str, dict[str, str]] = {"--vad-method": {"silero": "silero-vad", "pyannote": "pyannet"}}
"""What WhisperX calls an option's values → what we call them."""


def translated(arguments: Sequence[str]) -> list[str]:
    """A command line with our spellings; values and what follows ``--`` are left alone."""
    found: list[str] = []
    values: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        if argument == "--":
            return found + list(arguments[number:])
        if not argument.startswith("--"):
            found.append(values.get(argument, argument))
            values = {}
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        values = VALUES.get(name, {})
        *front, last = RENAMED.get(name, (name,))
        found += [*front, f"{last}={values.get(value, value)}" if equals else last]
    return found
