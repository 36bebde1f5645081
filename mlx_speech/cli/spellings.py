"""WhisperX's spellings of options: underscores, names of its own, and what is not there, with the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_speech.errors import OptionError

RENAMED: dict[str, tuple[str, ...]] = {
    "--vad-onset": ("--vad-threshold",),
    "--compute-type": ("--dtype",),
    "--align-model": ("--align",),
    "--no-align": ("--align", "none"),
    "--vad-method": ("--vad",),
    "--diarize-model": ("--diarize-preset",),
    "--word-timestamps": ("--words",),
}
"""WhisperX's or openai-whisper's option → ours, where the meaning is the same (docs/from-whisperx.md)."""

VALUES: dict[str, dict[str, str]] = {
    "--vad-method": {"silero": "silero-vad", "pyannote": "pyannet"},
    "--diarize-model": {
        "pyannote/speaker-diarization-3.1": "3.1",
        "pyannote/speaker-diarization-community-1": "community-1",
    },
}
"""What WhisperX calls an option's values → what we call them."""

DEFAULTS = {"--compute-type": "default", "--align-model": "None"}
"""Values that ask for what is done anyway."""

SWITCHES: dict[str, str | None] = {
    "--highlight-words": None,
    "--condition-on-previous-text": "--no-condition-on-previous-text",
    "--print-progress": None,
    "--verbose": "--quiet",
    "--word-timestamps": "--no-words",
}
"""Options that take True or False there, and are switches here → the switch for False, if any."""

REFUSED: dict[str, str] = {
    "--device": "MLX takes the GPU where there is one; with the package mlx[cpu] the CPU",
    "--device-index": "CUDA_VISIBLE_DEVICES chooses among several GPUs",
    "--threads": "OPENBLAS_NUM_THREADS and OMP_NUM_THREADS choose how many threads a CPU works with",
    "--fp16": "say --dtype float16; it is the default on a GPU",
    "--model-dir": "HF_HUB_CACHE names the folder of downloads; --model takes a folder with weights",
    "--model-cache-only": "HF_HUB_OFFLINE=1 keeps everything local",
    "--hf-token": "nothing here is gated; HF_TOKEN is read for private repositories",
    "--log-level": "--verbose says more, --quiet nothing",
    "--interpolate-method": "every word has a time, and is marked where it is a guess",
    "--return-char-alignments": "mlx-speech align --characters gives the characters' times",
    "--segment-resolution": "mlx-speech align --sentences cuts at sentences; --max-line-width breaks subtitles",
    "--speaker-embeddings": "mlx-speech diarize -f json writes them",
    "--temperature-increment-on-fallback": "--temperature takes all that are tried: 0,0.2,0.4,0.6,0.8,1",
    "--compute-type int8": "mlx-convert convert MODEL FOLDER --quantize 8 makes such weights",
    "--version": "mlx-speech --version tells it",
    "--python-version": "python --version tells it",
}
"""WhisperX's options of ``transcribe`` that are not there → what to do instead."""


def translated(arguments: Sequence[str]) -> list[str]:
    """A command line with our spellings; values and what follows ``--`` are left alone.

    Raises:
        OptionError: an option that WhisperX's ``transcribe`` has and ours has not.
    """
    found: list[str] = []
    name = ""
    for number, argument in enumerate(arguments):
        if argument == "--":
            return found + list(arguments[number:])
        if not argument.startswith("--"):
            _take(found, name, argument)
            name = ""
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        _check(name, arguments)
        found += RENAMED.get(name, (name,))
        if equals:
            _take(found, name, value)
            name = ""
    return found


def _take(found: list[str], name: str, value: str) -> None:
    """The value of the option of that name, which was the last one; of none where the name is empty."""
    if name in SWITCHES and value.lower() in ("true", "false"):
        if value.lower() == "false":
            found.pop()
            off = SWITCHES[name]
            found += [off] if off else []
    elif name in DEFAULTS and value == DEFAULTS[name]:
        found.pop()
    else:
        _check(f"{name} {value}", ("transcribe",))
        found.append(VALUES.get(name, {}).get(value, value))


def _check(option: str, arguments: Sequence[str]) -> None:
    if option in REFUSED and arguments[0] == "transcribe":
        raise OptionError(f"{option} is WhisperX's and not here: {REFUSED[option]}")
