"""Files and streams that outlast a full disk and a closed terminal."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class LastingFile:
    """A text file that grows by whole lines. What cannot be written waits for the next time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []

    def append(self, line: str) -> OSError | None:
        """Add a line, after all that wait; the error where the disk takes none of them now."""
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
