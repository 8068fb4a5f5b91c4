"""The configurations that come with StyleNAT, by name: `ffhq256` is configs/ffhq256.yaml."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from stylenat.files import user_path

SUFFIX = ".yaml"


def shipped_folder() -> Path:
    """Where they are: within the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    within = package / "configs"
    return within if within.is_dir() else package.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Every shipped configuration by its name, in the order of the names."""
    return {path.stem: path for path in sorted(shipped_folder().glob(f"*{SUFFIX}"))}


def find_config(name: str | Path) -> Path:
    """The file that `name` is, or otherwise the shipped configuration of that name.

    Raises FileNotFoundError, with the names that there are, if it is neither.
    """
    path = user_path(name)
    if path.exists():
        return path
    shipped = shipped_configs()
    if len(path.parts) != 1:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if path.suffix in ("", SUFFIX) and path.stem in shipped:
        return shipped[path.stem]
    raise FileNotFoundError(
        f"{path}: there is no such file, and no configuration of that name; StyleNAT comes with "
        f"{', '.join(shipped)}"
    )


def about(path: Path) -> str:
    """The first sentence of a configuration's opening comment."""
    words = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") or not line.strip("# \n"):
                break
            words.append(line.strip("# \n"))
    first, stop, _ = " ".join(words).partition(". ")
    return first + stop.strip()
