"""Leaves out of a report in which folders things lie: they name the machine and its user."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from stylenat.config import RunConfig

PATHS = (("data", "path"), ("train", "init_from"), ("metrics", "weights"))
FOLDERS = re.compile(r"""(?<![\w.~/\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'":,;]+[/\\])+""")


class Privacy:
    """Knows the folders of a run and of what its configuration names."""

    def __init__(self, run: Path, config: RunConfig) -> None:
        named = (getattr(getattr(config, section), key) for section, key in PATHS)
        paths = [run, *(Path(path) for path in named if path)]
        found = {str(Path.cwd())}
        with suppress(RuntimeError):  # a user without a home
            found.add(str(Path.home()))
        for path in paths:
            found |= {str(path.parent), str(path.absolute().parent), str(path.resolve().parent)}
        found -= {".", "/"}
        # The longest first, so that of a folder inside another nothing stays.
        folders = map(re.escape, sorted(found, key=len, reverse=True))
        self.folders = re.compile(rf"(?<![\w.-])(?:{'|'.join(folders)})/")

    def hide(self, text: str) -> str:
        """A text, in which paths have lost their folders."""
        return FOLDERS.sub("", self.folders.sub("", text))

    def hide_in(self, data: Any) -> Any:
        """Plain data, with every text as `hide` leaves it."""
        if isinstance(data, dict):
            return {self.hide(str(key)): self.hide_in(value) for key, value in data.items()}
        if isinstance(data, list):
            return [self.hide_in(value) for value in data]
        return self.hide(data) if isinstance(data, str) else data
