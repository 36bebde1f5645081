"""Onto the Hub and back, by the Hub's real client against a small server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

_CONNECT = socket.socket.connect  # before the tests' guard against the network

import mlx_speech  # isort: skip  # noqa: E402, F401  (first: it loads the BLAS)

import importlib.util  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.utils import _http  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from mlx_speech.converters._certificate import fixed_inputs, run_stages, verify  # noqa: E402
from mlx_speech.converters._publish import upload  # noqa: E402
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint  # noqa: E402
from mlx_speech.converters.cli import app  # noqa: E402
from mlx_speech.errors import CheckpointError, ModelNotFoundError, OutputError  # noqa: E402
from mlx_speech.hub import absent  # noqa: E402
from mlx_speech.loading import load, open_checkpoint  # noqa: E402

_SPEC = importlib.util.spec_from_file_location("hub_server", Path(__file__).parent / "hub_server.py")
hub_server = importlib.util.module_from_spec(_SPEC)
import sys  # noqa: E402

sys.modules["hub_server"] = hub_server
_SPEC.loader.exec_module(hub_server)
Hub, TOKEN, READ_ONLY = hub_server.Hub, hub_server.TOKEN, hub_server.READ_ONLY

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
NAME = "org/tiny"
# the client's own use of its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("made") / "tiny"
    opened = open_checkpoint(FIXTURES / "ctranslate2")
    convert_checkpoint(opened, target, "test", ConvertOptions(shard_bytes=20_000))
    return target


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A running Hub that the client takes for its own, an empty cache, and a token that may write."""

    def local(self: socket.socket, address: object) -> None:
        assert address[0] == "127.0.0.1", f"a test reached for the network: {address}"
        _CONNECT(self, address)

    hub = Hub()
    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)  # the client waits between its own tries
    _http.close_session()
    yield hub
    _http.close_session()
    hub.close()


def test_up_and_down_again(hub, folder, capsys, caplog):
    url = upload(folder, NAME)
    repo = hub.repos[NAME]
    assert f'model="hub:{NAME}"'.encode() in repo.files["README.md"]
    assert url == f"{hub.url}/{NAME}/commit/{repo.sha}"
    assert len(repo.commits) == 2, "the repository's making, and one commit"
    assert repo.files == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert hub.seen["store"] == len([*folder.glob("*.safetensors")]) > 2
    model, local = load(NAME, dtype="float32"), load(f"path:{folder}", dtype="float32")
    assert {p.name: p.read_bytes() for p in model.origin.folder.glob("*.safetensors")} == {
        p.name: p.read_bytes() for p in folder.glob("*.safetensors")
    }
    inputs = fixed_inputs("whisper", model.config)
    for key, value in run_stages("whisper", local, inputs).items():
        assert np.array_equal(run_stages("whisper", model, inputs)[key], value), key
    assert max(verify(model.origin.folder).values()) < 1e-5
    told = "".join(capsys.readouterr()) + caplog.text
    assert TOKEN not in told
    assert not [k for k, v in repo.files.items() if TOKEN.encode() in v]


def test_an_existing_repository_gets_one_commit_more(hub, folder):
    upload(folder, NAME)
    before = hub.seen["store"]
    upload(folder, NAME)
    assert hub.seen["store"] == before, "what is there is not sent again"
    assert hub.repos[NAME].files == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_private_is_private(hub, folder, monkeypatch):
    upload(folder, NAME, private=True)
    assert hub.repos[NAME].private
    upload(folder, NAME, private=True)
    assert load(f"hub:{NAME}").origin.layout == "mlx_speech"
    upload(folder, "org/public")
    with pytest.raises(OutputError, match="org/public is there already and public"):
        upload(folder, "org/public", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-2")
    with pytest.raises(ModelNotFoundError, match="no such repository or revision"):
        load(NAME)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "answers 401: no token, or a wrong one; log in"),
        ("hf_wrongwrongwrong", "answers 401: no token, or a wrong one; log in"),
        (READ_ONLY, "answers 403: this token may not write there"),
    ],
)
def test_tokens_that_may_not_write(hub, folder, monkeypatch, token, message):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OutputError, match=f"{NAME}: the Hub {message}") as caught:
        upload(folder, NAME)
    assert caught.value.__cause__ is None
    assert not token or token not in str(caught.value)
    assert not hub.repos


