"""The two aligners, in PyTorch: audio (B, S) to log-probabilities (B, T, 32), a frame every 320 samples."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.audio_utils import mel_filter_bank

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
STRIDE, RATE = 320, 16000


class Mini(nn.Module):
    """wav2vec2's base layout, made small: 11.3 M parameters. Frame t is centred on sample 320 t + 200."""

    centre = 200
    head = "lm_head"

    def __init__(self, tiny: bool = False) -> None:
        super().__init__()
        wide, hidden, layers, heads, inner = (32, 64, 2, 4, 128) if tiny else (256, 320, 8, 5, 1216)
        self.config = Wav2Vec2Config(
            vocab_size=len(TOKENS), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=inner, conv_dim=(wide,) * 7, conv_stride=(5, 2, 2, 2, 2, 2, 2),
            conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_bias=False, feat_extract_norm="group",
            do_stable_layer_norm=False, num_conv_pos_embeddings=96, num_conv_pos_embedding_groups=16,
            hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, feat_proj_dropout=0.05,
            final_dropout=0.05, layerdrop=0.0, mask_time_prob=0.05, mask_feature_prob=0.0,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        self.net = Wav2Vec2ForCTC(self.config)

    def frames(self, samples: int) -> int:
        """How many frames so many samples have."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def forward(self, audio: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (B, T) marks frames that are not shown."""
        x = (audio - audio.mean(1, keepdim=True)) / (audio.std(1, keepdim=True) + 1e-7)
        hidden = self.net.wav2vec2(x, mask_time_indices=mask)[0]
        return self.net.lm_head(self.net.dropout(hidden)).float().log_softmax(-1)

    def weights(self) -> dict[str, Tensor]:
        """By their names in transformers."""
        return self.net.state_dict()

    def take(self, weights: dict[str, Tensor]) -> None:
        """Load strictly."""
        self.net.load_state_dict(weights)

    def write_config(self, folder: Path) -> None:
        """config.json and what the processor wants."""
        self.net.config.save_pretrained(folder)


class Attention(nn.Module):
    """Self-attention with Whisper's names."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(size, size) for _ in range(3))
        self.k_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        parts = (
            f(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of the encoder."""

    def __init__(self, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.self_attn = Attention(size, heads)
        self.fc1, self.fc2 = nn.Linear(size, inner), nn.Linear(inner, size)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        x = x + self.drop(self.self_attn(self.self_attn_layer_norm(x)))
        return x + self.drop(self.fc2(self.drop(functional.gelu(self.fc1(self.final_layer_norm(x))))))


class Encoder(nn.Module):
    """Whisper's encoder, its positions cut to the window's length."""

    def __init__(self, size: int, heads: int, inner: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, size, 3, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(1500, size)
        self.embed_positions.requires_grad_(False)
        self.layers = nn.ModuleList(Block(size, heads, inner) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(size)

    def forward(self, mel: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """(B, 80, 2 T) to (B, T, D): what the last layer says, and what the first ``depth`` layers say."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for n, layer in enumerate(self.layers, 1):
            x = layer(x)
            if n == depth:
                early = x
        return self.layer_norm(x), self.layer_norm(early)


class WhisperCTC(nn.Module):
    """Whisper tiny.en's encoder, a layer more, a CTC head: 10.0 M parameters. Frame t is centred on sample 320 t.

    Layers above Whisper's own 4 (``layers`` in all) begin as the identity.
    """

    centre = 0
    head = "lm_head"

    def __init__(self, tiny: bool = False, layers: int = 0) -> None:
        super().__init__()
        size, heads, inner, self.theirs = (384, 6, 1536, 4) if not tiny else (64, 2, 128, 2)
        layers = layers or self.theirs
        self.config = {
            "model_type": "whisper_ctc", "architectures": ["WhisperEncoderForCTC"], "d_model": size,
            "encoder_layers": layers, "encoder_attention_heads": heads, "encoder_ffn_dim": inner,
            "num_mel_bins": 80, "max_source_positions": 1500, "activation_function": "gelu",
            "vocab_size": len(TOKENS), "pad_token_id": 0,
        }  # fmt: skip
        self.encoder = Encoder(size, heads, inner, layers)
        for layer in self.encoder.layers[self.theirs :]:
            for last in (layer.self_attn.out_proj, layer.fc2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.lm_head = nn.Linear(size, len(TOKENS))
        nn.init.normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)
        bank = mel_filter_bank(201, 80, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("bank", torch.from_numpy(bank.T).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    def frames(self, samples: int) -> int:
        """How many frames so many samples have, a multiple of the stride."""
        return samples // STRIDE

    @torch.autocast("cuda", enabled=False)
    def features(self, audio: Tensor) -> Tensor:
        """Whisper's log-mel (B, 80, S / 160), the floor from the window's own loudest."""
        spectrum = torch.stft(audio.float(), 400, 160, window=self.window, return_complex=True)[..., :-1]
        mel = (self.bank @ spectrum.abs().pow(2)).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0)
        return (mel + 4.0) / 4.0

    def forward(self, audio: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (B, T) marks frames that are not shown."""
        return self.heard(audio, mask)[0]

    def heard(self, audio: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log-probabilities, and what Whisper's own layers say (B, T, D)."""
        mel = self.features(audio)
        if mask is not None:
            mel = warped(mel).masked_fill(mask.repeat_interleave(2, 1)[:, None], 0.0)
            bins = torch.arange(80, device=mel.device)[None]
            for _ in range(2):
                low = torch.randint(0, 80, (len(mel), 1), device=mel.device)
                width = torch.randint(0, 14, (len(mel), 1), device=mel.device)
                mel = mel.masked_fill(((bins >= low) & (bins < low + width))[:, :, None], 0.0)
        top, early = self.encoder(mel, self.theirs)
        return self.lm_head(top).float().log_softmax(-1), early

    def weights(self) -> dict[str, Tensor]:
        """By their names in transformers."""
        return self.state_dict()

    def take(self, weights: dict[str, Tensor]) -> None:
        """Load strictly; only layers on top of a checkpoint's stay as they begin."""
        mine = self.state_dict()
        deepest = max(int(k.split(".")[2]) for k in weights if k.startswith("encoder.layers."))
        fresh = {k: v for k, v in mine.items() if k.startswith("encoder.layers.")}
        fresh = {k: v for k, v in fresh.items() if int(k.split(".")[2]) > deepest}
        self.load_state_dict({**fresh, **weights})

    def write_config(self, folder: Path) -> None:
        """config.json."""
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")


def warped(mel: Tensor, most: float = 0.08, chance: float = 0.6) -> Tensor:
    """Other vocal tracts: (B, 80, T) with the bands of most rows moved up or down, by up to 8 % of their number."""
    bands = mel.shape[1]
    factor = 1 + torch.empty(len(mel), 1, device=mel.device).uniform_(-most, most)
    factor = torch.where(torch.rand_like(factor) < chance, factor, 1.0)
    at = (torch.arange(bands, device=mel.device) * factor).clamp(max=bands - 1)
    low = at.floor().long().clamp(max=bands - 2)
    share = (at - low)[..., None]
    rows = low[..., None].expand(-1, -1, mel.shape[2])
    return mel.gather(1, rows) * (1 - share) + mel.gather(1, rows + 1) * share


MODELS = {"mini": Mini, "whisper": WhisperCTC}


def save(model: Mini | WhisperCTC, folder: Path, note: dict[str, str]) -> None:
    """A folder in the style of Hugging Face, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().cpu().contiguous() for k, v in model.weights().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt", **note})
    model.write_config(folder)
    (folder / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(TOKENS)}))


def trained(kind: str, folder: Path) -> Mini | WhisperCTC:
    """A checkpoint's model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = WhisperCTC(layers=config["encoder_layers"]) if kind == "whisper" else MODELS[kind]()
    start(model, folder)
    return model


def start(model: Mini | WhisperCTC, folder: Path) -> None:
    """Take a checkpoint's weights."""
    model.take({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
