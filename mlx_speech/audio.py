"""Any recording as samples: decode, mix to mono, resample, whole or in blocks.

PyAV brings its own FFmpeg libraries, so no ``ffmpeg`` program is needed. Samples are float32, mono, within
[-1, 1], by default at 16 kHz. 16-bit audio that already is mono at the wanted rate comes back as exactly
``sample / 32768``. Time 0 is the first sample of the first audio stream.

Mixing to mono follows ``ffmpeg -ac 1``: the plain mean for stereo, ``DOWNMIX`` weights for surround (the
centre, where speech is, counts most; the low-frequency channel not at all). Channels whose place the file
does not declare count equally. Resampling is libswresample in float; its filter is about 2 ms long, and a
recording shorter than that has no samples at another rate.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.error
import numpy as np

from mlx_speech.errors import AudioError, OptionError
from mlx_speech.spool import is_spooled, spooled

SAMPLE_RATE = 16000
"""The rate, in Hz, that every model here expects."""

Source = str | os.PathLike[str] | BinaryIO
"""A recording's path, or an open binary file such as ``io.BytesIO(data)``, which is read from its beginning."""

DOWNMIX = {
    "FC": 1.0,
    "FL": 0.5**0.5,
    "FR": 0.5**0.5,
    "FLC": 0.5**0.5,
    "FRC": 0.5**0.5,
    "SL": 0.5,
    "SR": 0.5,
    "BL": 0.5,
    "BR": 0.5,
    "BC": 0.5,
    "LFE": 0.0,
    "LFE2": 0.0,
}
"""libswresample's weight of each channel in a mono mix, before they are divided by their sum."""

_UNPLACED = 0.5  # a channel with a name that the table lacks

# FFmpeg's integer sample formats: the value of silence, and full scale
_INTEGERS = {"u1": (128, 128.0), "i2": (0, 32768.0), "i4": (0, 2147483648.0)}

# Containers whose header states the length; others (ADTS, some raw formats) only let FFmpeg guess it.
_STATES_LENGTH = frozenset({"flac", "mp3", "mov,mp4,m4a,3gp,3g2,mj2"})

_CHECKED = 1 << 20  # samples looked at together: bounds memory

# of an array: 40 dB above full scale no recording is, and 16-bit samples as they are seldom below
_LOUDEST = 100.0

_BATCH_SECONDS = 1.0  # codec frames are about 20 ms: joining them first makes resampling several times faster


class AudioWarning(UserWarning):
    """A damaged recording was read as far as it goes."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a header says: ``duration`` in seconds (``None`` if unknown), ``sampling_rate`` in Hz."""

    duration: float | None
    sampling_rate: int
    channels: int
    codec: str


