"""A converted folder onto the Hugging Face Hub, by the Hub's own client: one commit, checked before it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_speech.converters._record import name_repository
from mlx_speech.errors import CheckpointError, OutputError
from mlx_speech.loading import open_checkpoint


def upload(folder: Path, repo: str, *, private: bool = False) -> str:
    """Create the repository if need be, and put the folder there in one commit; its card then names the repository.

    Files that are there already are not sent again, so an interrupted upload goes on where it was.

    Args:
        folder: made by ``mlx-convert convert``.
        repo: ``"org/name"``.
        private: make the repository private; one that is there and public is refused.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: the folder is no converted checkpoint, or holds links.
        OutputError: no token or a wrong one, no right to write, no network, or the Hub's refusal.
    """
    check_folder(folder)
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise OutputError(
                f"{repo} is there already and public; make it private on the Hub, or leave out --private"
            )
        _name(folder, repo)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Upload a model converted by mlx-convert",
            allow_patterns=["*.json", "*.safetensors", "*.md", "*.txt", "LICEN[CS]E*"],
        )
    return str(commit.commit_url)


def _name(folder: Path, repo: str) -> None:
    """Put the repository's name into the card's example."""
    card = folder / "README.md"
    if card.is_file():
        before = card.read_text(encoding="utf-8")
        after = name_repository(before, repo)
        if after != before:
            beside = folder / ".README.md"
            beside.write_text(after, encoding="utf-8")
            beside.replace(card)


def check_folder(folder: Path) -> None:
    """Whether a folder is what ``mlx-convert`` makes, whole and without links.

    Raises:
        CheckpointError: it is not.
    """
    opened = open_checkpoint(folder)
    if opened.layout != "mlx_speech":
        raise CheckpointError(f"{folder}: an original ({opened.layout}); convert it first")
    opened.outline()
    links = sorted(p.name for p in folder.rglob("*") if p.is_symlink())
    if links:
        raise CheckpointError(f"{folder}: {', '.join(links[:4])} is a link; put the file itself there")


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the client raises, in one line that names the remedy and holds no token."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except OutputError:
        raise
    except LocalTokenNotFoundError:
        raise OutputError(f"{repo}: {_REMEDIES[401]}") from None
    except HFValidationError:
        raise OutputError(f"{repo}: not a repository's name (org/name)") from None
    except OfflineModeIsEnabled:
        raise OutputError(f"{repo}: offline mode is on (HF_HUB_OFFLINE); unset it and try again") from None
    except Exception as error:
        # the client wraps what happens to one of several files
        reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(reason, HfHubHTTPError):
            status = reason.response.status_code
            raise OutputError(f"{repo}: the Hub answers {status}: {_REMEDIES.get(status, _OTHER)}") from None
        if type(reason).__module__.partition(".")[0] not in _NETWORK and not isinstance(reason, OSError):
            raise
        raise OutputError(
            f"{repo}: the Hub cannot be reached ({type(reason).__name__}); what has arrived is kept: try again"
        ) from None


_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2")
_OTHER = "try again later"
_REMEDIES = {
    401: "no token, or a wrong one; log in with 'hf auth login' or set HF_TOKEN to a token that may write",
    403: "this token may not write there; take a token with the right to write, or another name",
    404: "no such organisation or repository for this token",
    409: "the repository is being changed by someone else; try again",
    413: "a file is larger than the Hub takes",
    429: "too many requests; wait some minutes and try again",
}
