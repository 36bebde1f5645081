"""What mlx-convert prints when something is wrong: makes docs/converting-errors.md.

python tests/bad_inputs.py           # the table, on the standard output

Each row is one command, run as a user would; hub commands speak the real client to the Hub of hub_server.py.
tests/test_bad_inputs.py runs this again and holds the document to it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
WORK = Path(tempfile.mkdtemp(prefix="bad-inputs-"))
os.environ |= {
    "HF_HOME": str(WORK / "hf"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "COLUMNS": "1000",
    "NO_COLOR": "1",
}
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "FORCE_COLOR"):
    os.environ.pop(name, None)
sys.path.insert(0, str(HERE))

import mlx_speech  # isort: skip  # noqa: E402, F401

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from hub_server import READ_ONLY, TOKEN, Hub  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.utils import _http  # noqa: E402

from mlx_speech.converters import _store  # noqa: E402
from mlx_speech.converters.cli import main  # noqa: E402

FIXTURES = HERE / "fixtures"
WHISPER = FIXTURES / "whisper/huggingface"
OPENAI = FIXTURES / "whisper/openai/model.pt"
KEY = "model.encoder.conv1.bias"
HEAD = """# What mlx-convert prints when something is wrong

Written by `python tests/bad_inputs.py`, which runs each command; `tests/test_bad_inputs.py` holds this page to
it. An exit status of 0 means that the input is harmless here. Nothing is left of a conversion that failed, no
payload was run, and no token is shown: the script checks all three.
"""


@dataclass(frozen=True)
class Case:
    """One row: makes its input in a folder, and answers the command's arguments."""

    section: str
    title: str
    make: Callable[[Path], list[Any]]
    around: Callable[[Path], Any] = contextlib.nullcontext


CASES: list[Case] = []


def case(section: str, title: str, around: Any = contextlib.nullcontext) -> Callable[..., Any]:
    def keep(make: Callable[[Path], list[Any]]) -> Callable[[Path], list[Any]]:
        CASES.append(Case(section, title, make, around))
        return make

    return keep


def converting(source: Any, folder: Path, *more: str) -> list[Any]:
    return ["convert", source, folder / "made", *more]


# --- files ------------------------------------------------------------------------------------------------


def whisper(folder: Path, change: Callable[[dict[str, mx.array]], None] = lambda tensors: None) -> Path:
    """A whole tiny Whisper, its tensors changed."""
    source = Path(shutil.copytree(WHISPER, folder / "model"))
    tensors = dict(mx.load(str(source / "model.safetensors")))
    change(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    return source


def safetensors(folder: Path, header: str, data: bytes = bytes(8), length: int | None = None) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header.encode() + data)
    return path


def entry(name: str, dtype: str = "F32", size: int = 1, begin: int = 0, end: int = 4) -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":[{size}],"data_offsets":[{begin},{end}]}}'


def payload(folder: Path) -> bytes:
    """Opcodes that run a shell command and forget its result."""
    return f"cos\nsystem\n(S'touch {folder / 'RUN'}'\ntR0".encode()


def rewritten(folder: Path, change: Callable[[str, bytes], tuple[str, bytes]], kind: int = 0) -> Path:
    """OpenAI's fixture with members renamed or changed."""
    path = folder / "model.pt"
    with zipfile.ZipFile(OPENAI) as old, zipfile.ZipFile(path, "w", kind) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return path


@case("Code in a checkpoint", "a pickle that runs a shell command, and nothing else")
def _(folder: Path) -> list[Any]:
    path = folder / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + payload(folder) + b"}.")
    return converting(path, folder)


@case("Code in a checkpoint", "the same hidden in whole weights: read, and not run")
def _(folder: Path) -> list[Any]:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data[:2] + payload(folder) + data[2:] if name.endswith("data.pkl") else data

    return converting(rewritten(folder, change), folder)


@case("Code in a checkpoint", "a pickle without an archive around it")
def _(folder: Path) -> list[Any]:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02" + payload(folder) + b"}.")
    return converting(folder / "pytorch_model.bin", folder)


