"""Which model times the words of which language.

No default is under a non-commercial licence. What that costs: torchaudio's VoxPopuli models (WhisperX's
defaults for German, Spanish, French and Italian) and MMS with its 1,100 languages are CC BY-NC 4.0, and some
languages have no free model that is known here; their words keep Whisper's own times. Any model can still be
named by whoever may use it: ``align="hub:facebook/mms-1b-all"``.

Licences, revisions and known lags stand on the models' Cards; docs/alignment.md says how each was confirmed.
"""

from __future__ import annotations

from mlx_speech import hub
from mlx_speech.registry import CARDS, Card, find_card

ALIGNERS: dict[str, tuple[str, ...]] = {
    "en": ("wav2vec2-base-960h", "whisper-ctc-tiny.en"),
    **{
        language: (f"wav2vec2-xlsr-53-{language}",)
        for language in (
            "ar",
            "de",
            "el",
            "es",
            "fa",
            "fi",
            "fr",
            "hu",
            "it",
            "ja",
            "nl",
            "pl",
            "pt",
            "ru",
            "zh",
        )
    },
    "cs": ("wav2vec2-xls-r-300m-cs",),
    "ko": ("wav2vec2-xlsr-korean",),
    "sv": ("wav2vec2-voxrex-sv",),
}
"""Each language's aligners by their Cards' aliases, the best first."""


def default_aligner(language: str) -> Card | None:
    """The best aligner for a language that is on this machine; nothing is ever downloaded unasked."""
    return next((c for c in map(CARDS.__getitem__, ALIGNERS.get(language, ())) if is_here(c)), None)


def is_here(card: Card) -> bool:
    """Whether a model can be loaded without a network."""
    return hub.whereabouts(card) != "to download"


def known_lag(name: str) -> float:
    """The lag of a model, in seconds; 0 for one without a Card."""
    card = find_card(name)
    return card.lag if card else 0.0
