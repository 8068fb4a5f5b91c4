"""The user's folders and locks on files, with nothing but the standard library."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import IO, Any

# The errors of a file system without locks.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
SECONDS_BETWEEN_TRIES = 0.1
MEANINGFUL = ("~", "hf:")  # what begins so is not, or not always, the name of a file

# With this name, the warnings are also in a run's log.txt.
log = logging.getLogger("stylenat.files")


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with `~` and `~name` expanded; a second call changes nothing.

    Raises ValueError, one sentence, for an empty path, an unknown user, and `~` without a home.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"a path must be text or a pathlib.Path: {path!r}")
    text = os.fspath(path)
    if not text:
        raise ValueError("a path must not be empty")
    if not text.startswith("~"):
        found = Path(text)
        # Path("./~x") is Path("~x"): in full, so that to expand it once more changes nothing. And
        # "./hf:x" is a file, while "hf:x" may be a name on the Hub.
        is_mistaken = str(found).startswith(MEANINGFUL) and not text.startswith(MEANINGFUL)
        return found.absolute() if is_mistaken else found
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        name = Path(text).parts[0][1:]
        who = f"there is no user '{name}'" if name else "this user has no home folder"
        help_ = "write the path out" if name else "set HOME, or write the path out"
        raise ValueError(f"{text} can't be found: {who}; {help_}") from error


def cache_folder() -> Path:
    """The folder for what can be made again: STYLENAT_CACHE, or `stylenat` in the user's cache.

    It need not exist. Raises OSError, one sentence, if the user has no home folder.
    """
    chosen, base = os.environ.get("STYLENAT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return user_path(chosen) if chosen else user_path(base or "~/.cache") / "stylenat"
    except ValueError as error:
        fault = error if chosen or base else "this user has no home folder"
        raise OSError(
            f"there is no cache folder: {fault}; set STYLENAT_CACHE to a folder"
        ) from error


def take_lock(file: IO[Any], *, unlocked: str, seconds: float = 0.0) -> bool:
    """Lock an open, writable file until it is closed or this process ends, however it ends.

    Waits for another process that holds the lock, up to so many seconds; returns whether the lock
    was free by then. If the file system or the platform has no locks, a warning names the file and
    says `unlocked` (what happens without a lock), and the answer is True.

    A POSIX record lock: it reaches over NFS, and forked processes do not hold it. The threads of a
    process share it, and it is gone once any of them closes the file. Raises OSError, with the
    file's name, for any other failure.
    """
    try:
        import fcntl
    except ImportError:
        return _warn(file, "this system has no POSIX locks", unlocked)
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return _warn(file, error.strerror or str(error), unlocked)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OSError(error.errno, error.strerror, file.name) from error
        if time.monotonic() >= end:
            return False
        time.sleep(SECONDS_BETWEEN_TRIES)


def _warn(file: IO[Any], reason: str, unlocked: str) -> bool:
    log.warning("%s cannot be locked: %s; %s", file.name, reason, unlocked)
    return True
