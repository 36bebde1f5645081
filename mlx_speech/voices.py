"""The people whose voices are known: plain values, and the file that keeps them.

The file is JSON, readable by its owner alone, since a voice tells who somebody is. It is replaced in one step,
under a lock, and only where it could be read before.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_speech.atomic import write_atomically
from mlx_speech.errors import OutputError, VoicesError
from mlx_speech.types import Voice

VARIABLE = "MLX_SPEECH_SPEAKERS"
FORMAT, VERSION = "mlx_speech voices", 1
_LABEL = re.compile(r"SPEAKER_\d+")  # what a diarization calls people it does not know
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Voices:
    """Known voices, all heard by one embedding model: ``model`` is its name, ``digest`` that of its weights."""

    model: str
    digest: str
    voices: tuple[Voice, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The people, in the order in which they were met."""
        return tuple(v.name for v in self.voices)

    @property
    def embeddings(self) -> np.ndarray:
        """(V, D) float32, each of length 1."""
        return np.stack([v.embedding for v in self.voices]) if self.voices else np.zeros((0, 0), np.float32)

    def find(self, name: str) -> Voice:
        """The voice of a name.

        Raises:
            VoicesError: nobody is called that.
        """
        for voice in self.voices:
            if voice.name == name:
                return voice
        close = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise VoicesError(f"no voice is called {name!r}: {hint}'mlx-speech speakers list' tells who is known")

    def enroll(self, name: str, embedding: np.ndarray, seconds: float) -> Voices:
        """Meet somebody, or hear more of them.

        Args:
            name: theirs.
            embedding: (D,) of any length but 0.
            seconds: how much speech it was made of, which is its weight beside what is known already.

        Raises:
            VoicesError: the name is none, or the embedding is not of this model's size, or has no direction.
        """
        new = Voice(checked_name(name), _unit(embedding, name), seconds)
        if name not in self.names:
            self._check_size(new)
            return replace(self, voices=(*self.voices, new))
        return self._put(name, _joined(self.find(name), new, name))

    def rename(self, old: str, new: str) -> Voices:
        """Call somebody by another name.

        Raises:
            VoicesError: nobody has the old name, or somebody the new one.
        """
        voice = self.find(old)
        if new in self.names:
            raise VoicesError(f"{new!r} is known already: 'merge' makes one voice of two")
        return self._put(old, replace(voice, name=checked_name(new)))

    def merge(self, name: str, others: tuple[str, ...]) -> Voices:
        """Make one voice of several that turned out to be one person's: ``name``'s.

        Raises:
            VoicesError: one of them is not known, or is named twice.
        """
        if len({name, *others}) <= len(others):
            raise VoicesError(f"{name!r}, {', '.join(map(repr, others))}: name different voices to be merged")
        voice = self.find(name)
        for other in others:
            voice = _joined(voice, self.find(other), name)
        return self.forget(others)._put(name, voice)

    def forget(self, names: tuple[str, ...]) -> Voices:
        """Leave some out.

        Raises:
            VoicesError: one of them is not known.
        """
        gone = {self.find(name).name for name in names}
        return replace(self, voices=tuple(v for v in self.voices if v.name not in gone))

    def check(self, digest: str, path: Path | None = None) -> Voices:
        """These voices, if the embedding model with this digest has heard them.

        Raises:
            VoicesError: another model has; voices of two models cannot be compared.
        """
        if digest == self.digest:
            return self
        raise VoicesError(
            f"{path or 'these voices'}: heard by {self.model} with weights {self.digest[:12]}…, which are not "
            f"those in use ({digest[:12]}…): enroll the voices anew in another file (${VARIABLE})"
        )

    def _check_size(self, new: Voice) -> None:
        if self.voices and self.voices[0].embedding.shape != new.embedding.shape:
            raise VoicesError(f"{new.name!r} has {len(new.embedding)} numbers, the known voices others")

    def _put(self, name: str, voice: Voice) -> Voices:
        self._check_size(voice)
        return replace(self, voices=tuple(voice if v.name == name else v for v in self.voices))


def checked_name(name: str) -> str:
    """A name that can be kept and printed.

    Raises:
        VoicesError: it is empty, too long, has control characters or blanks around it, or is what a
            diarization calls somebody unknown.
    """
    if not name or name != name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise VoicesError(f"{name!r} is no name: give 1 to {_LONGEST_NAME} printable characters")
    if _LABEL.fullmatch(name):
        raise VoicesError(f"{name!r} is what a diarization calls somebody unknown: give another name")
    return name