@case("Code in a checkpoint", "an .npz with an array of objects")
def _(folder: Path) -> list[Any]:
    np.savez(folder / "weights.npz", a=np.array([{}], dtype=object))
    return converting(folder / "weights.npz", folder)


@case("Places outside the folder", "a shard named `../outside.safetensors`")
def _(folder: Path) -> list[Any]:
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return converting(folder, folder)


@case(
    "Places outside the folder", "members of an archive named `../../…`: read where they lie, never unpacked"
)
def _(folder: Path) -> list[Any]:
    path = rewritten(folder, lambda name, data: (f"../../{name.partition('/')[2]}", data))
    return converting(path, folder)


@case("Places outside the folder", "an ONNX whose tensors are in `../../etc/passwd`")
def _(folder: Path) -> list[Any]:
    tensor = b"\x08\x01\x10\x01\x42\x01a\x6a\x10../../etc/passwd"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (folder / "m.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    return converting(folder / "m.onnx", folder)


@case("Places outside the folder", "a tokenizer.json that links to a file elsewhere")
def _(folder: Path) -> list[Any]:
    source = whisper(folder)
    (folder / "secret").write_text("secret")
    (source / "tokenizer.json").symlink_to(folder / "secret")
    return converting(source, folder)


@case("Damage", "a header of 4 EB")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, "{}", length=1 << 62), folder)


@case("Damage", "a data.pkl that unpacks to 65 MB")
def _(folder: Path) -> list[Any]:
    with zipfile.ZipFile(folder / "model.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(65 << 20))
    return converting(folder / "model.pt", folder)


@case("Damage", "a key twice")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, f"{{{entry('a')},{entry('a')}}}", bytes(4)), folder)


@case("Damage", "a tensor that ends behind the file")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, f"{{{entry('a', size=4, end=16)}}}"), folder)


for _source in (
    WHISPER / "model.safetensors",
    OPENAI,
    FIXTURES / "whisper/ctranslate2/model.bin",
    FIXTURES / "wespeaker/model.onnx",
):

    @case("Damage", f"{_source.parent.name}/{_source.name} cut off in its middle")
    def _(folder: Path, source: Path = _source) -> list[Any]:
        path = folder / source.name
        path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        return converting(path, folder)


@case("Damage", "an index and shards that disagree")
def _(folder: Path) -> list[Any]:
    safetensors(folder, f"{{{entry('a')}}}", bytes(4))
    index = {"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return converting(folder / "model.safetensors.index.json", folder)


@case("Numbers", "NaN in a weight")
def _(folder: Path) -> list[Any]:
    return converting(whisper(folder, lambda t: t.update({KEY: mx.full((8,), float("nan"))})), folder)


@case("Numbers", "a million, in float16")
def _(folder: Path) -> list[Any]:
    source = whisper(folder, lambda t: t.update({KEY: mx.full((8,), 1e6)}))
    return converting(source, folder, "--dtype", "float16")


@case("Numbers", "64-bit fractions in safetensors")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, f"{{{entry('a', 'F64', end=8)}}}"), folder)


@case("Numbers", "8-bit fractions")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, f"{{{entry('a', 'F8_E4M3', size=8, end=8)}}}"), folder)


@case("Numbers", "whole numbers where there are to be fractions")
def _(folder: Path) -> list[Any]:
    return converting(whisper(folder, lambda t: t.update({KEY: t[KEY].astype(mx.int32)})), folder)


@case("Keys and shapes", "a tensor is missing")
def _(folder: Path) -> list[Any]:
    return converting(whisper(folder, lambda t: t.pop(KEY)), folder)


@case("Keys and shapes", "a tensor too many")
def _(folder: Path) -> list[Any]:
    return converting(whisper(folder, lambda t: t.update({"model.surprise": mx.zeros(2)})), folder)


@case("Keys and shapes", "a tensor of another shape")
def _(folder: Path) -> list[Any]:
    return converting(whisper(folder, lambda t: t.update({KEY: mx.zeros(5)})), folder)


