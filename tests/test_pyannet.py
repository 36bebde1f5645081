"""PyanNet: tiny checkpoints as Lightning saves them, with the original's output, and the bundled weights. The
fixture is made by parity/fixtures_pyannet.py with pyannote.audio.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_speech.converters._read import open_tensors
from mlx_speech.converters.pyannet import LIGHTNING
from mlx_speech.errors import AudioError, CheckpointError
from mlx_speech.layers import recurrence, sincnet
from mlx_speech.layers.lstm import LSTM, DeepLSTM, LSTMLayer
from mlx_speech.layers.sincnet import receptive_field
from mlx_speech.loading import load, open_checkpoint
from mlx_speech.models.pyannet import PyanNet, PyanNetConfig

FIXTURES = Path(__file__).parent / "fixtures/pyannet"
ATOL = {"powerset": 1e-4, "multilabel": 1e-4}  # of log-probabilities and of probabilities


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "expected.npz") as file:
        return {k: file[k].astype(np.float32) if k == "audio" else file[k] for k in file}


@pytest.fixture(scope="module")
def tiny() -> PyanNet:
    return load(f"path:{FIXTURES / 'powerset.bin'}")


@pytest.fixture(scope="module")
def bundled() -> PyanNet:
    return load("segmentation-3.0")


# --- against the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["powerset", "multilabel"])
def test_scores_equal_the_original(name, expected):
    model = load(f"path:{FIXTURES / name}.bin")
    found = np.array(model(mx.array(expected["audio"])))
    assert found.shape == expected[name].shape
    np.testing.assert_allclose(found, expected[name], rtol=0, atol=ATOL[name])


def test_filters_equal_the_original(tiny, expected):
    np.testing.assert_allclose(tiny.sincnet.filters, expected["filters"], rtol=0, atol=1e-5)


def test_configurations_come_from_the_checkpoints(tiny):
    config = tiny.config
    assert (config.num_speakers, config.max_simultaneous, config.duration) == (3, 2, 10.0)
    assert (config.lstm_hidden, config.lstm_layers, config.bidirectional) == (6, 3, True)
    other = open_checkpoint(FIXTURES / "multilabel.bin")
    assert other.layout == "pyannet-lightning-split-forward"
    assert not other.config.powerset
    assert (other.config.stride, other.config.linear_layers, other.config.num_classes) == (5, 0, 3)


def test_compiled_polynomial_and_plain_steps_agree(expected, monkeypatch, tiny):
    audio = mx.array(expected["audio"])
    whole = np.array(tiny(audio))  # where numba is installed, by its loops
    monkeypatch.setattr("mlx_speech.layers.lstm.kernels", lambda: None)
    monkeypatch.setattr("mlx_speech.layers.sincnet.kernels", lambda: None)
    for least in (0, 1 << 40):
        monkeypatch.setattr("mlx_speech.layers.lstm._POLYNOMIAL", least)
        np.testing.assert_allclose(tiny(audio), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("samples", [16000, 16007, 15999])
def test_sincnet_on_a_gpu_hears_the_same(bundled, monkeypatch, rounds, samples):
    """The two ways of a GPU, run on the CPU: by convolutions, and by products."""
    audio = mx.random.normal((2, samples), key=mx.random.key(0)) * 0.1
    wanted = np.array(bundled.sincnet(audio))
    monkeypatch.setattr(sincnet, "slow_functions", lambda: False)
    for compiled, plain in (
        ("_highest", sincnet._highest_of),
        ("_highest_size", sincnet._highest_size_of),
        ("_distance", sincnet._squared_distance),
        ("_scale", sincnet._scaled),
    ):
        monkeypatch.setattr(sincnet, compiled, plain)  # compiling for a CPU takes a C++ compiler
    monkeypatch.setattr("mlx_speech.runtime.rounds_products", lambda: rounds)
    np.testing.assert_allclose(bundled.sincnet(audio), wanted, rtol=0, atol=2e-5)


# --- the bundled weights ----------------------------------------------------------------------------------


def test_bundled_hears_silence_and_takes_any_length(bundled):
    found = np.array(bundled(mx.zeros((2, 160000))))
    assert found.shape == (2, 589, 7)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-5)
    assert (found.argmax(-1) == 0).all(), "silence is nobody"
    assert bundled(mx.zeros((1, 32000))).shape == (1, bundled.config.num_frames(32000), 7)


def test_bundled_config_tells_frames_and_sets(bundled):
    config = bundled.config
    assert config.speaker_sets == ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
    assert config.window_samples == 160000
    assert config.num_frames(160000) == 589
    assert config.frame_step == 0.016875
    assert config.frame_duration == 0.0619375
    assert bundled.origin.layout == "mlx_speech"


def test_batch_and_blocks_do_not_show(bundled, monkeypatch):
    audio = mx.array(np.random.default_rng(1).normal(0, 0.1, (5, 16000)).astype(np.float32))
    whole = np.array(bundled(audio))
    monkeypatch.setattr("mlx_speech.models.pyannet._BLOCK", 2)
    monkeypatch.setattr("mlx_speech.models.pyannet._LOOPS_BLOCK", 2)
    np.testing.assert_allclose(bundled(audio), whole, rtol=0, atol=2e-4)
    np.testing.assert_allclose(bundled(audio[3:4])[0], whole[3], rtol=0, atol=2e-4)
    assert bundled(audio[:0]).shape == (0, whole.shape[1], 7)


# --- odd input --------------------------------------------------------------------------------------------


def test_one_frame_is_the_least(tiny):
    least = receptive_field(10)[0]
    assert least == 991
    assert tiny(mx.zeros((1, least))).shape == (1, 1, 7)
    with pytest.raises(AudioError, match="991"):
        tiny(mx.zeros((1, least - 1)))
    with pytest.raises(AudioError, match="dimensions"):
        tiny(mx.zeros(16000))
    with pytest.raises(AudioError, match="int16"):
        tiny(mx.zeros((1, 16000), mx.int16))


# --- bad checkpoints --------------------------------------------------------------------------------------


def _rewritten(path: Path, target: Path, old: bytes, new: bytes) -> Path:
    """A checkpoint whose pickle has other bytes in it, of the same length."""
    assert len(old) == len(new)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            out.writestr(info.filename, data)
    return target


def test_renamed_key_is_named(tmp_path):
    file = _rewritten(FIXTURES / "powerset.bin", tmp_path / "a.bin", b"weight_hh_l1", b"weight_xx_l1")
    with pytest.raises(CheckpointError, match="weight_xx_l1"):
        open_checkpoint(file, "pyannet")


def test_unusable_specifications_are_refused(tmp_path):
    for old, new, reason in (
        (b"powerset_max_classes", b"powerset_max_klasses", "problem 1"),
        (b"hyper_parameters", b"hyper_parametres", "hyper-parameters"),
        (b"core.task\nSpecifications", b"core.task\nSpecificationz", "no classes"),
    ):
        file = _rewritten(FIXTURES / "powerset.bin", tmp_path / "a.bin", old, new)
        with pytest.raises(CheckpointError, match=reason):
            open_checkpoint(file, "pyannet")


def test_nothing_in_a_pickle_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    payload = pickle.dumps({"state_dict": {}, "x": Evil()}, protocol=2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("archive/data.pkl", payload)
    file = tmp_path / "evil.bin"
    file.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        open_tensors(file)
    assert not (tmp_path / "ran").exists()


def test_every_parameter_has_a_rule(tiny):
    targets = {t for rule in LIGHTNING.rules for t in rule.target_patterns}
    for key, _ in tree_flatten(tiny.parameters()):
        parts = [p if not p.isdigit() else "{i}" for p in key.split(".")]
        assert key in targets or ".".join(parts) in targets, key


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_speakers": 0},
        {"num_speakers": True},
        {"max_simultaneous": 4},
        {"lstm_layers": 0},
        {"linear_layers": -1},
        {"duration": 0},
        {"sampling_rate": 8000},
    ],
)
def test_configurations_are_checked_and_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PyanNetConfig(**{"num_speakers": 3, **wrong})


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
@pytest.mark.parametrize("hidden", [4, 7])
def test_an_lstm_by_loops_equals_float64(batch, hidden):
    """Any number of sequences and outputs: fours, pairs and what is left over, in both directions."""
    layer = LSTMLayer(5, hidden, 2)
    layer.bias = mx.random.normal(layer.bias.shape)
    x = mx.random.normal((batch, 9, 5))
    w, r, b = (np.array(a, np.float64) for a in (layer.weight_ih, layer.weight_hh, layer.bias))
    gates = np.einsum("bti,dgi->btdg", np.array(x, np.float64), w) + b
    zeros = np.zeros((2, batch, hidden))
    wanted = recurrence.reference(gates, r, zeros, zeros)[0].reshape(batch, 9, -1)
    np.testing.assert_allclose(layer(x), wanted, rtol=0, atol=1e-6)
    one = LSTM(5, hidden)
    one.weight_ih, one.weight_hh, one.bias = layer.weight_ih[0], layer.weight_hh[0], layer.bias[0]
    first, state = one(x[:, :4])
    second, _ = one(x[:, 4:], state)
    joined = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(joined, wanted[..., :hidden], rtol=0, atol=1e-6)


def test_deep_lstm_equals_single_directions():
    deep = DeepLSTM(3, 4, 2, bidirectional=True)
    x = mx.random.normal((2, 150, 3))
    y = x
    for layer in deep.layers:
        ways = []
        for n in range(2):
            one = LSTM(y.shape[-1], 4)
            one.weight_ih, one.weight_hh = layer.weight_ih[n], layer.weight_hh[n]
            one.bias = layer.bias[n]
            out, _ = one(y[:, ::-1] if n else y)
            ways.append(out[:, ::-1] if n else out)
        y = mx.concatenate(ways, axis=-1)
    np.testing.assert_allclose(deep(x), y, rtol=0, atol=1e-5)