def default_path() -> Path:
    """Where voices are kept: ``$MLX_SPEECH_SPEAKERS``, else the user's folder for data."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        base = Path("~/Library/Application Support")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share")
    return (base / "mlx_speech" / "speakers.json").expanduser()


def load_voices(path: str | os.PathLike[str] | None = None) -> Voices | None:
    """The voices in a file; ``None`` if it is not there yet.

    Raises:
        VoicesError: it cannot be read, is damaged, or a newer version has written it.
    """
    path = Path(path) if path else default_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise VoicesError(f"{path}: cannot be read ({error}); it was left as it is") from error
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"it is no file of {FORMAT}")
        if value["version"] != VERSION:
            raise ValueError(f"its version is {value['version']}, this library reads {VERSION}")
        return _read(value)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise VoicesError(
            f"{path}: no readable file of voices ({reason}). It was left as it is: put a copy back, or move it "
            "away to begin anew"
        ) from error


def change_voices(
    change: Callable[[Voices | None], Voices], path: str | os.PathLike[str] | None = None
) -> Voices:
    """Read the file, change what it holds and write it back, while nobody else does.

    Args:
        change: gets the voices, or ``None`` where there is no file yet; answers the new ones.
        path: the file.

    Returns:
        what was written.

    Raises:
        VoicesError: as :func:`load_voices`, or from ``change``; nothing is written then.
        OutputError: the file could not be written; what was there before is still there.
    """
    path = Path(path) if path else default_path()
    with _locked(path):
        changed = change(load_voices(path))
        _replace(path, json.dumps(_value(changed), ensure_ascii=False, indent=1) + "\n")
    return changed


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes; the lock is a file of its own, since the other one is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, text: str) -> None:
    """Readable by the owner alone."""
    try:
        write_atomically(path, text.encode("utf-8"), mode=0o600, lasting=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: could not be written ({error}); check its folder, or name another file (${VARIABLE})"
    )


def _value(voices: Voices) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "embedding": {"model": voices.model, "sha256": voices.digest},
        "voices": [
            {
                "name": v.name,
                "seconds": round(v.seconds, 3),
                "recordings": v.recordings,
                "embedding": [round(float(x), 7) for x in v.embedding],
            }
            for v in voices.voices
        ],
    }


def _read(value: dict[str, Any]) -> Voices:
    found = []
    for entry in value["voices"]:
        name, seconds, recordings = entry["name"], float(entry["seconds"]), int(entry["recordings"])
        if not (math.isfinite(seconds) and seconds >= 0 and recordings >= 1):
            raise ValueError(f"{name!r} has {seconds} s of {recordings} recordings")
        found.append(
            Voice(
                checked_name(name),
                _unit(np.asarray(entry["embedding"], np.float32), name),
                seconds,
                recordings,
            )
        )
    if len({v.name for v in found}) < len(found):
        raise ValueError("a name is there twice")
    if len({v.embedding.shape for v in found}) > 1:
        raise ValueError("its voices are of different sizes")
    model, digest = value["embedding"]["model"], value["embedding"]["sha256"]
    if not (isinstance(model, str) and isinstance(digest, str)):
        raise ValueError("the embedding model is not told")
    return Voices(model, digest, tuple(found))


def _unit(embedding: np.ndarray, name: str) -> np.ndarray:
    """Of length 1."""
    vector = np.asarray(embedding, np.float32)
    length = float(np.linalg.norm(vector)) if vector.ndim == 1 and vector.size else 0.0
    if not (math.isfinite(length) and length > 0):
        raise VoicesError(f"{name!r}: too little speech to know the voice by")
    return vector / np.float32(length)


def _joined(one: Voice, other: Voice, name: str) -> Voice:
    """The mean direction, each weighted by its seconds."""
    if one.embedding.shape != other.embedding.shape:
        raise VoicesError(f"{name!r} has {len(one.embedding)} numbers, {other.name!r} {len(other.embedding)}")
    seconds = one.seconds + other.seconds
    share = one.seconds / seconds if seconds else 0.5
    mean = share * one.embedding + (1 - share) * other.embedding
    return Voice(one.name, _unit(mean, name), seconds, one.recordings + other.recordings)
