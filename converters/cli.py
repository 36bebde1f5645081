"""The ``mlx-convert`` command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mlx_speech import hub, runtime, weights
from mlx_speech.cli.console import out, run
from mlx_speech.cli.misspelt import Application
from mlx_speech.cli.options import Dtype
from mlx_speech.converters import _publish as publish
from mlx_speech.converters._certificate import FILE as CERTIFICATE
from mlx_speech.converters._certificate import Stages, fixed_inputs
from mlx_speech.converters._certificate import verify as certificate_holds
from mlx_speech.converters._headers import located
from mlx_speech.converters._record import licence_of
from mlx_speech.converters._table import families
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters._write import ConvertOptions, check_target, convert_checkpoint
from mlx_speech.errors import OptionError
from mlx_speech.loading import Opened, open_checkpoint, read_config
from mlx_speech.quantization import DEFAULT_GROUP_SIZE, Quantization
from mlx_speech.registry import CARDS, find_card

app = Application(
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

Private = Annotated[bool, typer.Option("--private", help="Make the repository private.")]


@app.command()
def convert(  # each option is one argument
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
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            metavar="NAME",
            help="Do not quantise these layers: 'decoder.token_embedding', 'encoder.*'. May be repeated.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of SRC, where it is a Hub repository.")] = None,
    certify: Annotated[
        bool,
        typer.Option("--certify", help="Run the original too (convert extra), and write the difference."),
    ] = False,
    goldens: Annotated[
        bool | None,
        typer.Option(help="Run the result and write parity.json; by default up to 2 GB of weights."),
    ] = None,
    upload_repo: Annotated[
        str | None, typer.Option("--upload-repo", metavar="ORG/NAME", help="Upload the result there.")
    ] = None,
    private: Private = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a converted checkpoint that is there.")
    ] = False,
) -> None:
    """Convert a checkpoint. Nothing of it is run, and nothing half-written stays behind."""
    check_target(target, force)
    packing = Quantization(quantize, group_size) if quantize is not None else None
    source = at_revision(source, revision)
    opened = _open(source, family)
    options = ConvertOptions(
        dtype=runtime.resolve_dtype(dtype.value, half=False) if dtype else None,
        quantization=packing,
        keep_float=tuple(keep_float or ()),
        force=force,
        original=_original(opened) if certify else None,
        goldens=True if certify else goldens,
    )
    packed = convert_checkpoint(opened, target, source, options)
    how = f", {len(packed)} layers in {packing}" if packed else ""
    out.print(f"{source} ({opened.layout}, {len(opened.tensors)} tensors) → {target}{how}", markup=False)
    if upload_repo:
        out.print(publish.upload(target, upload_repo, private=private), markup=False)


def at_revision(source: str, revision: str | None) -> str:
    """A Hub source at a revision.

    Raises:
        OptionError: the source is none of the Hub's.
    """
    if revision is None:
        return source
    repo = source.removeprefix("hub:")
    if find_card(source) or Path(source).exists() or repo.count("/") != 1 or "@" in repo:
        raise OptionError(f"--revision {revision}: {source} is not a Hub repository (hub:org/name)")
    return f"hub:{repo}@{revision}"


def _original(opened: Opened) -> tuple[str, Stages]:
    from mlx_speech.converters._originals import run_original

    return run_original(opened, fixed_inputs(opened.family.name, opened.config))


@app.command()
def verify(
    source: Annotated[str, typer.Argument(metavar="DIR|REPO", help="A converted folder, or hub:org/name.")],
) -> None:
    """Run a converted model on its certificate's inputs again; without torch, anywhere. Fails where it differs."""
    folder = hub.locate(source)
    told = read_config(folder, CERTIFICATE)
    for stage, error in certificate_holds(folder).items():
        against = told["stages"][stage].get("against_original")
        note = f"; to {told['original']}: {against['relative_l2']:.1e}" if against else ""
        out.print(f"{stage:<14} goldens made again to {error:.1e} (relative L2){note}", markup=False)
    out.print(f"{source}: verified", markup=False)


@app.command()
def upload(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A converted folder.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The Hub repository; made if need be.")],
    private: Private = False,
) -> None:
    """Upload a converted folder in one commit; an upload that broke off goes on where it was."""
    out.print(publish.upload(folder, repo, private=private), markup=False)


@app.command("list")
def list_families() -> None:
    """List the model families, the layouts that are read, and the names that are known with their licences."""
    table = _table("family", "layouts")
    for family in families():
        names = ["mlx_speech", *(x.name.removeprefix(f"{family.name}-") for x in family.layouts)]
        # one name for what differs in a network's depth only
        table.add_row(family.name, ", ".join(dict.fromkeys(re.sub(r"-ResNet\d+$", "", n) for n in names)))
    out.print(table)
    out.print()
    table = _table("name", "family", "licence", "origin")
    for card in CARDS.values():
        table.add_row(card.alias, card.family, card.licence, card.repo or card.origin)
    out.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


@app.command()
def inspect(source: Source, family: FamilyName = None) -> None:
    """Show what a checkpoint holds and how it would be converted, without reading its tensors.

    Of a Hub repository that is not here only the headers of its safetensors are fetched.
    """
    with located(source) as path:
        _show(source, _recognise(source, path, family))


def _show(source: str, opened: Opened) -> None:
    made = opened.outline()
    stored = sum(x.nbytes for x in made.values())
    facts = {
        "family": opened.family.name,
        "layout": opened.layout,
        "file": opened.tensors.path.name,
        "licence": licence_of(source, opened.folder) or "not known: see where the checkpoint comes from",
        "tensors": str(len(opened.tensors)),
        "parameters": f"{sum(x.size for x in made.values()):,}",
        "size": f"{stored / 1e6:,.1f} MB as it is",
        "dropped": ", ".join(opened.plan.dropped) or "nothing",
    }
    for name, value in facts.items():
        out.print(f"{name:<11} {value}", markup=False)
    out.print(f"config      {opened.config}", markup=False)
    for step in opened.plan.steps:
        out.print(f"  {_describe(step, opened.tensors)}", markup=False)


def _open(source: str, family: str | None) -> Opened:
    return _recognise(source, hub.locate(source), family)


def _recognise(source: str, path: Path, family: str | None) -> Opened:
    card = find_card(source)
    return open_checkpoint(path, family or (card.family if card else None))


def _describe(step: weights.Step, tensors: Tensors) -> str:
    specs = ((k, tensors.specs[k]) for k in step.sources)
    sources = ", ".join(f"{k} {s.stored or s.dtype}{list(s.shape)}" for k, s in specs)
    return f"{sources} → {', '.join(step.targets)}"


def main() -> Any:
    """Entry point of ``mlx-convert``."""
    run(app)
