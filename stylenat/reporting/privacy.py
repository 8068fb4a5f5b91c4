"""Leaves out of a report in which folders things lie: they name the machine and its user."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from stylenat.config import RunConfig, to_dict

PATHS = (("data", "path"), ("train", "init_from"), ("metrics", "weights"))
FOLDERS = re.compile(r"""(?<![\w.~/\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'":,;]+[/\\])+""")


def last_part(path: str) -> str:
    """What a path leads to, without the folders that it lies in; both kinds of slash count."""
    return PureWindowsPath(path).name or path


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


def public_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain data, each path reduced to its last part."""
    data = to_dict(config)
    for section, key in PATHS:
        if data[section].get(key):
            data[section][key] = last_part(data[section][key])
    return data
