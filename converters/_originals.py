"""The originals themselves, for a certificate: the one place of the package that imports torch, when asked to.

Only ``mlx-convert convert --certify`` comes here; needs the ``convert`` extra, and for pyannote's and CTranslate2's
files their own packages. Running an original may run its file's code (TorchScript does): it is asked for by name.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech.converters._certificate import Stages
from mlx_speech.errors import OptionError
from mlx_speech.loading import Opened

Run = Callable[[Opened, Mapping[str, np.ndarray]], Stages]


def run_original(opened: Opened, inputs: Mapping[str, np.ndarray]) -> tuple[str, Stages]:
    """What the original makes of the inputs, and which package made it.

    Raises:
        OptionError: there is no way to run this layout's original here.
    """
    for pattern, (package, run) in _ORIGINALS.items():
        if fnmatch.fnmatchcase(opened.layout, pattern):
            try:
                stages = run(opened, inputs)
            except ImportError as error:
                raise OptionError(
                    f"--certify: needs {package} to run the original ({error}): pip install "
                    f"'mlx-speech-pipeline[convert]' {package}"
                ) from error
            except Exception as error:  # whatever a foreign package makes of a foreign file
                raise OptionError(
                    f"--certify: {package} cannot run {opened.tensors.path}: {type(error).__name__}: {error}; "
                    "convert without --certify"
                ) from error
            versions = (f"{p} {importlib.metadata.version(p)}" for p in (package, *_BENEATH.get(package, ())))
            return ", ".join(versions), stages
    raise OptionError(
        f"--certify: the original of layout {opened.layout} cannot be run; known: {', '.join(_ORIGINALS)}"
    )


def _hf_whisper(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(
        str(opened.folder), dtype=torch.float32, local_files_only=True, attn_implementation="eager"
    ).eval()
    mel = torch.from_numpy(x["mel"]).transpose(1, 2).contiguous()
    with torch.inference_mode():
        out = model(input_features=mel, decoder_input_ids=torch.from_numpy(x["tokens"]).long())
    return {"encoder": out.encoder_last_hidden_state.numpy(), "logits": out.logits.numpy()}


def _openai_whisper(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import torch
    import whisper

    model = whisper.load_model(str(opened.tensors.path), device="cpu").float().eval()
    mel = torch.from_numpy(x["mel"]).transpose(1, 2).contiguous()
    with torch.inference_mode():
        features = model.encoder(mel)
        logits = model.decoder(torch.from_numpy(x["tokens"]).long(), features)
    return {"encoder": features.numpy(), "logits": logits.numpy()}


def _ctranslate2(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    """Its encoder, in float32 arithmetic: it gives out no logits of given tokens."""
    import ctranslate2

    model = ctranslate2.models.Whisper(str(opened.folder), device="cpu", compute_type="float32")
    mel = np.ascontiguousarray(x["mel"].transpose(0, 2, 1))
    return {"encoder": np.array(model.encode(ctranslate2.StorageView.from_array(mel)))}


def _hf_ctc(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import torch
    from transformers import HubertForCTC, Wav2Vec2ForCTC

    kind = HubertForCTC if "hubert" in opened.layout else Wav2Vec2ForCTC
    model = kind.from_pretrained(str(opened.folder), dtype=torch.float32, local_files_only=True).eval()
    base = model.hubert if "hubert" in opened.layout else model.wav2vec2
    audio = torch.from_numpy(x["audio"])
    with torch.inference_mode():
        frames = base.feature_extractor(audio).transpose(1, 2)
        return {"convolutions": frames.numpy(), "logits": model(audio).logits.numpy()}


def _hf_whisper_ctc(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    """The encoder alone, with as many of its positions as there are frames, and the head."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    extract = WhisperFeatureExtractor(opened.config.n_mels)
    options: dict[str, Any] = {"sampling_rate": 16_000, "padding": False, "truncation": False}
    mel = torch.stack([extract(row, return_tensors="pt", **options).input_features[0] for row in x["audio"]])
    settings = WhisperConfig.from_pretrained(str(opened.folder), local_files_only=True)
    settings.max_source_positions = frames = mel.shape[-1] // 2
    weights = {k: torch.from_numpy(np.array(v.astype(mx.float32))) for k, v in opened.tensors.items()}
    weights["encoder.embed_positions.weight"] = weights["encoder.embed_positions.weight"][:frames]
    encoder = WhisperEncoder(settings).eval()
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if "lm_head" not in k})
    with torch.inference_mode():
        features = encoder(mel).last_hidden_state
        logits = features @ weights["lm_head.weight"].T + weights["lm_head.bias"]
    return {
        "spectrogram": mel.transpose(1, 2).numpy(),
        "encoder": features.numpy(),
        "logits": logits.numpy(),
    }


