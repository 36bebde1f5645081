"""Which model times the words of which language, and how late each is known to be.

No default is under a non-commercial licence. What that costs: torchaudio's VoxPopuli models (WhisperX's
defaults for German, Spanish, French and Italian) and MMS with its 1,100 languages are CC BY-NC 4.0, and some
languages have no free model that is known here; their words keep Whisper's own times. Any model can still be
named by whoever may use it: ``align="hub:facebook/mms-1b-all"``.

The licences are those that the models' pages state. Only the two English models were run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_speech import hub
from mlx_speech.registry import find_card


@dataclass(frozen=True)
class DefaultAligner:
    """A model by the name that :func:`mlx_speech.load` takes, its licence, and its lag in seconds."""

    name: str
    licence: str
    lag: float = 0.0


_BASE = DefaultAligner("wav2vec2-base-960h", "Apache-2.0")
# Trained on word times that run late themselves (its RECIPE.md). On 32 words of four recordings that people
# labelled, starts come 66 ms late and ends 30 ms, 48 ± 8 ms together; on a synthetic call -5 and 8 ms against
# reference times that are 20 to 34 ms late. 40 ms are taken off: an estimate, from one human speaker and one
# synthesiser. AlignOptions(lag=...) overrides it. See parity/bench_alignment.py.
_MINI = DefaultAligner("wav2vec2-mini-en", "MIT", lag=0.04)


def _grosman(language: str) -> DefaultAligner:
    return DefaultAligner(f"hub:jonatasgrosman/wav2vec2-large-xlsr-53-{language}", "Apache-2.0")


ALIGNERS: dict[str, tuple[DefaultAligner, ...]] = {
    "en": (_BASE, _MINI),
    "ar": (_grosman("arabic"),),
    "cs": (DefaultAligner("hub:comodoro/wav2vec2-xls-r-300m-cs-250", "Apache-2.0"),),
    "de": (_grosman("german"),),
    "el": (_grosman("greek"),),
    "es": (_grosman("spanish"),),
    "fa": (_grosman("persian"),),
    "fi": (_grosman("finnish"),),
    "fr": (_grosman("french"),),
    "hu": (_grosman("hungarian"),),
    "it": (_grosman("italian"),),
    "ja": (_grosman("japanese"),),
    "ko": (DefaultAligner("hub:kresnik/wav2vec2-large-xlsr-korean", "Apache-2.0"),),
    "nl": (_grosman("dutch"),),
    "pl": (_grosman("polish"),),
    "pt": (_grosman("portuguese"),),
    "ru": (_grosman("russian"),),
    "sv": (DefaultAligner("hub:KBLab/wav2vec2-large-voxrex-swedish", "CC0-1.0"),),
    "zh": (_grosman("chinese-zh-cn"),),
}
"""Each language's aligners, the best first."""


def default_aligner(language: str) -> DefaultAligner | None:
    """The best aligner for a language that is on this machine; nothing is ever downloaded unasked."""
    return next((a for a in ALIGNERS.get(language, ()) if is_here(a.name)), None)


def is_here(name: str) -> bool:
    """Whether a model of the table can be loaded without a network."""
    if name.startswith("hub:"):
        return hub.fetch_cached(name[4:]) is not None
    card = find_card(name)
    return card is not None and hub.whereabouts(card) != "to download"


def known_lag(name: str) -> float:
    """The lag of a model of the table, in seconds; 0 for any other."""
    every: Sequence[DefaultAligner] = [a for choices in ALIGNERS.values() for a in choices]
    return next((a.lag for a in every if a.name == name), 0.0)
