"""Run the parity scripts against the originals and write REPORT.md.

python parity/run.py                  # every parity_<name>.py
python parity/run.py silero whisper   # some; the report keeps what it said of the others

Exits with 1 when a row fails. Recordings are looked for in ``$MLX_SPEECH_DATA``, by default shared/data
beside the repository.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness import Row, revision, sections, table

HERE = Path(__file__).resolve().parent
REPORT = HERE / "REPORT.md"
PACKAGES = (
    "mlx",
    "numpy",
    "torch",
    "transformers",
    "openai-whisper",
    "silero-vad",
    "pyannote.audio",
    "torchaudio",
    "whisperx",
    "scipy",
)
FAILED = "**FAIL**"
# what must be set before numpy is loaded, which diarize_networks.py explains
ENVIRONMENT = (
    {"diarize": {"NPY_DISABLE_CPU_FEATURES": "AVX512_ICL X86_V4 X86_V3"}}
    if platform.machine() == "x86_64"
    else {}
)


def names() -> list[str]:
    """The scripts there are."""
    return sorted(p.stem.removeprefix("parity_") for p in HERE.glob("parity_*.py"))


def rows_of(name: str) -> list[Row]:
    """The rows of one script; a script that stops gives one failing row."""
    try:
        return list(importlib.import_module(f"parity_{name}").run())
    except Exception as error:  # reported as a failure, with its traceback on the terminal
        traceback.print_exc()
        return [Row(f"{name}: runs to its end", type(error).__name__, "no", "yes", False, _one_line(error))]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return re.sub(r"(?:/[\w.+-]+){2,}/", "…/", text)[:200]  # no paths of this machine in the report


def in_own_process(name: str) -> list[Row]:
    """The same in a fresh process, so that no script meets another's thread settings or memory."""
    context = multiprocessing.get_context("spawn")
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT.get(name, {}))
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(rows_of, name).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def section(rows: list[Row], seconds: float) -> str:
    """One script's part of the report."""
    failed = sum(not r.passed for r in rows)
    verdict = f"{len(rows) - failed} of {len(rows)} rows pass" if failed else f"all {len(rows)} rows pass"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{verdict}; {today}, mlx_speech of {revision()}, {seconds:.0f} s\n\n{table(rows)}\n"


def report(found: dict[str, str]) -> str:
    """The whole report: failures on top, then what it ran on, then every script's rows."""
    failures = [line for body in found.values() for line in body.splitlines() if FAILED in line]
    head = "| check | metric | measured | limit | | note |\n|---|---|---|---|---|---|\n"
    top = f"{len(failures)} rows fail:\n\n{head}" + "\n".join(failures) if failures else "No row fails."
    parts = [
        "# Parity with the originals",
        "Written by `python parity/run.py`. Ours in float32 against each original on the same input; the "
        "limits and their reasons stand in `tolerances.py`.",
        top,
        surroundings(),
        *(f"## {name}\n\n{body.strip()}" for name, body in sorted(found.items())),
    ]
    return "\n\n".join(parts) + "\n"


def surroundings() -> str:
    """Versions, BLAS and kind of machine, without naming it."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, {platform.system()}"
    return f"Python {platform.python_version()}, {', '.join(found)}. MLX's BLAS: {blas()}. {machine}."


def blas() -> str:
    """The BLAS that MLX calls, with its version where it tells one."""
    from mlx_speech import runtime

    name = Path(runtime.start().name).name
    try:
        config = ctypes.CDLL(None).openblas_get_config
    except AttributeError:
        return name
    config.restype = ctypes.c_char_p
    return f"{name} ({' '.join(config().decode().split()[:2])})"


def main(wanted: list[str]) -> int:
    """Run, print and write; the exit status."""
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"no parity script for {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    found = {k: v for k, v in sections(REPORT).items() if k in names()}
    passed = True
    for name in wanted or names():
        begin = time.perf_counter()
        rows = in_own_process(name)
        found[name] = section(rows, time.perf_counter() - begin)
        passed = passed and all(r.passed for r in rows)
        print(f"## {name}\n\n{found[name]}", flush=True)
        REPORT.write_text(report(found), encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