@case("Keys and shapes", "no config.json beside the weights")
def _(folder: Path) -> list[Any]:
    source = whisper(folder)
    (source / "config.json").unlink()
    return converting(source, folder)


@case("Keys and shapes", "a model of another architecture")
def _(folder: Path) -> list[Any]:
    return converting(safetensors(folder, f"{{{entry('bert.embeddings.weight')}}}", bytes(4)), folder)


@case("Keys and shapes", "a converted folder of a later release")
def _(folder: Path) -> list[Any]:
    (folder / "config.json").write_text('{"format_version": 99}')
    return ["inspect", folder]


@case("What is asked for", "no such file")
def _(folder: Path) -> list[Any]:
    return converting(folder / "model.pt", folder)


@case("What is asked for", "a folder without weights")
def _(folder: Path) -> list[Any]:
    (folder / "empty").mkdir()
    return converting(folder / "empty", folder)


@case("What is asked for", "several weight files")
def _(folder: Path) -> list[Any]:
    for name in ("a.pt", "b.pt"):
        (folder / name).write_bytes(b"")
    return converting(folder, folder)


@case("What is asked for", "a format that is not read")
def _(folder: Path) -> list[Any]:
    (folder / "model.gguf").write_bytes(b"GGUF")
    return converting(folder / "model.gguf", folder)


@case("What is asked for", "a name that is none")
def _(folder: Path) -> list[Any]:
    return converting("whisper-tyni", folder)


@case("What is asked for", "`--quantize 7`")
def _(folder: Path) -> list[Any]:
    return converting("silero-vad", folder, "--quantize", "7")


@case("What is asked for", "`--quantize 4` of a family that gains nothing")
def _(folder: Path) -> list[Any]:
    return converting("silero-vad", folder, "--quantize", "4")


@case("What is asked for", "`--revision` of a local folder")
def _(folder: Path) -> list[Any]:
    return converting(WHISPER, folder, "--revision", "main")


@case("What is asked for", "the folder is there already")
def _(folder: Path) -> list[Any]:
    made(folder)
    return converting("silero-vad", folder)


@case("What is asked for", "`--force`, and something else is there")
def _(folder: Path) -> list[Any]:
    (folder / "made").mkdir()
    (folder / "made/thesis.txt").write_text("x")
    return converting("silero-vad", folder, "--force")


def fails(error: BaseException) -> Any:
    def stop(*_: Any) -> None:
        raise error

    return lambda folder: mock.patch.object(_store.os, "fsync", stop)


@case("While writing", "the disk is full", fails(OSError(errno.ENOSPC, "No space left on device")))
def _(folder: Path) -> list[Any]:
    return converting("silero-vad", folder)


@case("While writing", "Ctrl-C", fails(KeyboardInterrupt()))
def _(folder: Path) -> list[Any]:
    return converting("silero-vad", folder)


# --- certificates and the Hub -----------------------------------------------------------------------------


def made(folder: Path) -> Path:
    """A converted folder, copied from one."""
    once = WORK / "made"
    if not once.exists():
        status, text = run(["convert", FIXTURES / "whisper/ctranslate2", once])
        assert status == 0, text
    return Path(shutil.copytree(once, folder / "made"))


@case("Certificates", "verify without a certificate")
def _(folder: Path) -> list[Any]:
    (made(folder) / "parity.json").unlink()
    return ["verify", folder / "made"]


@case("Certificates", "one bit of a weight has changed")
def _(folder: Path) -> list[Any]:
    file = made(folder) / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 0x40
    file.write_bytes(raw)
    return ["verify", folder / "made"]


@case("Certificates", "other outputs than the certificate's")
def _(folder: Path) -> list[Any]:
    file = made(folder) / "parity.json"
    told = json.loads(file.read_text())
    told["stages"]["logits"]["goldens"] = [v * 2 for v in told["stages"]["logits"]["goldens"]]
    file.write_text(json.dumps(told))
    return ["verify", folder / "made"]