def load_audio(source: Source, *, sampling_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read a whole recording as ``(T,)`` float32 mono at ``sampling_rate`` Hz.

    Takes any container or codec that FFmpeg reads, video included; the first audio stream is used. A
    recording without samples gives an empty array. A damaged one is read as far as possible, with an
    ``AudioWarning`` that says where the damage starts.

    Raises ``AudioError`` if there is nothing readable, or a sample is NaN or infinite.
    """
    blocks = list(stream_audio(source, sampling_rate=sampling_rate))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def stream_audio(
    source: Source, *, sampling_rate: int = SAMPLE_RATE, block_seconds: float = 30.0
) -> Iterator[np.ndarray]:
    """The samples of ``load_audio`` in blocks of ``block_seconds``, in constant memory.

    Only the last block may be shorter; without samples there is none. A path or option at fault raises at
    once, damage in the file while iterating.
    """
    if sampling_rate <= 0:
        raise OptionError(
            f"sampling_rate is {sampling_rate} Hz: give a positive rate, such as {SAMPLE_RATE}."
        )
    size = round(block_seconds * sampling_rate) if 0 < block_seconds < float("inf") else 0
    if size < 1:
        raise OptionError(f"block_seconds is {block_seconds}: give at least one sample's length in seconds.")
    checked = _checked(source)
    return _blocks(_resample(_batches(_decode(checked)), sampling_rate), size)


def as_audio(audio: Source | Any, sampling_rate: int = SAMPLE_RATE) -> np.ndarray:
    """``(T,)`` contiguous float32 samples from a path or file, or from an array already at ``sampling_rate`` Hz.

    An array may be anything that NumPy can view (MLX and torch arrays included): one-dimensional, floating,
    finite, within [-1, 1] or not far out, possibly empty. It is not copied when it already has the right type. Of a
    path or file, what is beyond ten minutes lies in a temporary file (:mod:`mlx_speech.spool`), and the array is
    read-only. Raises ``AudioError``.
    """
    if isinstance(audio, (str, os.PathLike)) or hasattr(audio, "read"):
        return spooled(stream_audio(audio, sampling_rate=sampling_rate))
    samples = _viewed(audio)
    if is_spooled(audio) and samples.ndim == 1 and samples.flags.c_contiguous:
        return samples  # checked when it was decoded
    if samples.ndim != 1:
        raise AudioError(_shape_problem(samples.shape, type(audio).__name__))
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"audio has {samples.dtype} samples, not floating ones within [-1, 1]: "
            "for 16-bit integers, divide by 32768 first (audio.astype('float32') / 32768)."
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is named below
        samples = np.ascontiguousarray(samples, dtype=np.float32)
    for first in range(0, len(samples), _CHECKED):
        some = samples[first : first + _CHECKED]
        peak = max(some.max(), -some.min())
        if not np.isfinite(peak):
            bad = first + int(np.argmin(np.isfinite(some)))
            raise AudioError(
                f"audio holds {samples[bad]} at sample {bad} ({bad / sampling_rate:.3f} s): "
                "repair it, or replace such samples by zeros (numpy.nan_to_num)."
            )
        if peak > _LOUDEST:
            raise AudioError(
                f"audio reaches {peak:.0f} where samples lie within [-1, 1]: divide those of 16 bits by 32768."
            )
    return samples


def probe(source: Source) -> AudioInfo:
    """What a recording's header says, without decoding it. Raises ``AudioError`` as ``load_audio`` does."""
    with _opened(_checked(source)) as (container, stream):
        duration = _stream_seconds(stream)
        if duration is None and container.duration is not None:
            duration = container.duration / 1e6  # AV_TIME_BASE
        context = stream.codec_context
        channels = len(context.layout.channels)
        return AudioInfo(duration, int(context.sample_rate), channels, str(context.codec.canonical_name))


def _viewed(audio: Any) -> np.ndarray:
    """``audio`` as a NumPy array, whatever library it comes from."""
    try:
        return np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, MLX bfloat16, tensors on a device
        raise AudioError(
            f"audio is a {type(audio).__name__} that NumPy cannot view ({error}): "
            "give a path, or a one-dimensional float32 array."
        ) from error


def _shape_problem(shape: tuple[int, ...], kind: str) -> str:
    """Why an array of this shape is no mono recording, and how to make it one."""
    if not shape:
        return f"audio is of type {kind}: give a path, an open binary file, or a one-dimensional array of samples."
    if len(shape) != 2:
        return f"audio has shape {shape}: give a path, or a one-dimensional array of samples."
    axis = int(shape[1] < shape[0])  # channels are fewer than samples
    return f"audio has shape {shape}, not (samples,): average the channels first (audio.mean(axis={axis}))."


def checked_path(source: str | os.PathLike[str]) -> str:
    """The path of a file that exists and is not empty.

    Raises:
        AudioError: it does not, or is.
    """
    path = os.fspath(source)
    try:
        info = os.stat(path)
    except FileNotFoundError as error:
        remedy = "URLs are not fetched, download it first" if "://" in path else "check the path"
        raise AudioError(f"{path}: no such file; {remedy}.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{path!r}: cannot be reached ({error}); check the path.") from error
    if stat.S_ISDIR(info.st_mode):
        raise AudioError(f"{path}: is a folder; name one recording in it.")
    if stat.S_ISREG(info.st_mode) and info.st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); record or download it again.")
    return path


