"""What a converted folder says of itself: ``config.json`` with its provenance, and the model card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_speech
from mlx_speech.converters._certificate import digest
from mlx_speech.converters._family import Family
from mlx_speech.loading import FORMAT_VERSION, Opened, read_config
from mlx_speech.quantization import Quantization
from mlx_speech.registry import find_card

_HUB_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0"}
_TASKS = {
    "whisper": "automatic-speech-recognition",
    "wav2vec2": "automatic-speech-recognition",
    "whisper-ctc": "automatic-speech-recognition",
    "pyannet": "voice-activity-detection",
    "silero-vad": "voice-activity-detection",
}


# what a reader of the card does with the model; where nothing is said, load it
_USAGE = {
    "whisper": 'transcript = mlx_speech.transcribe("audio.wav", model="{name}")',
    "wav2vec2": 'transcript = mlx_speech.align("audio.wav", "What was said.", model="{name}")',
    "whisper-ctc": 'transcript = mlx_speech.align("audio.wav", "What was said.", model="{name}")',
    "wespeaker": 'voice = mlx_speech.embed("audio.wav", model="{name}")',
    "silero-vad": 'spans = mlx_speech.detect_speech("audio.wav", model="{name}")',
}
_NAME = "hub:ORG/NAME"


def config_of(
    opened: Opened,
    outline: Mapping[str, mx.array],
    source: str,
    quantization: Quantization | None,
    kept: tuple[str, ...] = (),
) -> str:
    """``config.json``: format version, family, configuration, quantisation and provenance.

    ``kept`` are the patterns of layers that were left unquantised on purpose.
    """
    data = {
        "format_version": FORMAT_VERSION,
        "family": opened.family.name,
        "config": dataclasses.asdict(opened.config),
        **({"quantization": quantization.as_dict()} if quantization else {}),
        "provenance": {
            **_provenance(opened, outline, source),
            **({"kept_float": list(kept)} if kept else {}),
        },
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _provenance(opened: Opened, outline: Mapping[str, mx.array], source: str) -> dict[str, Any]:
    earlier = read_config(opened.folder).get("provenance") if opened.layout == "mlx_speech" else None
    return {
        "source": Path(source).name if Path(source).exists() or source.startswith("path:") else source,
        "revision": revision_of(opened.folder),
        "files": {p.name: digest(p) for p in opened.tensors.files},
        "layout": opened.layout,
        "rules": rules_version(opened.family),
        "stored": sorted({s.stored or s.dtype for s in opened.tensors.specs.values()}),
        "dtypes": sorted({str(a.dtype).removeprefix("mlx.core.") for a in outline.values()}),
        "converter": mlx_speech.__version__,
        **({"before": earlier} if earlier else {}),
    }


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache, which is named by it."""
    found = re.fullmatch(r"[0-9a-f]{40}", folder.resolve().name)
    return found[0] if found else None


def rules_version(family: Family) -> str:
    """A fingerprint of all key maps of a family: other rules, another fingerprint."""
    lines = [
        f"{layout.name}|{rule.source_patterns}|{rule.target_patterns}|{rule.op.__qualname__}|{rule.required}"
        for layout in family.layouts
        for rule in layout.rules
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def licence_of(source: str, folder: Path) -> str | None:
    """What is known of the weights' licence: the Card's, else what the source's own model card says."""
    card = find_card(source)
    if card:
        return card.licence
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = head and re.search(r"^license:\s*([\w.+-]+)\s*$", head[1], re.MULTILINE)
    return found[1] if found else None


def model_card(folder: Path, source: str, licence: str | None, told: Mapping[str, Any] | None) -> str:
    """The ``README.md`` of a converted folder."""
    data = read_config(folder)
    family, provenance = str(data["family"]), data["provenance"]
    card = find_card(source)
    base = card.repo if card else source.removeprefix("hub:").partition("@")[0]
    known = (card and card.repo) or source.startswith("hub:")
    tags = ["mlx", "mlx-speech", family, *(["quantized"] if "quantization" in data else [])]
    front = {
        "library_name": "mlx",
        **(
            {"license": _HUB_LICENCES.get(licence, licence if licence.islower() else "other")}
            if licence
            else {}
        ),
        **(
            {"language": card.languages}
            if card and len(card.languages) == 2 and card.languages != "99"
            else {}
        ),
        **({"base_model": base} if known else {}),
        **({"pipeline_tag": _TASKS[family]} if family in _TASKS else {}),
    }
    lines = ["---", *(f"{k}: {v}" for k, v in front.items()), "tags:", *(f"- {t}" for t in tags), "---", ""]
    q = data.get("quantization")
    packed = f", its large layers in {q['bits']} bits in groups of {q['group_size']}" if q else ""
    if kept := provenance.get("kept_float"):
        packed += f" but for {', '.join(f'`{k}`' for k in kept)}"
    lines += [
        f"# {provenance['source']} for MLX",
        "",
        f"Converted by `mlx-convert` {mlx_speech.__version__} from the layout `{provenance['layout']}`{packed}.",
        f"Licence of the weights: {licence or 'not known; see where the original comes from'}.",
        *([f"Origin: {card.origin}"] if card else []),
        "",
        "```python",
        "import mlx_speech",
        "",
        _USAGE.get(family, 'model = mlx_speech.load("{name}")').format(name=_NAME) + "  # or a folder's path",
        "```",
        "",
        *_parity_table(told),
    ]
    return "\n".join(lines).rstrip() + "\n"


def name_repository(card: str, repo: str) -> str:
    """A card of :func:`model_card` whose example names the repository that it is in."""
    return re.sub(r'"hub:[^"\s]+"', f'"hub:{repo}"', card) if "`mlx-convert`" in card else card


def _parity_table(told: Mapping[str, Any] | None) -> list[str]:
    if not told:
        return []
    if not told["original"]:
        stages = ", ".join(told["stages"])
        return [f"`parity.json` holds goldens of {stages}; the original was not run beside this conversion."]
    lines = [
        f"On fixed noise, in float32, against the original ({told['original']}):",
        "",
        "| stage | max abs | relative L2 | cosine |",
        "|---|---|---|---|",
    ]
    for name, stage in told["stages"].items():
        if d := stage.get("against_original"):
            lines.append(f"| {name} | {d['max_abs']:.2e} | {d['relative_l2']:.2e} | {d['cosine']:.8f} |")
    return [
        *lines,
        "",
        "`mlx-convert verify` makes the goldens in `parity.json` again, without the original.",
    ]
