"""WhisperX's options, from its own parser: tests/fixtures/whisperx/options.json.

    python parity/fixtures_whisperx.py

Each with the values that its help shows: a choice of each kind, or the default.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "tests/fixtures/whisperx/options.json"
_EXAMPLES = {
    "optional_int": "2",
    "optional_float": "0.5",
    "int": "2",
    "float": "0.5",
    "str2bool": ["True", "False"],
}


class _CaughtError(Exception):
    """The parser, before it reads anything."""


def options() -> list[dict[str, Any]]:
    """Names, and example values of those that take one."""
    from whisperx.__main__ import cli

    def catch(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _CaughtError(parser)

    argparse.ArgumentParser.parse_args = catch  # type: ignore[method-assign, assignment]
    try:
        cli()
    except _CaughtError as caught:
        actions = caught.args[0]._actions
    return [{"names": a.option_strings, "values": _values(a)} for a in actions if a.option_strings]


def _values(action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return []
    if action.choices:
        return sorted(map(str, action.choices))[:8]
    if isinstance(action.default, str):
        return [action.default]
    found = _EXAMPLES.get(getattr(action.type, "__name__", ""), "something")
    return found if isinstance(found, list) else [found]


if __name__ == "__main__":
    sys.argv = ["whisperx"]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    found = {"whisperx": importlib.metadata.version("whisperx"), "options": options()}
    TARGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
