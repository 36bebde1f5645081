"""``mlx-speech models``."""

from __future__ import annotations

from rich.table import Table

from mlx_speech.cli.console import app, out
from mlx_speech.registry import CARDS


@app.command()
def models() -> None:
    """List the models that have names, and where their weights are."""
    from mlx_speech.hub import whereabouts

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "languages", "parameters", "licence", "weights"):
        table.add_column(heading, no_wrap=heading != "licence")  # the longest gives way on a narrow terminal
    for card in CARDS.values():
        table.add_row(card.alias, card.languages, f"{card.parameters:.1f} M", card.licence, whereabouts(card))
    out.print(table)
