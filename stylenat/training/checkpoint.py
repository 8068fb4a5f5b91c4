"""Training states as files: written whole, with their SHA-256 beside them; the newest one wins."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from stylenat.config import replacing

FORMAT = 1

log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, content: dict[str, Any], *, keep: int) -> Path:
    """Write `content` (state dicts and plain data, with `nimg`) to FOLDER/NIMG.pt.

    The newest `keep` checkpoints stay. Raises OSError where it cannot be written; the older ones
    are still there then.
    """
    path = folder / f"{content['nimg']:09d}.pt"
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)
        digest = _sha256(temporary)
        _digest_path(path).unlink(missing_ok=True)
    with replacing(_digest_path(path)) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")
    for old in checkpoints(folder)[keep:]:
        _digest_path(old).unlink(missing_ok=True)
        old.unlink()
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None where there are none at all.

    Raises ValueError where there are some, and every one is damaged.
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
    """What `save_checkpoint` wrote, on the CPU. Raises ValueError for another format."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {content.get('format')}, and this StyleNAT reads "
            f"{FORMAT}"
        )
    return content


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, the newest first, whole or not."""
    found = [path for path in folder.glob("*.pt") if path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem), reverse=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written."""
    try:
        expected = _digest_path(path).read_text().split()[0]
    except (OSError, IndexError):
        return False
    return _sha256(path) == expected


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
