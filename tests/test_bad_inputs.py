"""docs/converting-errors.md is what mlx-convert prints: the script that wrote it is run again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def shown(page: str) -> list[str]:
    """The page's lines; what stands in brackets may be another library's words, which change with its release."""
    return [re.sub(r"\([^()]*\)", "()", line) for line in page.splitlines()]


def test_the_page_of_errors_is_what_is_printed():
    script = [sys.executable, "-W", "ignore", str(HERE / "bad_inputs.py")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (HERE.parent / "docs/converting-errors.md").read_text(encoding="utf-8")
    assert shown(done.stdout) == shown(page), (
        "write it anew: python tests/bad_inputs.py > docs/converting-errors.md"
    )
    assert page.count("\n| ") > 50
