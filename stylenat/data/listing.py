"""Which files of a folder or a zip are images, and what a user is told of the others."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stylenat.data.images import EXTENSIONS
from stylenat.layout import CHECKPOINTS, SAMPLES, SHEET_NAME, SNAPSHOTS, RunPaths
from stylenat.marks import READ_BYTES, is_marked
from stylenat.text import listed, printable

INDEX = "dataset.json"


def normal(name: str) -> str:
    """The name as one writes it today: slashes, no `./`, composed letters (Unicode's NFC)."""
    if name.isascii() and "\\" not in name and "./" not in name and "//" not in name:
        return name.lstrip("/")
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def is_hidden(name: str) -> bool:
    """Whether a part of a normal name begins with a dot, as the files that macOS adds do."""
    return name.startswith(".") or "/." in name


def extension(name: str) -> str:
    """The extension of a normal name, in small letters; empty if it has none."""
    return os.path.splitext(name.rpartition("/")[2])[1].lower()  # noqa: PTH122 (a name)


@dataclass
class Listing:
    """The image files of a data set by name, `index` (its `dataset.json`), and what is left out."""

    images: list[str] = field(default_factory=list)
    index: str | None = None
    others: Counter[str] = field(default_factory=Counter)
    run_folders: list[str] = field(default_factory=list)
    sheets: list[str] = field(default_factory=list)
    unused_indices: list[str] = field(default_factory=list)

    def add(self, name: str, first_bytes: Callable[[str], bytes]) -> None:
        """Sort in one file. Only a file with a contact sheet's name is read, `READ_BYTES` of it."""
        plain = normal(name)
        file = plain.rpartition("/")[2]
        if is_hidden(plain):
            return
        if plain == INDEX and self.index is None:
            self.index = name
        elif file == INDEX:
            self.unused_indices.append(name)
        elif extension(plain) not in EXTENSIONS:
            self.others[extension(plain)] += 1
        elif SHEET_NAME.fullmatch(file) and is_marked(first_bytes(name)):
            self.sheets.append(name)
        else:
            self.images.append(name)

    def remarks(self) -> tuple[str, ...]:
        """A sentence for each kind of what was left out."""
        said = []
        if total := self.others.total():
            counts = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
            kinds = [f"{count:,} {kind or 'without an extension'}" for kind, count in counts]
            are = "is no image" if total == 1 else "are no images"
            said.append(
                f"left out {_count(total, 'file')} that {are} of a known format: {listed(kinds)}"
            )
        for names, what in ((self.run_folders, "run folder"), (self.sheets, "contact sheet")):
            if names:
                said.append(f"left out {_count(len(names), what)}: {listed(sorted(names))}")
        if self.unused_indices:
            unused = listed(sorted(self.unused_indices))
            said.append(f"labels are read from {INDEX} at the top alone, and not from {unused}")
        return tuple(said)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def list_folder(root: Path) -> Listing:
    """What lies below a folder. Links are followed, unless they lead back up.

    Raises OSError for a folder that can't be listed; otherwise its images would be missing
    without a word.
    """
    listing = Listing()

    def first_bytes(name: str) -> bytes:
        try:
            file = root / name
            if not file.is_file():
                return b""
            with file.open("rb") as handle:
                return handle.read(READ_BYTES)
        except OSError:  # named when the image is read
            return b""

    for name in _walk(root, "", (_identity(root),), listing.run_folders):
        listing.add(name, first_bytes)
    return listing


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], run_folders: list[str]
) -> Iterator[str]:
    """Names of files relative to the data set's folder, with slashes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _is_folder(entry):
                yield prefix + entry.name
            elif not entry.name.startswith("."):
                inner = Path(entry.path)
                identity = _identity(inner)
                if is_run_folder(inner):
                    run_folders.append(prefix + entry.name)
                elif identity not in above:
                    yield from _walk(
                        inner, f"{prefix}{entry.name}/", (*above, identity), run_folders
                    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link is asked through Path, which answers False for a link that leads nowhere.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def is_run_folder(folder: Path) -> bool:
    """Whether `stylenat train` made it."""
    try:
        run = RunPaths(folder)
        return run.config.is_file() and (run.checkpoints.is_dir() or run.stats.is_file())
    except OSError:  # as of a folder that can't be entered
        return False


def refuse_run_folder(path: str, folder: Path) -> None:
    """Raises ValueError for the folder of a run, and for the folders that a run makes in it."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay: their names are the user's)
    resolved = folder.resolve()
    parents = [p.parent for p in (whole, resolved) if p.name in (SAMPLES, CHECKPOINTS, SNAPSHOTS)]
    if any(map(is_run_folder, (folder, *parents))):
        raise ValueError(
            f"{printable(path)} is the folder of a training run and no data set: its pictures are "
            "contact sheets and curves; give the images that it was trained on, or those that "
            "`stylenat sample` made"
        )
