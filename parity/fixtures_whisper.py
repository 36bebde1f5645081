"""What the originals of Whisper make: the fixtures of the Whisper tests.

python parity/fixtures_whisper.py           # tests/fixtures/whisper

One seeded set of tiny weights (width 8, real vocabulary and contexts), saved by each original's own code:
``huggingface/`` by transformers, ``openai/`` by openai/whisper's class, ``ctranslate2/`` by its converter.
The last two hold the first 100 tokens only, to stay small. ``model.npz`` is what transformers computes with
these weights, ``decoding.json`` what openai/whisper decodes, times and tokenises with them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from whisper.audio import log_mel_spectrogram
from whisper.timing import add_word_timestamps
from whisper.tokenizer import get_tokenizer

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEADS, LAYERS, VOCAB, SMALL_VOCAB = 8, 2, 2, 51865, 100
ALIGNMENT_HEADS = [[0, 1], [1, 0]]
TOKENS = [[50, 3, 99, 17, 3, 64], [1, 2, 98, 40, 7, 7]]
EOT, FIRST_LANGUAGE, NO_SPEECH, FIRST_TIMESTAMP = 50257, 50259, 50362, 50364
# openai/whisper's options; "without_timestamps" only asks its models for none, ours forbids them; a list of
# symbols replaces the usual one, an empty string would let the special tokens through as well
DECODED: dict[str, dict[str, Any]] = {
    "default": {"language": "en"},
    "translate": {"language": "de", "task": "translate"},
    "no_timestamps": {
        "language": "fr",
        "without_timestamps": True,
        "suppress_tokens": [-1, *range(FIRST_TIMESTAMP, VOCAB)],
    },
    "late_start": {"language": "en", "max_initial_timestamp": 20.0, "suppress_tokens": "50258"},
    "short": {"language": "ja", "sample_len": 7},
    "beams": {"language": "en", "beam_size": 5},
    "patient_beams": {"language": "en", "beam_size": 3, "patience": 2.0, "length_penalty": 0.6},
    "beams_without_timestamps": {
        "language": "en",
        "beam_size": 4,
        "without_timestamps": True,
        "suppress_tokens": [-1, *range(FIRST_TIMESTAMP, VOCAB)],
    },
    "prompt": {"language": "en", "prompt": "Anna and Ben talk about whales."},
    "prefix": {"language": "en", "prompt": "And then?", "prefix": "They said"},
    "suppressed": {"language": "en", "suppress_tokens": [-1, *range(1000, 30000)]},
}
READ: dict[str, dict[str, Any]] = {
    "conditioned": {},
    "forgetful": {"condition_on_previous_text": False},
    "clips": {"clip_timestamps": [3.0, 20.0, 41.5], "initial_prompt": "Once upon a time."},
    "carried": {"carry_initial_prompt": True, "initial_prompt": "Once upon a time."},
    "words": {"word_timestamps": True},
    "skipping": {"word_timestamps": True, "hallucination_silence_threshold": 0.5},
}
RATE = 16000
TEXTS = [
    "And so, my fellow Americans: ask not what your country can do for you.",
    ' Hello   world!\n\tTabs\r\n and "quotes" (brackets) [more] {and} <these>...',
    "Crème brûlée, naïve façade — œuvre; 3.14159, 1,000,000 and 50%.",
    "你好，世界。今天天气很好！",
    "日本語のテキストです。カタカナも。",
    "สวัสดีชาวโลก",
    "Привет, мир! Как дела?",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 family 🎉🎉 and e\u0301 combining, \ufffd replaced",
    "don't can't I'll we've they're it's 'tis",
    "  leading and trailing  ",
    "",
]
TIMED = [
    " And so, my fellow Americans: ask not what your country can do for you.",
    ' He said "never (ever) again!" and left... Did he? Yes.',
]


def make(folder: Path = ROOT / "tests/fixtures/whisper") -> None:
    """Write every fixture."""
    torch.manual_seed(0)
    full, small = hugging_face(VOCAB), hugging_face(SMALL_VOCAB)
    shutil.rmtree(folder, ignore_errors=True)
    full.half().save_pretrained(folder / "huggingface")
    full.float()
    save_openai(small, folder / "openai")
    for kind in ("float16", "int8_float16", "int16"):
        save_ctranslate2(
            small, folder / ("ctranslate2" if kind == "float16" else f"ctranslate2-{kind}"), kind
        )
    mel = windows()
    expected = forward(small, mel)
    agree(expected, small, mel)
    audio, heard = listened()
    np.savez_compressed(folder / "model.npz", mel=mel, tokens=np.array(TOKENS, np.int32), **expected)
    np.savez_compressed(folder / "log_mel.npz", audio=audio, **heard)
    (folder / "decoding.json").write_text(
        json.dumps(decoded(openai_model(full), dequantised(mel)), ensure_ascii=False, sort_keys=True) + "\n"
    )


# --- weights ----------------------------------------------------------------------------------------------


def hugging_face(vocabulary: int) -> WhisperForConditionalGeneration:
    """The tiny model, float32 values that float16 holds exactly."""
    config = WhisperConfig(
        vocab_size=vocabulary, d_model=WIDTH, num_mel_bins=80, max_source_positions=1500,
        max_target_positions=448, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, suppress_tokens=None,
        begin_suppress_tokens=None, attn_implementation="eager",
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    rng = np.random.default_rng(21)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            shape = (VOCAB, WIDTH) if name.endswith("embed_tokens.weight") else tuple(parameter.shape)
            value = _value(name, rng.standard_normal(shape))[: parameter.shape[0]]
            parameter.copy_(torch.from_numpy(value.astype(np.float16).astype(np.float32)))
    model.generation_config = GenerationConfig(
        alignment_heads=ALIGNMENT_HEADS,
        suppress_tokens=[*get_tokenizer(True).non_speech_tokens, 50258, 50358, 50359, 50360, 50361, 50362],
        begin_suppress_tokens=[220, 50257],
    )
    return model


def _value(name: str, noise: np.ndarray) -> np.ndarray:
    """Large enough for attention to choose and for rules to meet words, timestamps and ends."""
    if name == "model.encoder.embed_positions.weight":
        return whisper.model.sinusoids(*noise.shape).numpy()
    if name.endswith("embed_tokens.weight"):
        # the last norm makes the first feature 1: the first column is a bias of each token's score
        noise[:, 0] = 0.0
        noise[EOT:, 0] = -30.0
        noise[EOT, 0], noise[NO_SPEECH, 0] = 15.0, 14.0
        noise[FIRST_TIMESTAMP:, 0] = 3.0
        return noise
    if name == "model.decoder.layer_norm.weight":
        return np.array([0.0, *(1.8 + 0.3 * noise[1:])])
    if name == "model.decoder.layer_norm.bias":
        return np.array([1.0, *(0.3 * noise[1:])])
    if name.endswith("norm.weight"):
        return 1 + 0.2 * noise
    if noise.ndim == 1:
        return 0.2 * noise
    fan_in = noise[0].size
    scale = {"q_proj": 2.0, "k_proj": 1.5}.get(name.split(".")[-2], 1.0)
    return noise if "embed" in name else scale * noise / fan_in**0.5


_NAMES = (
    (".layers.", ".blocks."), (".self_attn_layer_norm", ".attn_ln"), (".self_attn.", ".attn."),
    (".encoder_attn_layer_norm", ".cross_attn_ln"), (".encoder_attn.", ".cross_attn."),
    (".q_proj", ".query"), (".k_proj", ".key"), (".v_proj", ".value"), (".out_proj", ".out"),
    (".fc1", ".mlp.0"), (".fc2", ".mlp.2"), (".final_layer_norm", ".mlp_ln"),
    ("embed_positions.weight", "positional_embedding"), ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
)  # fmt: skip


def openai_model(model: WhisperForConditionalGeneration) -> whisper.model.Whisper:
    """The same weights in openai/whisper's own class; :func:`agree` proves the renaming."""
    c = model.config
    dims = whisper.ModelDimensions(80, 1500, WIDTH, HEADS, LAYERS, c.vocab_size, 448, WIDTH, HEADS, LAYERS)
    theirs = whisper.model.Whisper(dims)
    state = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix("model.")
        for a, b in _NAMES:
            name = name.replace(a, b)
        if name != "proj_out.weight":
            state[name] = value.clone()
    theirs.load_state_dict(state)
    heads = torch.zeros(LAYERS, HEADS, dtype=torch.bool)
    for layer, head in ALIGNMENT_HEADS:
        heads[layer, head] = True
    theirs.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return theirs.eval()


