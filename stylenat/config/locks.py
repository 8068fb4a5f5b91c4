"""One process at a time: locks that the kernel lets go when their process dies."""

from __future__ import annotations

import errno
from typing import IO, Any

# File systems that lock nothing answer so.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class HeldElsewhere(Exception):
    """Another process has the lock."""


def try_lock(handle: IO[Any]) -> str | None:
    """Lock an open file until it is closed; forked processes do not hold it, and it reaches NFS.

    Returns the reason if the file system, or the system, has no locks: then nothing is locked.
    Raises HeldElsewhere, and OSError if the lock can't be taken for another reason.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX
        return "this system has no such locks"
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise HeldElsewhere from error
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return error.strerror
        raise
    return None