def test_no_network(hub, folder, monkeypatch):
    hub.close()
    with pytest.raises(OutputError, match=f"{NAME}: the Hub cannot be reached"):
        upload(folder, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _http.close_session()
    with pytest.raises(OutputError, match="offline mode is on"):
        upload(folder, NAME)


def test_too_many_requests_are_waited_for_and_then_told(hub, folder):
    hub.fail["batch"] = [429, 503]
    upload(folder, NAME)
    assert hub.seen["batch"] == 3
    hub.fail["commit"] = [429] * 20
    with pytest.raises(OutputError, match="answers 429: too many requests; wait"):
        upload(folder, NAME)
    assert len(hub.repos[NAME].commits) == 2


def test_an_interrupted_upload_goes_on_where_it_was(hub, folder):
    weights = len([*folder.glob("*.safetensors")])
    hub.fail["store"] = [403]
    with pytest.raises(OutputError, match="answers 403"):
        upload(folder, NAME)
    assert hub.repos[NAME].files == {}, "no commit of half the files"
    arrived, tried = len(hub.objects), hub.seen["store"]
    upload(folder, NAME)
    assert hub.seen["store"] - tried == weights - arrived
    assert hub.repos[NAME].files == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_cut_line_is_tried_again(hub, folder):
    hub.fail["store"] = [0]
    upload(folder, NAME)
    assert hub.repos[NAME].files == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_no_converted_folder_is_not_sent(hub, folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"an original \(whisper-huggingface\); convert it first"):
        upload(FIXTURES / "huggingface", NAME)
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).write_bytes(file.read_bytes())
    (linked / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match=r"notes\.txt is a link"):
        upload(linked, NAME)
    assert not hub.repos


def test_names_that_are_none(hub, folder):
    with pytest.raises(OutputError, match=r"a/b/c: not a repository's name \(org/name\)"):
        upload(folder, "a/b/c")


def test_inspecting_a_repository_fetches_headers_only(hub, tmp_path):
    made = tmp_path / "made"
    opened = open_checkpoint(FIXTURES.parent / "wespeaker/bottleneck.pt")
    convert_checkpoint(opened, made, "test", ConvertOptions(mx.float32))
    files = {p.name: p.read_bytes() for p in made.iterdir()}
    weights = files["model.safetensors"]
    length = 8 + int.from_bytes(weights[:8], "little")
    hub.repos[NAME] = hub_server.Repo(False, [files])
    here = CliRunner().invoke(app, ["inspect", str(made)]).stdout
    done = CliRunner().invoke(app, ["inspect", NAME])
    assert done.exit_code == 0, done.output
    assert done.stdout == here
    assert 0 < hub.seen["bytes of model.safetensors"] <= max(length, 100_001) < len(weights)
    assert absent(NAME) == (NAME, None), "nothing of it counts as fetched"
    assert load(NAME).origin.layout == "mlx_speech"
    assert absent(NAME) is None


def test_headers_of_shards_are_enough_too(hub, folder):
    hub.repos[NAME] = hub_server.Repo(False, [{p.name: p.read_bytes() for p in folder.iterdir()}])
    done = CliRunner().invoke(app, ["inspect", f"hub:{NAME}@{hub.repos[NAME].sha}"])
    assert done.exit_code == 0, done.output
    assert done.stdout == CliRunner().invoke(app, ["inspect", str(folder)]).stdout
    with pytest.raises(ModelNotFoundError, match="org/none: no such repository"):
        CliRunner().invoke(app, ["inspect", "org/none"], catch_exceptions=False)


@pytest.mark.parametrize("name", ["silero-vad", "whisper-tyni", "path:/x", "/tmp", "./a/b"])
def test_what_is_here_or_nowhere_is_not_fetched(name):
    assert absent(name) is None


def test_a_repository_of_one_onnx_is_fetched(hub):
    file = FIXTURES.parent / "wespeaker/model.onnx"
    hub.repos["org/onnx"] = hub_server.Repo(False, [{"model.onnx": file.read_bytes(), "sub/b.onnx": b""}])
    assert load("org/onnx").origin.layout == "wespeaker-onnx"
    hub.repos["org/two"] = hub_server.Repo(False, [{"a.onnx": b"", "b.onnx": b""}])
    with pytest.raises(ModelNotFoundError, match=r"org/two holds neither.*one file alone of \*\.pt"):
        load("org/two")


def test_the_commands(hub, folder, tmp_path):
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    source = str(FIXTURES / "huggingface")
    told = run(
        "convert", source, str(tmp_path / "m"), "--dtype", "float16", "--upload-repo", NAME, "--private"
    )
    assert hub.repos[NAME].private
    assert f"{NAME}/commit/" in told.replace("\n", "")
    assert "verified" in run("verify", str(tmp_path / "m"))
    assert "verified" in run("verify", f"hub:{NAME}")
    assert "commit" in run("upload", str(folder), "org/other")
    # a Hub repository as the source, at a revision
    sha = hub.repos[NAME].sha
    run("convert", NAME, str(tmp_path / "again"), "--revision", sha)
    assert f'"revision": "{sha}"' in (tmp_path / "again/config.json").read_text()
    assert TOKEN not in told