def _pyannote(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import torch
    from pyannote.audio import Model

    model = Model.from_pretrained(str(opened.tensors.path)).eval()
    with torch.inference_mode():
        out = model(torch.from_numpy(x["audio"])[:, None])
    return {"embedding" if opened.family.name == "wespeaker" else "scores": out.numpy()}


def _silero_script(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import torch

    model = torch.jit.load(str(opened.tensors.path), map_location="cpu").eval()
    with torch.inference_mode():
        return {"probabilities": model.audio_forward(torch.from_numpy(x["audio"]), 16_000).numpy()}


def _onnx(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    """Silero's graphs take one chunk at a time, its context in front, and the LSTM's state."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(opened.tensors.path), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    if not {"input", "state"} <= names:
        raise OptionError(
            f"--certify: {opened.tensors.path.name} takes {sorted(names)}, not chunks and a state"
        )
    audio = np.pad(x["audio"], [(0, 0), (0, -x["audio"].shape[1] % 512)])
    state, context, found = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32), []
    for start in range(0, audio.shape[1], 512):
        chunk = audio[:, start : start + 512]
        fed: dict[str, Any] = {"input": np.concatenate([context, chunk], axis=1), "state": state}
        if "sr" in names:
            fed["sr"] = np.array(16_000, np.int64)
        probability, state = session.run(None, fed)
        context = chunk[:, -64:]
        found.append(probability.reshape(1, 1))
    return {"probabilities": np.concatenate(found, axis=1)}


def _kaldi_features(audio: np.ndarray) -> Any:
    """WeSpeaker's features of 16 kHz audio, by torchaudio, less their mean: (B, L) → (B, T, 80)."""
    import torch
    from torchaudio.compliance import kaldi

    settings = {"num_mel_bins": 80, "dither": 0.0, "window_type": "hamming", "use_energy": False}
    rows = (kaldi.fbank(row[None] * 32768, **settings) for row in torch.from_numpy(audio))
    features = torch.stack([*rows])
    return features - features.mean(dim=1, keepdim=True)


def _wespeaker(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    """WeSpeaker's own checkpoint in its network, as pyannote.audio carries it."""
    import torch
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet

    c = opened.config
    net = ResNet(
        Bottleneck if c.bottleneck else BasicBlock,
        list(c.blocks), c.channels, c.n_mels, c.embedding, two_emb_layer=c.two_layers,
    )  # fmt: skip
    state = torch.load(opened.tensors.path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    net.load_state_dict({k.removeprefix("resnet."): v for k, v in state.items() if "projection" not in k})
    features = _kaldi_features(x["audio"])
    with torch.inference_mode():
        frames = net.eval().forward_frames(features)
        return {
            "fbank": features.numpy(),
            "trunk": frames.flatten(1, 2).swapaxes(1, 2).numpy(),
            "embedding": net(features)[-1].numpy(),
        }


def _wespeaker_onnx(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(opened.tensors.path), providers=["CPUExecutionProvider"])
    features = _kaldi_features(x["audio"]).numpy()
    made = session.run(None, {session.get_inputs()[0].name: features})
    return {"fbank": features, "embedding": made[-1]}


def _mlx_whisper(opened: Opened, x: Mapping[str, np.ndarray]) -> Stages:
    """MLX's own port, in float32."""
    import mlx.core as mx
    from mlx_whisper.load_models import load_model

    model = load_model(str(opened.folder), dtype=mx.float32)
    features = model.encoder(mx.array(x["mel"]))
    logits = model.decoder(mx.array(x["tokens"]), features)[0]
    return {k: np.array(v.astype(mx.float32)) for k, v in {"encoder": features, "logits": logits}.items()}


# what an original computes with, where that is another package
_BENEATH = {
    "transformers": ("torch",),
    "openai-whisper": ("torch",),
    "pyannote.audio": ("torch",),
    "mlx-whisper": ("mlx",),
}

# a layout's name: (the package that runs it, how)
_ORIGINALS: dict[str, tuple[str, Run]] = {
    "whisper-huggingface": ("transformers", _hf_whisper),
    "whisper-ctc-*": ("transformers", _hf_whisper_ctc),
    "whisper-openai": ("openai-whisper", _openai_whisper),
    "whisper-ctranslate2": ("ctranslate2", _ctranslate2),
    "whisper-mlx": ("mlx-whisper", _mlx_whisper),
    "wav2vec2-*": ("transformers", _hf_ctc),
    "pyannet-*": ("pyannote.audio", _pyannote),
    "wespeaker-pyannote": ("pyannote.audio", _pyannote),
    "wespeaker-onnx*": ("onnxruntime", _wespeaker_onnx),
    "wespeaker": ("pyannote.audio", _wespeaker),
    "silero-onnx*": ("onnxruntime", _onnx),
    "silero-jit": ("torch", _silero_script),
}