def _checked(source: Source) -> str | BinaryIO:
    """A path that is one, or a binary file."""
    if isinstance(source, (str, os.PathLike)):
        return checked_path(source)
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{_named(source)}: is open as text; open it with mode 'rb'.")
    return source


def _named(source: Any) -> str:
    name = source if isinstance(source, str) else getattr(source, "name", None)
    return name if isinstance(name, str) else f"the {type(source).__name__}"


@contextmanager
def _movable(source: str | BinaryIO) -> Iterator[Any]:
    """What FFmpeg can move about in: a path, or a file; what comes through a pipe is kept in one meanwhile."""
    if isinstance(source, str):
        mode = os.stat(source).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            yield "file:" + source  # a name such as "a:b.wav" is no protocol
            return
    with open(source, "rb") if isinstance(source, str) else nullcontext(source) as stream:
        if getattr(stream, "seekable", lambda: False)():
            stream.seek(0)
            yield stream
            return
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(stream, kept)
            kept.seek(0)
            yield kept


@contextmanager
def _opened(source: str | BinaryIO) -> Iterator[tuple[Any, Any]]:
    """The open container and its first audio stream."""
    path = _named(source)
    with ExitStack() as stack:
        try:
            movable = stack.enter_context(_movable(source))
            # tags in odd encodings must not stop decoding
            container = stack.enter_context(av.open(movable, metadata_errors="ignore"))
        except PermissionError as error:
            raise AudioError(f"{path}: permission denied; make it readable for this user.") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(
                f"{path}: not a recording that FFmpeg can read ({_reason(error)}); "
                "check that it is complete and is audio or video."
            ) from error
        if not container.streams.audio:
            raise AudioError(f"{path}: has no audio stream; give a file with sound.")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError(f"{path}: its audio codec is unknown here; convert it to FLAC or WAV first.")
        yield container, stream


def _reason(error: BaseException) -> str:
    """FFmpeg's own words, without the number and the path that PyAV adds."""
    return getattr(error, "strerror", None) or str(error)


@dataclass(slots=True)
class _Log:
    """How far decoding came, and the first damage on the way."""

    path: str
    seconds: float = 0.0
    packets: int = 0
    since: float = 0.0
    reason: str = ""

    def damage(self, error: BaseException) -> None:
        """Count one packet that could not be read."""
        if not self.packets:
            self.since, self.reason = self.seconds, _reason(error)
        self.packets += 1

    def close(self, announced: float | None) -> None:
        """Say what is missing: an error if that is everything."""
        missing = (announced or 0.0) - self.seconds
        short = missing > max(1.0, 0.01 * (announced or 0.0))
        if not self.packets and not short:
            return
        if self.packets:
            what = f"damaged from {self.since:.2f} s on ({self.reason}; unreadable packets: {self.packets})"
        else:
            what = f"ends at {self.seconds:.2f} s where its header announces {announced:.2f} s"
        if not self.seconds:
            raise AudioError(f"{self.path}: {what}; nothing could be decoded, get a sound copy.")
        early = ", and times after the damage run early" if self.packets else ""
        message = f"{self.path}: {what}; {self.seconds:.2f} s were read{early}."
        warnings.warn(message, AudioWarning, stacklevel=2)


def _decode(source: str | BinaryIO) -> Iterator[tuple[int, np.ndarray]]:
    """Each decoded frame as its rate and ``(T,)`` mono samples."""
    path = _named(source)
    with _opened(source) as (container, stream):
        log = _Log(path)
        for packet in _packets(container, stream, log):
            for frame in _frames(packet, stream, log):
                mono = _mono(frame, path)
                _check_finite(mono, frame.sample_rate, log)
                log.seconds += len(mono) / frame.sample_rate
                yield frame.sample_rate, mono
        log.close(_stream_seconds(stream) if container.format.name in _STATES_LENGTH else None)


def _packets(container: Any, stream: Any, log: _Log) -> Iterator[Any]:
    """The stream's packets up to its end, or up to where the container is damaged; ``None`` then flushes."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        log.damage(error)
        yield None


def _frames(packet: Any, stream: Any, log: _Log) -> list[Any]:
    """A packet's frames; none if it is damaged."""
    try:
        return list(stream.codec_context.decode(None) if packet is None else packet.decode())
    except av.error.EOFError:  # flushed before
        return []
    except av.FFmpegError as error:
        log.damage(error)
        return []


