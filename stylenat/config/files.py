"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def private_folder(path: Path) -> Path:
    """The folder; it and those above it are made where they are missing, for this user alone.

    Raises OSError where one cannot be made.
    """
    # With parents=True, mkdir gives its mode to the last folder only.
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True, mode=0o700)
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to; the finished file takes its place in one step.

    Whoever reads `path` sees the old file or the new one, whole, even after a power cut. If the
    block raises, `path` is as it was and the new file is gone. Raises OSError for a folder that is
    not there, or in the place of a file. An OSError of the block that names no file, such as a full
    disk's, names `path`.
    """
    target = Path(os.path.realpath(path))
    # Else the error would name the temporary file.
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(target)
        if os.name == "posix":
            _flush_to_disk(target.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