def save_openai(model: WhisperForConditionalGeneration, folder: Path) -> None:
    """As openai/whisper publishes its checkpoints."""
    folder.mkdir(parents=True)
    theirs = openai_model(model).half()
    torch.save({"dims": asdict(theirs.dims), "model_state_dict": theirs.state_dict()}, folder / "model.pt")


def save_ctranslate2(model: WhisperForConditionalGeneration, folder: Path, kind: str = "float16") -> None:
    """By CTranslate2's converter; its vocabulary file is not needed."""
    with tempfile.TemporaryDirectory() as work:
        model.save_pretrained(work)
        words = Tokenizer(WordLevel({f"w{n}": n for n in range(SMALL_VOCAB)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(work)
        TransformersConverter(work).convert(str(folder), quantization=kind)
    (folder / "vocabulary.json").unlink()


# --- expected numbers -------------------------------------------------------------------------------------


def windows() -> np.ndarray:
    """Two windows of coarse log-mel, (2, 3000, 80) int8 in steps of 1/32: sound, then padding."""
    rng = np.random.default_rng(1)
    mel = np.full((2, 3000, 80), -24, np.int8)
    for row, frames in zip(mel, (150, 260), strict=True):
        slow = np.repeat(np.repeat(rng.integers(-24, 48, (frames // 10, 20)), 10, axis=0), 4, axis=1)
        row[:frames] = slow + rng.integers(-2, 3, slow.shape)
    return mel


def dequantised(mel: np.ndarray) -> torch.Tensor:
    """(B, 80, 3000) float32, as the originals take it."""
    return torch.from_numpy(mel.astype(np.float32) / 32).transpose(1, 2).contiguous()


def forward(model: WhisperForConditionalGeneration, mel: np.ndarray) -> dict[str, np.ndarray]:
    """Encoder output, logits, and all heads' cross-attention in the first window, computed in float64."""
    with torch.no_grad():
        given = dequantised(mel).double()
        out = model.double()(given, decoder_input_ids=torch.tensor(TOKENS), output_attentions=True)
    model.float()
    attention = torch.stack([a[0] for a in out.cross_attentions])
    return {
        "encoded": out.encoder_last_hidden_state.float().numpy(),
        "logits": out.logits.float().numpy(),
        "attention": attention.float().numpy(),  # (layers, heads, L, T)
    }


def agree(expected: dict[str, np.ndarray], model: WhisperForConditionalGeneration, mel: np.ndarray) -> None:
    """The two originals compute the same, so one expectation serves both."""
    theirs = openai_model(model)
    with torch.no_grad():
        encoded = theirs.encoder(dequantised(mel))
        logits = theirs.decoder(torch.tensor(TOKENS), encoded)
    np.testing.assert_allclose(encoded.numpy(), expected["encoded"], atol=5e-5)
    np.testing.assert_allclose(logits.numpy(), expected["logits"], atol=1e-4)
    spread = expected["attention"].std(axis=-1).mean()
    assert spread > 1e-4, f"the attention hardly chooses ({spread:.1e})"


def listened() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A second of sound, int16, and openai/whisper's log-mel of it with 80 and 128 bands."""
    t = np.arange(16000) / 16000
    rng = np.random.default_rng(3)
    sound = 0.3 * np.sin(2 * np.pi * (200 + 1500 * t) * t) * (t > 0.2) + 0.01 * rng.standard_normal(len(t))
    audio = np.round(sound * 4096).astype(np.int16)
    exact = torch.from_numpy(audio.astype(np.float32) / 4096)
    return audio, {f"mel{n}": log_mel_spectrogram(exact, n).numpy().T for n in (80, 128)}


# --- expected decoding ------------------------------------------------------------------------------------


def decoded(model: whisper.model.Whisper, mel: torch.Tensor) -> dict[str, Any]:
    """What openai/whisper decodes, times and tokenises."""
    runs = {}
    for name, given in DECODED.items():
        options = whisper.DecodingOptions(fp16=False, temperature=0.0, **{"sample_len": 40, **given})
        runs[name] = [
            {
                "tokens": r.tokens,
                "avg_logprob": r.avg_logprob,
                "no_speech_prob": r.no_speech_prob,
                "compression_ratio": r.compression_ratio,
            }
            # one window at a time: the original's beams do not bear a batch
            for r in (whisper.decode(model, window, options) for window in mel)
        ]
    _, languages = whisper.detect_language(model, mel)
    return {
        "runs": runs,
        "languages": languages,
        "timed": [timed(model, mel[n % 2], text) for n, text in enumerate(TIMED)],
        "read": read(model),
        "tokenised": [tokenised(m) for m in (True, False)],
        "special": [special(n) for n in (51864, 51865, 51866)],
    }


def recording() -> np.ndarray:
    """47 s of changing sound with silences, (T,) float32; the tests make it anew."""
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.uniform(0, 0.3, 94) * (rng.random(94) > 0.2), RATE // 2)
    tone = np.sin(np.cumsum(np.repeat(rng.uniform(100, 3000, 188), RATE // 4)) * 2 * np.pi / RATE)
    return (loudness * (tone + 0.3 * rng.standard_normal(len(tone)))).astype(np.float32)


def read(model: whisper.model.Whisper) -> dict[str, Any]:
    """What openai/whisper makes of the recording, window by window."""
    usual = {"language": "en", "temperature": 0.0, "fp16": False, "sample_len": 40}
    usual |= {"no_speech_threshold": None}
    found = {}
    for name, given in READ.items():
        result = model.transcribe(recording(), **{**usual, **given})
        segments = [s for s in result["segments"] if s["text"].strip()]
        found[name] = [[s["start"], s["end"], s["text"].strip()] for s in segments]
    return found


def timed(model: whisper.model.Whisper, mel: torch.Tensor, text: str) -> dict[str, Any]:
    """The words of a text cut into two segments, timed in a window of 12 s."""
    tokenizer = get_tokenizer(True, language="en", task="transcribe")
    tokens = tokenizer.encode(text)
    cut = next(
        n for n in range(len(tokens) // 2, len(tokens)) if tokenizer.decode([tokens[n]]).startswith(" ")
    )
    segments = [
        {"seek": 0, "start": a, "end": b, "tokens": part}
        for a, b, part in ((0.4, 5.0, tokens[:cut]), (5.5, 11.0, tokens[cut:]))
    ]
    given = [dict(s) for s in segments]
    add_word_timestamps(
        segments=segments,
        model=model,
        tokenizer=tokenizer,
        mel=mel,
        num_frames=1200,
        last_speech_timestamp=0.0,
    )
    words = [
        [[w["word"], w["start"], w["end"], float(w["probability"])] for w in s["words"]] for s in segments
    ]
    return {"segments": given, "words": words}


def tokenised(multilingual: bool) -> dict[str, Any]:
    """Texts, their tokens, and their words by spaces and by characters."""
    rows = []
    for text in TEXTS:
        spaced = get_tokenizer(multilingual, language="en")
        unspaced = get_tokenizer(True, language="ja") if multilingual else spaced
        tokens = spaced.encode(text)
        rows.append(
            {
                "text": text,
                "tokens": tokens,
                "words": list(zip(*spaced.split_to_word_tokens(tokens), strict=True)),
                "characters": list(zip(*unspaced.split_tokens_on_unicode(tokens), strict=True)),
            }
        )
    return {"multilingual": multilingual, "rows": rows}


def special(vocabulary: int) -> dict[str, Any]:
    """The numbers of the special tokens, and the languages in the order of theirs."""
    multilingual = vocabulary >= 51865
    languages = vocabulary - 51765 - int(multilingual)
    t = get_tokenizer(multilingual, num_languages=languages, language="en" if multilingual else None)
    names = (
        "eot", "sot", "translate", "transcribe", "sot_lm", "sot_prev", "no_speech", "no_timestamps",
        "timestamp_begin",
    )  # fmt: skip
    return {
        "vocabulary": vocabulary,
        "numbers": {n: getattr(t, n) for n in names},
        "languages": dict(zip(t.all_language_codes, t.all_language_tokens, strict=True)),
        "non_speech": t.non_speech_tokens,
    }


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:]))
