"""Rows of the parity report, each with its tolerance from tolerances.py; what reports are made of."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tolerances import TOLERANCES


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    check: str
    metric: str
    measured: str
    limit: str
    passed: bool
    note: str = ""


def max_abs(ours: Any, theirs: Any) -> float:
    """Largest absolute difference."""
    a, b = _pair(ours, theirs)
    return float(np.max(np.abs(a - b), initial=0.0))


def relative_l2(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖ in float64."""
    a, b = _pair(ours, theirs)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))


_METRICS = {"max abs": max_abs, "relative L2": relative_l2}


def close(
    check: str, ours: Any, theirs: Any, tolerance: str, note: str = "", least_limit: float = 0.0
) -> Row:
    """Compare two arrays by the metric and limit of the named tolerance, or ``least_limit`` where it is larger."""
    t = TOLERANCES[tolerance]
    value, limit = _METRICS[t.metric](ours, theirs), max(t.limit, least_limit)
    return Row(check, t.metric, f"{value:.2e}", f"{limit:.0e}", bool(value <= limit), note)


def same(check: str, ours: Any, theirs: Any, note: str = "") -> Row:
    """Require equality (tokens, segments, indices)."""
    equal = ours == theirs
    return Row(
        check, "identical", "yes" if equal else f"{ours!r} ≠ {theirs!r}"[:300], "yes", bool(equal), note
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = "| check | metric | measured | limit | | note |\n|---|---|---|---|---|---|\n"
    line = "| {0.check} | {0.metric} | {0.measured} | {0.limit} | {1} | {0.note} |"
    return head + "\n".join(line.format(r, "pass" if r.passed else "**FAIL**") for r in rows)


def sections(report: Path) -> dict[str, str]:
    """The parts of a report as it stands, by their ``##`` titles: those that a run leaves out stay."""
    if not report.is_file():
        return {}
    parts = re.split(r"^## (.+)\n\n", report.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {k: v.strip() for k, v in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def revision() -> str:
    """The last commit that changed what is measured, with a ``+`` where files differ from it."""
    ours = ("--", "mlx_speech", "converters")

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", *arguments, *ours), cwd=Path(__file__).parents[1], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("log", "-1", "--format=%h")
    return commit + "+" * bool(git("status", "--porcelain")) if commit else "no commit"


def _pair(ours: Any, theirs: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: ours {a.shape}, theirs {b.shape}")
    return a, b
