"""Models on the Hugging Face Hub: `hf:USER/NAME[@REVISION]` names one, and `pull` fetches it.

Only safetensors files are fetched, since .pt and .pkl files can hold programs. The package
huggingface-hub does the work: files lie in its own cache, private repositories open with the login
that it keeps, and HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stylenat.extras import require
from stylenat.text import first_line, shortened

PREFIX = "hf:"
FILE = "model.safetensors"
MAIN = "main"
LOG_IN = "log in with `hf auth login`"

WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"{WORD}/{WORD}")
# Of a branch or a tag, every part between slashes becomes a folder of the cache.
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?"
REVISION = re.compile(rf"{PART}(?:/{PART})*")
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_REPOSITORY, LONGEST_REVISION = 96, 200  # characters; the first is the Hub's own limit
# How the cache names the folder of a commit. No name on the Hub holds two dashes in a row.
CACHED = re.compile(rf"models--({WORD}?)--({WORD}?)/snapshots/({COMMIT.pattern})/[^/]+$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubModel:
    """A repository, `user/name`, and a branch, tag or commit of it; None is the branch main."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{revision}"


def is_hub_name(path: str | Path) -> bool:
    """Whether this names a model on the Hub; a file of such a name must be written `./hf:...`."""
    return str(path).startswith(PREFIX)


def parse_name(path: str | Path) -> HubModel:
    """`hf:user/name` or `hf:user/name@v1.0`, taken apart. Raises ValueError for another text."""
    text = str(path)
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    _check(repository, text, f"; a file of this name must be given as ./{PREFIX}...")
    if at and not _is_revision(revision):
        raise ValueError(
            f"{shortened(text)}: after @ there must be a branch, a tag or a commit, made of "
            "letters, digits, dots, dashes, underscores, plus signs and slashes"
        )
    return HubModel(repository, revision if at else None)


def repository_name(repository: str, branch: str | None) -> HubModel:
    """A place to write to: `user/name`, and a branch. Raises ValueError for what can be none."""
    _check(repository, repository, "")
    if branch is not None and (not _is_revision(branch) or COMMIT.fullmatch(branch)):
        raise ValueError(
            "--revision must be a branch to write to, made of letters, digits, dots, dashes, "
            f"underscores, plus signs and slashes, and not a commit: {shortened(branch)}"
        )
    return HubModel(repository, branch)


def _check(repository: str, text: str, way_out: str) -> None:
    if (
        not REPOSITORY.fullmatch(repository)
        or len(repository) > LONGEST_REPOSITORY
        or any(pair in repository for pair in ("--", ".."))
        or repository.endswith(".git")
    ):
        raise ValueError(
            f"{shortened(text)}: a repository on the Hub must be named USER/NAME, made of letters, "
            f"digits, dots, dashes and underscores, {LONGEST_REPOSITORY} characters at most"
            f"{way_out}"
        )


def _is_revision(text: str) -> bool:
    return (
        REVISION.fullmatch(text) is not None
        and len(text) <= LONGEST_REVISION
        and ".." not in text
        and not text.endswith(".lock")
    )


def name_of(file: Path) -> str | None:
    """`hf:user/name@commit` of a file in the cache; None for any other file.

    The commit says which model it is for good: branches move.
    """
    found = CACHED.search(file.as_posix())
    return found and str(HubModel(f"{found[1]}/{found[2]}", found[3]))


def pull(path: str | Path, *, beside: Sequence[str] = ()) -> Path:
    """The file of a model on the Hub, in the cache; it is fetched if it is not there yet.

    Files named in `beside` are fetched into the same folder, of the same commit, if the repository
    has them. If the Hub can't be reached, the copy in the cache is taken, with a warning. Raises
    ValueError, one sentence that names the model, if it can't be had; OSError for a full disk.
    """
    model = parse_name(path)
    require(str(model), "huggingface-hub", extra="hub")
    with _bars_on_terminals_alone():
        with refusing(model):
            file = _fetched(model, FILE)
        _check_safetensors(model, file)
        commit = replace(model, revision=file.parent.name)
        for name in beside:
            _fetch_if_there(commit, name)
    return file


@contextmanager
def _bars_on_terminals_alone() -> Iterator[None]:
    """As ours are, the progress bars of huggingface_hub are for terminals, and not for files."""
    from huggingface_hub import utils

    changes = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if changes:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if changes:
            utils.enable_progress_bars()


