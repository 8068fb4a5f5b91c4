"""Training states as files, each with its SHA-256 beside it. A run continues from the newest.

The digest is written before the checkpoint takes its name: a process that is killed leaves a lone
digest or a temporary file, never a checkpoint without a digest, which could be a damaged one.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stylenat import __version__
from stylenat.files import naming, replacing, sha256_of
from stylenat.layout import numbered, numbered_name
from stylenat.legacy.training_state import FORMAT
from stylenat.untrusted import load_untrusted

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # as `replacing` names them
SET_ASIDE = ".damaged"

log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, content: dict[str, Any], *, keep: int) -> Path:
    """Write `content` (state dicts and plain data, with `nimg`) to FOLDER/NIMG.pt.

    The newest `keep` checkpoints stay. Raises OSError, with the file's name, if it cannot be
    written. Then all older ones are still there, and so is one of the same `nimg`.
    """
    path = folder / numbered_name(content["nimg"], ".pt")
    with naming(path):
        with replacing(path) as temporary:
            digest = _write(temporary, content)
            # Until the file has been replaced, its old digest holds too.
            _write_digests(path, [digest, *_digests(path)])
        _write_digests(path, [digest])
    for old in checkpoints(folder)[keep:]:
        _remove(old)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None if there are no checkpoints.

    Raises ValueError if there are some, and all of them are damaged.
    """
    paths = checkpoints(folder)
    for path in paths:
        if is_whole(path):
            return path
        log.warning("%s is damaged or incomplete; trying the one before", path)
    if paths:
        raise ValueError(
            f"{folder}: all {len(paths)} checkpoints are damaged or incomplete; "
            "restore one, or remove them to start anew"
        )
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. No code that the file names is run.

    Raises ValueError, which names the file, if it is none of ours or has another format.
    """
    content: Any = load_untrusted(path, mapped=False)
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, int):
        raise ValueError(f"{path} is no checkpoint of StyleNAT: it has no format")
    if found != FORMAT:
        writer = content.get("stylenat_version", "of another version")
        raise ValueError(
            f"{path} has checkpoint format {found}, of StyleNAT {writer}, and this StyleNAT, "
            f"{__version__}, reads {FORMAT}"
        )
    return content


def clean_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove or rename what a killed process or a damaged disk left behind in the folder.

    Temporary files and digests without a checkpoint are removed, then all but the newest `keep`
    checkpoints. Damaged ones that are newer than the newest whole one, and those without a digest,
    get the ending `.damaged`, since they would count as kept; they are removed the next time.
    Nobody may write to the folder meanwhile.
    """
    for path in list(folder.iterdir()):
        is_lone_digest = path.suffix == ".sha256" and not path.with_suffix("").exists()
        if TEMPORARY.fullmatch(path.name) or is_lone_digest or path.suffix == SET_ASIDE:
            path.unlink()
    newest = newest_checkpoint(folder)
    if newest is None:
        return
    for path in checkpoints(folder):
        if int(path.stem) > int(newest.stem) or not _digests(path):
            log.warning("%s is now %s%s", path, path.name, SET_ASIDE)
            path.rename(path.with_name(path.name + SET_ASIDE))
            _digest_path(path).unlink(missing_ok=True)
    for path in checkpoints(folder)[keep:]:
        _remove(path)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, the newest first, damaged ones too."""
    return numbered(folder, ".pt")


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written."""
    digests = _digests(path)
    return bool(digests) and sha256_of(path) in digests


def _write(path: Path, content: dict[str, Any]) -> str:
    """Write the file, and return its SHA-256."""
    with path.open("wb") as file:
        stream = _Hashing(file)
        try:
            # Given a path, PyTorch would make a RuntimeError of every failed write.
            torch.save({"format": FORMAT, "stylenat_version": __version__, **content}, stream)  # type: ignore[arg-type]
        except RuntimeError as error:
            if stream.error is None:
                raise
            raise stream.error from error
    return stream.digest.hexdigest()


class _Hashing:
    """A file that is hashed while it is written; `error` is the first one of writing."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count = self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(data)
        return count

    def flush(self) -> None:
        self.file.flush()


def _remove(path: Path) -> None:
    # If the process is killed in between, a lone digest is left, and no damaged checkpoint.
    path.unlink()
    _digest_path(path).unlink(missing_ok=True)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digests(path: Path) -> list[str]:
    """The SHA-256 of a checkpoint, two while it is being replaced, none if it has no digest."""
    try:
        lines = _digest_path(path).read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in lines if line.strip()]


def _write_digests(path: Path, digests: list[str]) -> None:
    with replacing(_digest_path(path)) as temporary:
        temporary.write_text("".join(f"{digest}  {path.name}\n" for digest in digests))
