"""The ground floor of files: paths that users give, files that are whole or not there, locks, and
files and streams that outlast a full disk and a closed terminal."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from ops.files import cache_folder as cache_folder
from ops.files import take_lock as take_lock
from ops.files import user_path as user_path


def private_folder(path: Path) -> Path:
    """The folder; it and those above it are made if they are missing, for this user alone.

    Raises OSError if one cannot be made.
    """
    # With parents=True, mkdir gives its mode to the last folder only.
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True, mode=0o700)
    return path


def check_can_write(path: str | Path) -> None:
    """Raises OSError, naming what is wrong, unless `replacing` can write the file `path`.

    For before the work whose result the file is to hold. Creates nothing that stays.
    """
    _check_writable(_target(path).parent)


def refuse_overwriting(path: str | Path, *inputs: str | Path | None) -> None:
    """Raises ValueError if the file to be written is one of those that are read, by any name."""
    for name in inputs:
        if name is not None and _is_same_file(Path(path), user_path(name)):
            raise ValueError(f"{path} must be another file than {name}, which is read")


def _is_same_file(one: Path, other: Path) -> bool:
    """Through links of either kind; neither need exist."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def check_can_fill(folder: str | Path) -> None:
    """Raises OSError, naming what is wrong, unless files can be written into `folder`.

    It need not exist: then it must be possible to make it, and those above it. For before the work
    whose results it is to hold. Creates nothing that stays.
    """
    path = Path(folder).absolute()
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    _check_writable(path)


def _check_writable(folder: Path) -> None:
    try:
        # A try, since neither modes nor os.access know of every mount, quota and access list.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def naming(path: str | Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """An OSError of the block that names no file, or names `instead_of`, names `path` from here on.

    Errors of writing, flushing and closing name no file: "Read-only file system", but which one?
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.filename != str(instead_of):
            raise
        if error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if type(error) is OSError:  # a sentence of Python's or PIL's
            raise OSError(f"{path}: {error}") from error
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to; the finished file takes its place in one step.

    Whoever reads `path` sees the old file or the new one, whole, even after a power cut. If the
    block raises, `path` is as it was and the new file is gone. Raises OSError for a folder that is
    not there, or in the place of a file. An OSError of the block that names no file, such as a full
    disk's, names `path`.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path, instead_of=temporary):
            yield temporary
            _flush_to_disk(temporary)
            temporary.replace(target)
            if os.name == "posix":
                _flush_to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _target(path: str | Path) -> Path:
    """The file that `path` leads to, which need not exist. Raises OSError if it can be none."""
    target = Path(os.path.realpath(path))
    fault, named = None, str(path)
    if target.is_dir():
        fault = errno.EISDIR
    elif not os.path.lexists(target.parent):
        fault, named = errno.ENOENT, str(target.parent)
    elif not target.parent.is_dir():
        fault, named = errno.ENOTDIR, str(target.parent)
    elif target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe, and would be replaced", str(path))
    if fault is not None:
        raise OSError(fault, os.strerror(fault), named)
    return target


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError if it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileLock:
    """A lock on `path`, from `acquire` until the end of the block or of the process.

    Processes that this one forks, such as those that read images and live on for seconds after a
    kill, do not hold it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[str] | None = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def acquire(self) -> None:
        """Take the lock, or keep it. Raises ValueError, naming the holder, if another has it."""
        if self.file is not None:
            return
        file = self.path.open("a+", encoding="utf-8")
        if not take_lock(file, unlocked="nothing else may train there"):
            holder = _holder(file)
            file.close()
            raise ValueError(
                f"{self.path.parent} is being trained by {holder}: stop that process, or choose "
                "another --run-dir"
            )
        with naming(self.path):
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
        self.file = file


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        holder: dict[str, Any] = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # killed before it wrote its name
        return "another process"


class LastingFile:
    """A text file that grows by whole lines. What cannot be written waits for the next time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []

    def append(self, line: str) -> OSError | None:
        """Add a line, after all that wait; the error if the disk takes none of them now."""
        self.waiting.append(f"{line}\n")
        data = "".join(self.waiting).encode("utf-8", "backslashreplace")
        try:
            # Opened every time: what holds a file open for weeks meets a lost mount.
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    while data:
                        data = data[file.write(data) :]
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            return error
        self.waiting.clear()
        return None


class LastingStream:
    """A text stream that may break, as standard error does when the terminal is closed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
