"""Values and names in error messages: short, whatever a file holds."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

LONGEST = 80
MOST_NAMES = 5


def shown(value: object) -> str:
    """A value, abridged; a list of lists to its second level."""
    limited = reprlib.Repr()
    limited.maxlevel = 2
    return _abridged(limited.repr(value), LONGEST)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(_abridged(name, 2 * LONGEST) for name in names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return f"{first} and {more} more" if more > 0 else first


def printable(text: str) -> str:
    """On one line, and without what a terminal would take for a command."""
    return text if text.isprintable() else repr(text)[1:-1]


def shortened(text: str) -> str:
    """A text, abridged."""
    return _abridged(text, LONGEST)


def _abridged(text: str, longest: int) -> str:
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
