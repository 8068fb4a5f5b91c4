"""One process at a time: a lock on a file, which the kernel lets go when its process dies."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import IO, Any

from ops.files import take_lock
from stylenat.config.files import naming


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
        """Take the lock, or keep it. Raises ValueError, naming the holder, where another has it."""
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