def _stream_seconds(stream: Any) -> float | None:
    """The stream's length according to its header."""
    known = stream.duration is not None and stream.time_base is not None
    return float(stream.duration * stream.time_base) if known else None


def _mono(frame: Any, path: str) -> np.ndarray:
    """A frame of any sample format and layout as ``(T,)`` float32."""
    try:
        raw = frame.to_ndarray()  # (C, T) if planar, else (1, T * C)
    except ValueError as error:
        raise AudioError(f"{path}: {error} Convert it to FLAC or WAV first.") from error
    names = [channel.name for channel in frame.layout.channels]
    channels = raw if frame.format.is_planar else raw.reshape(-1, len(names)).T
    silence, scale = _INTEGERS.get(raw.dtype.str[1:], (0, 1.0))
    with np.errstate(over="ignore", invalid="ignore"):  # _check_finite names what is not finite
        samples = channels.astype(np.float32)
        if scale != 1.0:
            samples = (samples - np.float32(silence)) * np.float32(1.0 / scale)
        mono: np.ndarray = samples[0] if len(names) == 1 else _mono_weights(names) @ samples
    return mono


def _mono_weights(names: list[str]) -> np.ndarray:
    """``(C,)`` float32 weights of the named channels, which sum to 1."""
    weights = np.array([DOWNMIX.get(name, _UNPLACED) for name in names])
    if not weights.any():  # low-frequency channels only
        weights += 1.0
    return np.asarray(weights / weights.sum(), np.float32)


def _check_finite(mono: np.ndarray, rate: int, log: _Log) -> None:
    """Refuse NaN and infinities, which one transform later would be everywhere."""
    finite = np.isfinite(mono)
    if not finite.all():
        seconds = log.seconds + int(np.argmin(finite)) / rate
        raise AudioError(
            f"{log.path}: a sample is NaN or infinite at {seconds:.3f} s; export the file again."
        )


def _batches(frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Neighbouring frames of one rate, joined to about ``_BATCH_SECONDS``."""
    pending: list[np.ndarray] = []
    count = current = 0
    for rate, samples in frames:
        if pending and (rate != current or count >= _BATCH_SECONDS * current):
            yield current, np.concatenate(pending)
            pending, count = [], 0
        current = rate
        pending.append(samples)
        count += len(samples)
    if pending:
        yield current, np.concatenate(pending)


def _resample(batches: Iterable[tuple[int, np.ndarray]], target: int) -> Iterator[np.ndarray]:
    """The batches at ``target`` Hz within [-1, 1]. A rate that changes midway gets a resampler of its own."""
    resampler: Any = None
    current = 0
    for rate, samples in batches:
        if rate != current:
            yield from _resampled(resampler, None)
            resampler = (
                None if rate == target else av.AudioResampler(format="flt", layout="mono", rate=target)
            )
            current = rate
        if resampler is None:
            yield np.clip(samples, -1.0, 1.0)
            continue
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = rate
        yield from _resampled(resampler, frame)
    yield from _resampled(resampler, None)


def _resampled(resampler: Any, frame: Any) -> Iterator[np.ndarray]:
    """What comes out for ``frame``; ``None`` gives the tail that the filter still holds."""
    frames = [] if resampler is None else resampler.resample(frame)
    for out in frames:
        yield np.clip(out.to_ndarray()[0], -1.0, 1.0)  # a resampled peak may overshoot


def _blocks(chunks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples cut into ``size`` each, the last one shorter."""
    pending: list[np.ndarray] = []
    count = 0
    for chunk in chunks:
        pending.append(chunk)
        count += len(chunk)
        if count < size:
            continue
        joined = np.concatenate(pending)
        whole = count - count % size
        yield from (joined[i : i + size].copy() for i in range(0, whole, size))
        pending, count = [joined[whole:].copy()], count - whole
    if count:
        yield np.concatenate(pending)
