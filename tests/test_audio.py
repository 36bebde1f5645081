"""Decoding: values, rates, containers, damage. Every file is made here; nothing is stored or fetched."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mlx_speech import audio as module
from mlx_speech.audio import SAMPLE_RATE, AudioWarning, as_audio, load_audio, probe, stream_audio
from mlx_speech.errors import AudioError, OptionError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def tone(seconds: float, rate: int, hertz: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def noise16(samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(7).integers(-32768, 32768, (samples, channels)).astype("<i2")


def write_wav(path: Path, data: bytes, kind: int, bits: int, channels: int, rate: int, mask: int = 0) -> Path:
    """A RIFF file of any sample type; ``mask`` declares the channels' places."""
    width = channels * bits // 8
    fmt = struct.pack("<HHIIHH", EXTENSIBLE if mask else kind, channels, rate, rate * width, width, bits)
    if mask:
        guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHI", 22, bits, mask) + guid
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


def wav16(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def encode(
    path: Path, codec: str, samples: np.ndarray, rate: int, video: bool = False, layout: str = "mono"
) -> Path:
    """Mono float samples, the same in each channel, through one of FFmpeg's encoders."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10) if video else None
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        if picture is not None:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
            for _ in range(10):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        channels = len(av.AudioLayout(layout).channels)
        packed = np.repeat(np.ascontiguousarray(samples, np.float32), channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def amplitude_at(samples: np.ndarray, hertz: float, rate: int = SAMPLE_RATE) -> float:
    """The amplitude of one frequency, over the middle: a whole number of periods, away from the edges."""
    middle = samples[len(samples) // 4 : len(samples) // 4 + rate // 2].astype(np.float64)
    wheel = np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / rate)
    return float(2 * abs(np.mean(middle * wheel)))


def lag(samples: np.ndarray, reference: np.ndarray) -> int:
    """By how many samples ``samples`` is late."""
    size = len(samples) + len(reference)
    spectrum = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size))
    late = int(np.argmax(np.fft.irfft(spectrum, size)))
    return late if late < size // 2 else late - size


# --- values


def test_16_bit_mono_is_exact(tmp_path: Path) -> None:
    samples = noise16(16000 + 123)
    samples[:2, 0] = (-32768, 32767)
    loaded = load_audio(wav16(tmp_path / "a.wav", samples))
    assert loaded.dtype == np.float32
    assert loaded.shape == (16123,)
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, samples[:, 0].astype(np.float32) / 32768)


def test_flac_equals_wav(tmp_path: Path) -> None:
    exact = noise16(20000)[:, 0].astype(np.float32) / 32768
    np.testing.assert_array_equal(load_audio(encode(tmp_path / "a.flac", "flac", exact, SAMPLE_RATE)), exact)


def as_24_bit(x: np.ndarray) -> bytes:
    return (np.round(x * 2**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]).tobytes()


@pytest.mark.parametrize(
    ("kind", "bits", "pack", "bound"),
    [
        (FLOAT, 32, lambda x: x.astype("<f4").tobytes(), 0.0),
        (FLOAT, 64, lambda x: x.astype("<f8").tobytes(), 0.0),
        (
            PCM,
            32,
            lambda x: np.round(x * 2.0**31).astype("<i4").tobytes(),
            2.0**-24,
        ),  # float32's own rounding
        (PCM, 24, as_24_bit, 2.0**-24),  # half a 24-bit step
        (PCM, 8, lambda x: np.round(x * 128 + 128).astype("u1").tobytes(), 2.0**-8),  # half an 8-bit step
    ],
)
def test_sample_types(tmp_path: Path, kind: int, bits: int, pack: Any, bound: float) -> None:
    samples = tone(0.25, SAMPLE_RATE, 300.0, 0.9)
    data = pack(samples.astype(np.float64))
    loaded = load_audio(write_wav(tmp_path / "a.wav", data, kind, bits, 1, SAMPLE_RATE))
    assert loaded.shape == samples.shape
    assert np.abs(loaded - samples).max() <= bound


def test_float_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    data = np.array([0.5, 1.5, -3.0, 1.0], "<f4").tobytes()
    loaded = load_audio(write_wav(tmp_path / "a.wav", data, FLOAT, 32, 1, SAMPLE_RATE))
    assert loaded.tolist() == [0.5, 1.0, -1.0, 1.0]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_pitch_level_and_length(tmp_path: Path, rate: int) -> None:
    samples = tone(2.0, rate, 1000.0, 0.5)
    loaded = load_audio(write_wav(tmp_path / "a.wav", samples.tobytes(), FLOAT, 32, 1, rate))
    assert abs(len(loaded) - 32000) <= 2  # the filter's phase rounds the end
    # 1 kHz is far within the pass band, whose ripple is below 0.1 %
    assert amplitude_at(loaded, 1000.0) == pytest.approx(0.5, rel=1e-3)
    assert amplitude_at(loaded, 1100.0) < 1e-3
    ideal = tone(2.0, SAMPLE_RATE, 1000.0, 0.5)[800:31200]  # phase too: not shifted by even a sample
    np.testing.assert_allclose(loaded[800:31200], ideal, atol=1e-3)


def test_a_resampled_peak_stays_within_full_scale(tmp_path: Path) -> None:
    square = np.sign(tone(1.0, 44100, 500.0)).astype(np.int16)[:, np.newaxis] * 32767
    loaded = load_audio(wav16(tmp_path / "a.wav", square.astype("<i2"), 44100))
    assert np.abs(loaded).max() == 1.0  # the filter overshoots at each edge


def test_resampling_removes_what_would_alias(tmp_path: Path) -> None:
    samples = tone(2.0, 44100, 12000.0, 0.5)  # would fold to 4 kHz
    loaded = load_audio(write_wav(tmp_path / "a.wav", samples.tobytes(), FLOAT, 32, 1, 44100))
    assert amplitude_at(loaded, 4000.0) < 0.5e-3  # 60 dB down


def test_other_target_rate(tmp_path: Path) -> None:
    path = wav16(tmp_path / "a.wav", (tone(2.0, SAMPLE_RATE) * 32767).astype("<i2")[:, np.newaxis])
    loaded = load_audio(path, sampling_rate=24000)
    assert len(loaded) == 48000
    assert amplitude_at(loaded, 440.0, 24000) == pytest.approx(0.5, rel=1e-3)


# --- channels


@pytest.mark.parametrize("channels", [2, 3, 10])
def test_channels_without_places_count_equally(tmp_path: Path, channels: int) -> None:
    samples = noise16(5000, channels)
    loaded = load_audio(wav16(tmp_path / "a.wav", samples))
    # float32 sums of values up to 1
    np.testing.assert_allclose(loaded, samples.mean(axis=1) / 32768, atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "mask"), [("stereo", 0x3), ("5.1", 0x3F), ("5.1(side)", 0x60F), ("7.1", 0x63F), ("quad", 0x33)]
)
def test_downmix_is_that_of_ffmpeg(tmp_path: Path, layout: str, mask: int) -> None:
    samples = noise16(4096, bin(mask).count("1"))
    path = write_wav(tmp_path / "a.wav", samples.tobytes(), PCM, 16, samples.shape[1], SAMPLE_RATE, mask)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = SAMPLE_RATE
    reference = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE).resample(frame)
    expected = np.concatenate([part.to_ndarray()[0] for part in reference]) / 32768
    # libswresample's 16-bit path rounds its weights to 2**-15 and its result to 16 bits
    np.testing.assert_allclose(load_audio(path), expected, atol=6 * 2.0**-15)


def test_5_1_at_96_khz(tmp_path: Path) -> None:
    channels = np.zeros((96000, 6), np.float32)
    channels[:, 2] = tone(1.0, 96000, 500.0, 0.8)  # centre
    channels[:, 3] = tone(1.0, 96000, 50.0, 0.9)  # low frequencies: not part of the mix
    path = write_wav(tmp_path / "a.wav", channels.tobytes(), FLOAT, 32, 6, 96000, 0x3F)
    loaded = load_audio(path)
    assert abs(len(loaded) - 16000) <= 2
    centre = 1 / (1 + 2 * 0.5**0.5 + 2 * 0.5)
    assert amplitude_at(loaded, 500.0) == pytest.approx(0.8 * centre, rel=1e-3)
    assert amplitude_at(loaded, 50.0) < 1e-3


# --- containers


@pytest.mark.parametrize(
    ("name", "codec", "rate", "video", "layout"),
    [
        ("a.mp3", "libmp3lame", 44100, False, "stereo"),
        ("a.m4a", "aac", 44100, False, "stereo"),
        ("a.ogg", "libopus", 48000, False, "mono"),
        ("a.webm", "libopus", 48000, False, "stereo"),
        ("a.flac", "flac", 22050, False, "stereo"),
        ("a.mp4", "aac", 48000, True, "stereo"),
        ("a.mkv", "aac", 44100, True, "mono"),
        ("sprachen ü 日本 50%d:x.mp4", "aac", 48000, True, "mono"),
    ],
)
def test_containers(tmp_path: Path, name: str, codec: str, rate: int, video: bool, layout: str) -> None:
    path = encode(tmp_path / name, codec, tone(2.0, rate, 500.0, 0.4), rate, video, layout)
    loaded = load_audio(str(path))
    # lossy codecs pad the end to a whole frame (1024 samples; 20 ms for Opus)
    assert 32000 - 50 <= len(loaded) <= 32000 + 1024
    level = 0.95 if codec == "libmp3lame" else 1.0  # LAME lowers by 5 % against clipping
    assert amplitude_at(loaded, 500.0) == pytest.approx(0.4 * level, rel=0.02)  # lossy, though a tone is easy
    info = probe(path)
    assert info.sampling_rate == rate
    assert info.channels == (2 if layout == "stereo" else 1)
    assert info.duration == pytest.approx(2.0, abs=0.1)
    assert info.codec == {"libmp3lame": "mp3", "libopus": "opus"}.get(codec, codec)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.flac", "flac")]
)
def test_codec_delay_is_removed(tmp_path: Path, name: str, codec: str) -> None:
    """Encoders put up to 2000 samples before the first: kept, they would make every time late."""
    quiet = np.random.default_rng(3).standard_normal(48000).astype(np.float32)
    smooth = (
        np.convolve(quiet, np.ones(24, np.float32) / 24, "same") * 0.3
    )  # speech band: codecs keep its shape
    late = lag(load_audio(encode(tmp_path / name, codec, smooth, 48000), sampling_rate=48000), smooth)
    assert abs(late) <= 1


def test_second_audio_stream_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=SAMPLE_RATE) for _ in range(2)]
        for stream in streams:
            stream.layout = "mono"
        for stream, hertz in zip(streams, (400.0, 900.0), strict=True):
            pcm = (tone(1.0, SAMPLE_RATE, hertz) * 32767).astype(np.int16)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    loaded = load_audio(path)
    assert len(loaded) == SAMPLE_RATE
    assert amplitude_at(loaded, 400.0) == pytest.approx(0.5, rel=1e-3)
    assert amplitude_at(loaded, 900.0) < 1e-3


def test_rate_and_channels_change_midway(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / "a.mp3", "libmp3lame", tone(2.0, 44100, 500.0), 44100, layout="stereo"),
        encode(tmp_path / "b.mp3", "libmp3lame", tone(2.0, 16000, 900.0), 16000),
        encode(tmp_path / "c.mp3", "libmp3lame", tone(2.0, 24000, 700.0), 24000, layout="stereo"),
    ]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # a frame at a join may lack the bits of the one before
        loaded = load_audio(joined)
    assert len(loaded) == pytest.approx(3 * 32000, abs=3 * 3000)  # each join adds an encoder's delay
    for position, hertz in enumerate((500.0, 900.0, 700.0)):
        start = position * len(loaded) // 3
        middle = loaded[start + 4000 : start + 28000]
        assert amplitude_at(middle, hertz) == pytest.approx(0.5 * 0.95, rel=0.02)  # LAME's 5 %


def test_a_resampler_that_is_replaced_gives_up_its_tail() -> None:
    parts = [
        (48000, np.ones(4800, np.float32)),
        (16000, np.ones(100, np.float32)),
        (8000, np.ones(800, np.float32)),
    ]
    assert sum(len(part) for part in module._resample(parts, 16000)) == 1600 + 100 + 1600


def test_a_colon_makes_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wav16(tmp_path / "concat:a.wav", noise16(50))
    assert len(load_audio("concat:a.wav")) == 50


# --- blocks


@pytest.mark.parametrize("block_seconds", [0.1, 0.33333, 1.0, 30.0])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_join_to_the_whole(tmp_path: Path, block_seconds: float, rate: int) -> None:
    path = wav16(tmp_path / "a.wav", noise16(rate * 3 + 17, 2), rate)
    blocks = list(stream_audio(path, block_seconds=block_seconds))
    size = round(block_seconds * SAMPLE_RATE)
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(path))


def test_blocks_hold_no_larger_buffer(tmp_path: Path) -> None:
    """A view would keep its batch alive for as long as the block."""
    path = wav16(tmp_path / "a.wav", noise16(48000))
    assert all(block.base is None for block in stream_audio(path, block_seconds=0.1))


def test_streaming_reads_only_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wav16(tmp_path / "a.wav", noise16(SAMPLE_RATE * 60))
    decoded = 0
    original = module._mono

    def counting(frame: Any, name: str) -> np.ndarray:
        nonlocal decoded
        decoded += frame.samples
        return original(frame, name)

    monkeypatch.setattr(module, "_mono", counting)
    blocks = stream_audio(path, block_seconds=2.0)
    next(blocks)
    assert isinstance(blocks, Iterator)
    assert decoded < 4 * SAMPLE_RATE
    assert sum(len(block) for block in blocks) == 58 * SAMPLE_RATE


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_rate": 0},
        {"sampling_rate": -1},
        {"block_seconds": 0},
        {"block_seconds": -2.0},
        {"block_seconds": float("nan")},
        {"block_seconds": float("inf")},
        {"block_seconds": 1e-9},
    ],
)
def test_bad_options_raise_before_iterating(tmp_path: Path, options: dict[str, Any]) -> None:
    path = wav16(tmp_path / "a.wav", noise16(10))
    with pytest.raises(OptionError, match=next(iter(options))):
        stream_audio(path, **options)


# --- nothing there, or damage


def test_no_samples_is_empty(tmp_path: Path) -> None:
    loaded = load_audio(wav16(tmp_path / "a.wav", noise16(0)))
    assert loaded.shape == (0,)
    assert loaded.dtype == np.float32
    assert list(stream_audio(tmp_path / "a.wav")) == []


def video_only(folder: Path) -> Path:
    path = folder / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
        )
        container.mux(stream.encode(None))
    return path


def holding(name: str, data: bytes) -> Any:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def headless_m4a(folder: Path) -> Path:
    """Cut before its index, which comes last."""
    path = encode(folder / "cut.m4a", "aac", tone(2.0, SAMPLE_RATE), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def flac_header(folder: Path) -> Path:
    """A header that announces two seconds, and none of them."""
    path = encode(folder / "header.flac", "flac", tone(2.0, SAMPLE_RATE), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:42])
    return path


def damaged(folder: Path, hit: slice) -> Path:
    """Four seconds in 64 ms packets, some of them overwritten in place."""
    path = encode(folder / "damaged.m4a", "aac", tone(4.0, SAMPLE_RATE), SAMPLE_RATE)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in places[hit]:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "absent.wav", "no such file"),
        (lambda folder: folder, "is a folder"),
        (holding("zero.wav", b""), "0 bytes"),
        (holding("text.wav", b"This is not a recording.\n" * 40), "not a recording"),
        (lambda folder: holding("a.wav", b"x")(folder) / "below.wav", "cannot be reached"),
        (lambda folder: f"{folder}/nul\0.wav", "cannot be reached"),
        (lambda folder: "https://example.org/a.wav", "not fetched"),
        (video_only, "no audio stream"),
        (headless_m4a, "not a recording"),
        (flac_header, "not a recording"),
        (lambda folder: damaged(folder, slice(None)), "nothing could be decoded"),
    ],
)
def test_unreadable(tmp_path: Path, make: Any, problem: str) -> None:
    path = make(tmp_path)
    with pytest.raises(AudioError, match=problem) as caught:
        load_audio(path)
    assert os.path.basename(str(path)).replace("\0", "\\x00") in str(caught.value)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wav16(tmp_path / "locked.wav", noise16(100))

    def refuse(name: str, **_: Any) -> None:  # root, as in many containers, may read anything
        raise av.error.PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(AudioError, match=r"locked\.wav: permission denied"):
        load_audio(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("channels", [1, 2])
def test_not_finite_names_the_time(tmp_path: Path, value: float, channels: int) -> None:
    samples = np.zeros((SAMPLE_RATE * 2, channels), "<f4")
    samples[20000, -1] = value
    path = write_wav(tmp_path / "a.wav", samples.tobytes(), FLOAT, 32, channels, SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"a\.wav.*1\.250 s"):
        load_audio(path)


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.flac", "flac")])
def test_truncated_gives_what_is_left(tmp_path: Path, name: str, codec: str) -> None:
    path = encode(tmp_path / name, codec, tone(8.0, SAMPLE_RATE), SAMPLE_RATE)
    whole = load_audio(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(AudioWarning, match=name):
        left = load_audio(path)
    assert 2 * SAMPLE_RATE < len(left) < 6 * SAMPLE_RATE
    sound = len(left) - 8192  # the last frame may be half there (a FLAC block is up to 4608 samples)
    np.testing.assert_array_equal(left[:sound], whole[:sound])


def test_truncated_m4a_with_its_index_first(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.m4a", "aac", tone(8.0, SAMPLE_RATE), SAMPLE_RATE)
    path = tmp_path / "a.m4a"
    with av.open(str(source)) as old, av.open(str(path), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream("aac", rate=SAMPLE_RATE)
        stream.layout = "mono"
        for frame in old.decode(audio=0):
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.warns(AudioWarning, match=r"a\.m4a.*(damaged from|ends at) \d+\.\d+ s"):
        left = load_audio(path)
    assert 2 * SAMPLE_RATE < len(left) < 7 * SAMPLE_RATE


def test_truncated_wav(tmp_path: Path) -> None:
    """FFmpeg takes a WAV's length from the file's size: what is there is all it sees."""
    path = wav16(tmp_path / "a.wav", noise16(SAMPLE_RATE))
    path.write_bytes(path.read_bytes()[: 44 + SAMPLE_RATE])  # half of it
    assert len(load_audio(path)) == SAMPLE_RATE // 2


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    path = damaged(tmp_path, slice(30, 33))
    with pytest.warns(AudioWarning, match=r"damaged\.m4a: damaged from (1\.[89]|2\.0)\d s on .*packets: 3"):
        loaded = load_audio(path)
    assert 3.7 * SAMPLE_RATE <= len(loaded) <= 3.9 * SAMPLE_RATE  # three packets of 64 ms are missing
    assert amplitude_at(loaded[-SAMPLE_RATE:], 440.0) == pytest.approx(0.5, rel=0.02)


def test_a_container_that_fails_midway_is_flushed(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", "libmp3lame", tone(2.0, 16000), 16000)
    packets = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]

        class Failing:
            def demux(self, _: Any) -> Iterator[Any]:
                yield from list(container.demux(stream))[:10]
                raise av.error.InvalidDataError(1, "broken index", str(path))

        log = module._Log(str(path))
        for packet in module._packets(Failing(), stream, log):
            packets.append(packet)
            module._frames(packet, stream, log)  # must take the flush too
    assert len(packets) == 11
    assert packets[-1] is None
    assert (log.packets, log.reason) == (1, "broken index")


# --- arrays


def test_as_audio_loads_paths(tmp_path: Path) -> None:
    path = wav16(tmp_path / "a.wav", noise16(500))
    np.testing.assert_array_equal(as_audio(path), load_audio(path))
    assert len(as_audio(str(path), 8000)) == 250


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_as_audio_converts(dtype: Any) -> None:
    samples = np.linspace(-1, 1, 64).astype(dtype)[::2]
    result = as_audio(samples)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, samples.astype(np.float32))


def test_as_audio_copies_only_if_it_must() -> None:
    samples = np.zeros(10, np.float32)
    assert as_audio(samples) is samples or np.shares_memory(as_audio(samples), samples)


def test_as_audio_views_foreign_arrays() -> None:
    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.array([0.25, -0.5], np.float32)

    class Unviewable:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            raise RuntimeError("item size 2 does not match")  # as MLX says of bfloat16

    assert as_audio(Foreign()).tolist() == [0.25, -0.5]
    assert as_audio(memoryview(np.array([0.5], np.float32))).tolist() == [0.5]
    with pytest.raises(AudioError, match="Unviewable that NumPy cannot view"):
        as_audio(Unviewable())


def test_as_audio_empty() -> None:
    assert as_audio(np.zeros(0)).shape == (0,)
    assert as_audio([]).dtype == np.float32


@pytest.mark.parametrize(
    ("audio", "problem"),
    [
        (np.zeros((100, 2)), r"average the channels first \(audio\.mean\(axis=1\)\)"),
        (np.zeros((2, 100)), r"average the channels first \(audio\.mean\(axis=0\)\)"),
        (np.zeros((100, 1)), "average the channels first"),
        (np.float32(0.5), "one-dimensional"),
        (np.zeros((2, 3, 4)), "one-dimensional"),
        (np.zeros(10, np.int16), "divide by 32768"),
        (np.zeros(10, bool), "divide by 32768"),
        (np.zeros(10, complex), "complex128"),
        (None, "of type NoneType.*one-dimensional"),
        (b"RIFF", "of type bytes.*open binary file"),
        ({"array": [0.5]}, "of type dict"),
        (np.array([0.0, -3000.0]), "audio reaches 3000 .* divide those of 16 bits by 32768"),
        ([[0.1], [0.2, 0.3]], "cannot view"),
        (np.array([0, 0, 0, np.nan, np.inf]), "nan at sample 3"),
        (np.array([0, -np.inf]), "-inf at sample 1"),
        (np.array([0, 0, 1e300]), "inf at sample 2"),
    ],
)
def test_as_audio_refuses(audio: Any, problem: str) -> None:
    with pytest.raises(AudioError, match=problem):
        as_audio(audio)


# --- open files and pipes


class Socket:
    """What comes bit by bit and is gone then."""

    def __init__(self, path: Path) -> None:
        self.bytes = io.BytesIO(path.read_bytes())

    def read(self, count: int = -1) -> bytes:
        return self.bytes.read(count)


@pytest.mark.parametrize("read", [load_audio, as_audio, lambda f: np.concatenate([*stream_audio(f)])])
def test_open_files(tmp_path: Path, read: Any) -> None:
    path = encode(tmp_path / "a.mp4", "aac", tone(1.0, 44100), 44100, video=True)  # its index lies at the end
    expected = load_audio(path)
    data = io.BytesIO(path.read_bytes())
    with path.open("rb") as file:
        for source in (data, data, file, Socket(path)):
            np.testing.assert_array_equal(read(source), expected)
    assert probe(data) == probe(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_holds_any_container(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "aac", tone(1.0, 44100), 44100, video=True)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(path.read_bytes()))
    writer.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe"), load_audio(path))
    writer.join()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("no sound")
    with path.open() as file, pytest.raises(AudioError, match=r"a\.txt: is open as text"):
        load_audio(file)  # type: ignore[arg-type]
    with path.open("rb") as file, pytest.raises(AudioError, match=r"a\.txt: not a recording"):
        load_audio(file)
    with pytest.raises(AudioError, match="the BytesIO: not a recording"):
        load_audio(io.BytesIO())


# --- probe


def test_probe(tmp_path: Path) -> None:
    info = probe(wav16(tmp_path / "a.wav", noise16(22050, 2), 44100))
    assert (info.duration, info.sampling_rate, info.channels, info.codec) == (0.5, 44100, 2, "pcm_s16le")
    with pytest.raises(AudioError, match="no such file"):
        probe(tmp_path / "absent.wav")
