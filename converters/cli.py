"""The ``mlx-convert`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mlx_speech import hub, runtime, weights
from mlx_speech.cli.console import out, run
from mlx_speech.cli.options import Dtype
from mlx_speech.converters._table import families
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters._write import ConvertOptions, check_target, convert_checkpoint
from mlx_speech.loading import Opened, open_checkpoint
from mlx_speech.quantization import DEFAULT_GROUP_SIZE, Quantization
from mlx_speech.registry import CARDS, find_card

app = typer.Typer(
    help="Turn checkpoints of the originals into mlx_speech's own format.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SOURCE_HELP = "An alias, hub:org/name, or the folder or file of a checkpoint."
Source = Annotated[str, typer.Argument(metavar="SRC", help=_SOURCE_HELP)]
FamilyName = Annotated[
    str | None, typer.Option("--family", help="Only this family's layouts; found by the keys by default.")
]


@app.command()
def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    family: FamilyName = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Stored as; as in the source by default.")] = None,
    quantize: Annotated[
        int | None,
        typer.Option("--quantize", "-q", metavar="BITS", help="Pack the large layers: 4 or 8 bits."),
    ] = None,
    group_size: Annotated[
        int, typer.Option("--group-size", help="Weights that share a scale: 32, 64 or 128.")
    ] = DEFAULT_GROUP_SIZE,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a converted checkpoint that is there.")
    ] = False,
) -> None:
    """Convert a checkpoint. Nothing of it is run, and nothing half-written stays behind."""
    check_target(target, force)
    options = ConvertOptions(
        dtype=runtime.resolve_dtype(dtype.value, half=False) if dtype else None,
        quantization=Quantization(quantize, group_size) if quantize is not None else None,
        force=force,
    )
    opened = _open(source, family)
    packed = convert_checkpoint(opened, target, source, options)
    how = f", {len(packed)} layers in {options.quantization}" if packed else ""
    out.print(f"{source} ({opened.layout}, {len(opened.tensors)} tensors) → {target}{how}", markup=False)


@app.command("list")
def list_families() -> None:
    """List the model families, the layouts that are read, and the names that are known."""
    table = Table(box=None, header_style="bold")
    for heading in ("family", "layouts", "names"):
        table.add_column(heading)
    for family in families():
        layouts = ["mlx_speech", *(x.name.removeprefix(f"{family.name}-") for x in family.layouts)]
        names = [c.alias for c in CARDS.values() if c.family == family.name]
        table.add_row(family.name, ", ".join(layouts), ", ".join(names))
    out.print(table)


@app.command()
def inspect(source: Source, family: FamilyName = None) -> None:
    """Show what a checkpoint holds and how it would be converted, without reading its tensors."""
    opened = _open(source, family)
    card = find_card(source)
    facts = {
        "family": opened.family.name,
        "layout": opened.layout,
        "file": opened.tensors.path.name,
        "licence": card.licence if card else "not known: see where the checkpoint comes from",
        "tensors": str(len(opened.tensors)),
        "parameters": f"{_count(opened):,}",
        "dropped": ", ".join(opened.plan.dropped) or "nothing",
    }
    for name, value in facts.items():
        out.print(f"{name:<11} {value}", markup=False)
    out.print(f"config      {opened.config}", markup=False)
    for step in opened.plan.steps:
        out.print(f"  {_describe(step, opened.tensors)}", markup=False)


def _open(source: str, family: str | None) -> Opened:
    card = find_card(source)
    return open_checkpoint(hub.locate(source), family or (card.family if card else None))


def _count(opened: Opened) -> int:
    return sum(x.size for x in opened.outline().values())


def _describe(step: weights.Step, tensors: Tensors) -> str:
    sources = ", ".join(f"{k} {tensors.specs[k].dtype}{list(tensors.specs[k].shape)}" for k in step.sources)
    return f"{sources} → {', '.join(step.targets)}"


def main() -> Any:
    """Entry point of ``mlx-convert``."""
    run(app)
