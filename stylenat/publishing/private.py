"""What must not leave this machine: where its files lie, and so who works on it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from stylenat.hub import FILE

TEXTS = (".md", ".yaml", ".json")


def refuse_private(folder: Path, places: Iterable[Path]) -> None:
    """Raises ValueError if a text file of the folder, or the header of its model, holds the path of
    the user's home, of the current folder, or of one of these places.

    It is a last look: whoever writes these files leaves folders out.
    """
    known = {str(place.absolute()) for place in (*_home(), Path.cwd(), *places)}
    known |= {os.path.realpath(place) for place in known}
    innermost_first = sorted(known, key=len, reverse=True)
    forbidden = [f"{place}/" for place in innermost_first if place != "/"]
    for path, text in _texts(folder):
        for place in forbidden:
            if _holds(text, place):
                raise ValueError(
                    f"{path.relative_to(folder)} would tell everybody of the folder {place}: leave "
                    "it out of --data-note, and out of the names of classes and directions"
                )


def _home() -> list[Path]:
    try:
        return [Path.home()]
    except RuntimeError:  # a user without one
        return []


def _holds(text: str, place: str) -> bool:
    # https://example.org/data/ is not the folder /data/. JSON has other signs for some characters.
    spellings = {place, json.dumps(place)[1:-1]}
    return any(re.search(rf"(?<![\w.~-]){re.escape(spelling)}", text) for spelling in spellings)


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXTS:
            yield path, path.read_text(encoding="utf-8", errors="replace")
    with (folder / FILE).open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    yield folder / FILE, header.decode("utf-8", "replace")