class OnTheHub:
    """A Hub for one command: its token, what it answers wrongly, whether anyone listens."""

    def __init__(
        self, token: str | None = TOKEN, *, closed: bool = False, offline: bool = False, **fail: Any
    ) -> None:
        self.token, self.closed, self.offline, self.fail = token, closed, offline, fail

    @contextlib.contextmanager
    def __call__(self, folder: Path) -> Iterator[None]:
        hub = Hub()
        hub.fail = {k: list(v) for k, v in self.fail.items()}
        if self.closed:
            hub.close()
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        changes = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": self.offline,
        }
        with contextlib.ExitStack() as stack:
            for key, value in changes.items():
                stack.enter_context(mock.patch.object(constants, key, value))
            stack.enter_context(mock.patch.object(_http.time, "sleep"))
            stack.enter_context(mock.patch.dict(os.environ, {"HF_TOKEN": self.token} if self.token else {}))
            _http.close_session()
            yield
            _http.close_session()
        if not self.closed:
            hub.close()


def uploading(title: str, around: Any, *more: str, repo: str = "org/name") -> None:
    @case("The Hub", title, around)
    def _(folder: Path) -> list[Any]:
        return ["upload", made(folder), repo, *more]


@case("The Hub", "an original instead of a converted folder", OnTheHub())
def _(folder: Path) -> list[Any]:
    return ["upload", WHISPER, "org/name"]


@case("The Hub", "a link in the folder", OnTheHub())
def _(folder: Path) -> list[Any]:
    (made(folder) / "notes.txt").symlink_to("/etc/hostname")
    return ["upload", folder / "made", "org/name"]


uploading("no token", OnTheHub(None))
uploading("a wrong token", OnTheHub("hf_wrongwrongwrong"))
uploading("a token that may only read", OnTheHub(READ_ONLY))
uploading("no network", OnTheHub(closed=True))
uploading("offline mode", OnTheHub(offline=True))
uploading("too many requests, again and again", OnTheHub(commit=[429] * 20))
uploading("a line that is cut each time; run it again, and it goes on", OnTheHub(store=[0] * 20))
uploading("a name that is none", OnTheHub(), repo="a/b/c")


@case("The Hub", "a repository that is not there, or private", OnTheHub())
def _(folder: Path) -> list[Any]:
    return converting("hub:org/nothing", folder)


@case("The Hub", "a source on the Hub, and no network", OnTheHub(closed=True))
def _(folder: Path) -> list[Any]:
    return converting("hub:org/name", folder)


# --- the table --------------------------------------------------------------------------------------------


def run(arguments: list[Any]) -> tuple[int, str]:
    """A command's exit status, and the last line that it prints."""
    printed = io.StringIO()
    status = 0
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", ["mlx-convert", *map(str, arguments)]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
    text = " ".join(printed.getvalue().split())
    return status, text


def row(number: int, found: Case) -> str:
    """Run one case; what it prints is shown without the folder's name."""
    folder = WORK / f"{number}"
    folder.mkdir()
    arguments = found.make(folder)
    before = (folder / "made").exists()
    with found.around(folder):
        status, text = run(arguments)
    assert not (folder / "RUN").exists(), f"{found.title}: a payload was run"
    assert not [t for t in (TOKEN, READ_ONLY, "hf_wrong") if t in text], f"{found.title}: shows a token"
    left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    if status and arguments[0] == "convert":
        assert not left, f"{found.title}: left {left}"
        assert (folder / "made").exists() == before, f"{found.title}: half-written"
    text = text.replace(f"{folder}/", "").replace(str(folder), ".").replace(f"{HERE}/", "tests/")
    text = re.sub(r"hf-xet[^|]*|http://127\.0\.0\.1:\d+", "…", text)
    return f"| {found.title} | `{text.replace('|', '/')}` | {status} |"


def document() -> str:
    """The page."""
    parts = [HEAD]
    for section in dict.fromkeys(c.section for c in CASES):
        parts.append(f"## {section}\n\n| input | prints | exit |\n|---|---|---|")
        parts[-1] += "".join(f"\n{row(n, c)}" for n, c in enumerate(CASES) if c.section == section)
    return "\n\n".join(p.strip() for p in parts) + "\n"


if __name__ == "__main__":
    try:
        print(document(), end="")
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