def _fetched(model: HubModel, name: str) -> Path:
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    revision = model.revision or MAIN
    cached = try_to_load_from_cache(model.repository, name, revision=revision)
    if isinstance(cached, str) and COMMIT.fullmatch(revision):  # a commit never changes
        return Path(cached)
    try:
        # hf_hub_download would take the cache's copy without a word, whatever the Hub says.
        get_hf_file_metadata(hf_hub_url(model.repository, name, revision=revision))
    except _failures() as error:
        if not isinstance(cached, str) or not _is_passing(error):
            raise
        file = Path(cached)
        log.warning("%s: %s; the copy in the cache is used, %s", model, _why(error), name_of(file))
        return file
    return Path(hf_hub_download(model.repository, name, revision=revision))


def _fetch_if_there(model: HubModel, name: str) -> None:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    with refusing(model):
        try:
            _fetched(model, name)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # the Hub did not answer
                raise
        except OfflineModeIsEnabled:  # the cache has what was there when the model was fetched
            return


def _check_safetensors(model: HubModel, file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(9)
    if start[8:] != b"{":  # eight bytes of length, then JSON
        raise ValueError(
            f"{model}: its {FILE} is no safetensors file, and no other format is read from the Hub"
        )


# What goes wrong


def _failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises if a question has no answer, or one that says no."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    # Failures of the connection are the errors of the HTTP library, which changes with versions.
    library = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    return (library, OfflineModeIsEnabled, EntryNotFoundError)


def _is_passing(error: Exception) -> bool:
    """Whether the same question may have another answer later."""
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError) or _status(error) >= 500 or _status(error) == 429


def _status(error: Exception) -> int:
    return int(error.response.status_code)  # type: ignore[attr-defined]


def _why(error: Exception) -> str:
    """What is wrong with the Hub itself, in a few words."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        said = f" ({shortened(error.server_message)})" if error.server_message else ""
        return f"{ENDPOINT} answers {_status(error)}{said}"
    return f"{ENDPOINT} can't be reached ({shortened(first_line(error))})"


@contextmanager
def refusing(model: HubModel, *, writing: bool = False) -> Iterator[None]:
    """Within the block, an error of huggingface_hub becomes a ValueError, one sentence.

    `writing`: whether the block writes to the repository, or reads from it.
    """
    try:
        yield
    except _failures() as error:
        raise ValueError((_refused_writing if writing else _sentence)(model, error)) from error
    except RuntimeError as error:  # of an upload, which has retried
        raise ValueError(f"{model}: {first_line(error)} Give the same command again.") from error
    except OSError as error:
        if error.errno is None:  # a text of huggingface_hub, such as of a file of another length
            raise ValueError(f"{model}: {first_line(error)}") from error
        raise


def _refused_writing(model: HubModel, error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and not _is_passing(error):
        if _status(error) in (403, 404):
            return f"{model}: {_why(error)}: your login may not write there; check USER/NAME"
        if _status(error) == 401:
            return f"{model}: {_why(error)}: your login is not accepted; {LOG_IN} again"
        return f"{model}: {_why(error)}"
    return f"{model}: {_why(error)}: give the same command again later"


def _sentence(model: HubModel, error: Exception) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{ENDPOINT}/{model.repository}"
    if isinstance(error, GatedRepoError):
        return f"{model} is given to those alone who ask: ask at {page}, and {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return f"{model}: there is no {page}, or it is private: check the name, or {LOG_IN}"
        return f"{model}: there is no {page}, or your login may not read it: check the name"
    if isinstance(error, RevisionNotFoundError):
        return f"{model}: {page} has no branch, tag or commit of that name"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{model} could not be fetched from {ENDPOINT}, which stopped answering: try again"
    if isinstance(error, EntryNotFoundError):
        return (
            f"{model}: {page} has no {FILE}, and nothing else is read from the Hub, as .pt and "
            ".pkl files can hold programs"
        )
    if not _is_passing(error):
        if _status(error) in (401, 403):
            return f"{model}: {_why(error)}: your login is not accepted; {LOG_IN} again"
        return f"{model}: {_why(error)}"
    return f"{model} is not in the cache, and {_why(error)}: try again when the Hub can be reached"
