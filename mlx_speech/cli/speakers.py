"""``mlx-speech speakers``: the people whose voices are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import mlx_speech
from mlx_speech.cli.console import app, clock, errors, out
from mlx_speech.cli.misspelt import Application
from mlx_speech.cli.options import Files
from mlx_speech.errors import AudioError, OptionError
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.pipeline import DEFAULT_EMBEDDING, DEFAULT_SEGMENTATION, Diarizer, expect
from mlx_speech.readers import read_turns
from mlx_speech.stages.identify import THRESHOLD, IdentifyOptions, alone, similarities, weights_digest
from mlx_speech.types import Diarization, Span, Voice
from mlx_speech.voices import VARIABLE, Voices, change_voices, checked_name, default_path, load_voices
from mlx_speech.writers.files import check_folder

speakers = Application(
    help="Know people by their voices: 'transcribe --identify' and 'diarize --identify' then name them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(speakers, name="speakers")

Store = Annotated[
    Path | None,
    typer.Option(
        "--voices",
        envvar=VARIABLE,
        help="The file that keeps the voices; by default in the user's folder for data.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whom.")]
_FEW = 10.0  # seconds


@speakers.command()
def enroll(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose voice it is.")],
    files: Files,
    speaker: Annotated[
        str | None,
        typer.Option(
            help="Hear only this one of a diarized recording, such as SPEAKER_00, where nobody else talks."
        ),
    ] = None,
    turns: Annotated[
        Path | None,
        typer.Option(
            help="The .json or .rttm of the diarization; by default the one with the recording's name, in the "
            "current folder or beside it."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A WeSpeaker: an alias, hub:org/name, or a folder.")
    ] = DEFAULT_EMBEDDING,
    voices: Store = None,
) -> None:
    """Learn a voice, or learn it better.

    Recordings must be of this person alone, unless --speaker tells which one of several they are.
    """  # fmt: skip
    checked_name(name)
    if turns and (speaker is None or len(files) > 1):
        raise OptionError(
            "--turns belongs to one recording, and --speaker says whom of its speakers is meant"
        )
    path = voices or default_path()
    check_folder(path.parent)
    load_voices(path)  # a damaged file is told of before anything is heard
    embedder = expect(mlx_speech.load(model), WeSpeaker, model)
    digest = weights_digest(embedder)
    heard = []
    for file in files:
        spans = _spans(file, speaker, turns)
        try:
            heard.append(mlx_speech.hear_voice(file, embedder, spans))
        except AudioError as error:
            named = str(error).startswith(str(file))
            raise AudioError(str(error) if named else f"{file}: {error}") from error

    def add(known: Voices | None) -> Voices:
        known = (known or Voices(model, digest)).check(digest, path)
        for embedding, seconds in heard:
            known = known.enroll(name, embedding, seconds)
        return known

    known = change_voices(add, path)
    voice = known.find(name)
    if voice.seconds < _FEW:
        errors.print(f"only {voice.seconds:.1f} s of speech: with {_FEW:g} s and more the name is surer")
    _tell_twins(voice, known)
    many = "s" if voice.recordings > 1 else ""
    out.print(f"{name}: {clock(voice.seconds)} of speech in {voice.recordings} recording{many}", markup=False)


def _spans(file: Path, speaker: str | None, turns: Path | None) -> list[Span]:
    """Where the person speaks: all speech of a recording, or what one of its speakers says alone."""
    if speaker is None:
        return mlx_speech.detect_speech(file)
    if turns is None:
        beside = [
            f.with_name(f"{file.stem}{ending}")
            for f in (Path(file.name), file)
            for ending in (".json", ".rttm")
        ]
        turns = next((p for p in beside if p.is_file()), None)
        if turns is None:
            raise OptionError(
                f"{file}: no {file.stem}.json or .rttm tells where {speaker} speaks; run 'mlx-speech diarize' "
                "first, or name the file (--turns)"
            )
    found = read_turns(turns)
    there = sorted({t.speaker for t in found})
    if speaker not in there:
        raise OptionError(f"{turns}: no speaker is called {speaker!r} there, but {', '.join(there)}")
    return alone(found, speaker)


def _tell_twins(voice: Voice, known: Voices) -> None:
    """Warn if somebody else sounds the same."""
    cosines = similarities(voice.embedding[None], known.embeddings)[0]
    for other, cosine in zip(known.voices, cosines, strict=True):
        if other.name != voice.name and cosine >= THRESHOLD:
            errors.print(
                f"{voice.name} sounds like {other.name} (cosine {cosine:.2f}): if they are one person, "
                f"'mlx-speech speakers merge {other.name} {voice.name}'",
                markup=False,
            )


def known_voices(path: Path | None) -> Voices:
    """The file's voices.

    Raises:
        OptionError: there are none yet.
        VoicesError: the file is damaged.
    """
    path = path or default_path()
    known = load_voices(path)
    if known is None or not known.voices:
        raise OptionError(
            f"{path}: nobody's voice is known yet: 'mlx-speech speakers enroll NAME AUDIO' learns one"
        )
    return known


def diarizer_for(
    identify: bool,
    threshold: float,
    segmentation: str = DEFAULT_SEGMENTATION,
    embedding: str = DEFAULT_EMBEDDING,
) -> Diarizer:
    """The diarizer of a command; with ``identify`` it knows the voices in the file."""
    options = IdentifyOptions(threshold)
    known = known_voices(None) if identify else None
    return Diarizer.load(segmentation, embedding, voices=known, identify=options)


def tell_identities(diarization: Diarization | None) -> None:
    """Say whose voices were known, and how sure that is."""
    for known in diarization.identities if diarization else ():
        errors.print(
            f"{known.label} is {known.name}: cosine {known.similarity:.2f}, confidence {known.confidence:.2f}",
            markup=False,
        )


@speakers.command("list")
def list_speakers(voices: Store = None) -> None:
    """List the people whose voices are known."""
    known = load_voices(voices or default_path())
    if known is None or not known.voices:
        errors.print("nobody's voice is known yet: 'mlx-speech speakers enroll NAME AUDIO' learns one")
        return
    table = Table("name", "speech", "recordings", box=None, header_style="bold", pad_edge=False)
    for voice in known.voices:
        table.add_row(voice.name, clock(voice.seconds), str(voice.recordings))
    out.print(table)


@speakers.command()
def rename(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    voices: Store = None,
) -> None:
    """Call somebody by another name."""
    path = voices or default_path()
    change_voices(lambda _: known_voices(path).rename(name, new), path)


@speakers.command()
def merge(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER", help="Names that mean the same person.")],
    voices: Store = None,
) -> None:
    """Make one voice of several that are one person's."""
    path = voices or default_path()
    change_voices(lambda _: known_voices(path).merge(name, tuple(others)), path)


@speakers.command()
def forget(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Whom.")], voices: Store = None
) -> None:
    """Forget voices; what earlier transcripts say stays."""
    path = voices or default_path()
    change_voices(lambda _: known_voices(path).forget(tuple(names)), path)
