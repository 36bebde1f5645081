"""What a misspelt option may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

F = TypeVar("F", bound=Callable[..., Any])

_ALIKE = 0.75  # of difflib's ratio, from which one word may stand for another
_MOST = 3


class Command(TyperCommand):
    """A command that tells which of its options a misspelt one may be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, read as ever; the error of an option that is not there suggests those that are."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer has had click's error, and has one of its own
            if hasattr(error, "possibilities"):
                names = (name for p in self.params for name in (*p.opts, *p.secondary_opts))
                error.possibilities = meant(getattr(error, "option_name", ""), names)
            raise


class Application(typer.Typer):
    """An application of such commands."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        """As Typer's."""
        return super().command(name, **{"cls": Command, **settings})


def meant(given: str, names: Iterable[str]) -> list[str]:
    """The options nearest to a misspelt one, best first: by the whole name, its beginning, or one of its words.

    Args:
        given: as it was typed, ``--clip``.
        names: of the options that there are.
    """
    likeness = {name: _likeness(given.lstrip("-"), name.lstrip("-")) for name in names if name[:2] == "--"}
    close = [name for name, (best, _) in likeness.items() if best >= _ALIKE]
    return sorted(close, key=lambda name: likeness[name], reverse=True)[:_MOST]


def _likeness(given: str, name: str) -> tuple[float, float]:
    """How alike the nearest words are, and the whole names."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    whole = ratio(given, name)
    begins = float(len(given) > 2 and name.startswith(given))
    words = (ratio(a, b) for a in given.split("-") for b in name.split("-") if len(a) > 2 and len(b) > 2)
    return max(whole, begins, *words, 0.0), whole
