"""Values and names in error messages: short, whatever a file holds."""

from __future__ import annotations

import reprlib
import shlex
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


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line; its class if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].strip())


def printable(text: str) -> str:
    """On one line, and without what a terminal would take for a command."""
    return text if text.isprintable() else repr(text)[1:-1]


def shell_word(text: str) -> str:
    """A word that a shell takes for this text, quoted only if that is needed.

    A text that can't be shown on one line, or holds bytes that are no UTF-8, is written as
    $'...', which bash, zsh and ksh know.
    """
    if text.isprintable():
        quoted = shlex.quote(text)
        return f"./{quoted}" if text.startswith("-") else quoted
    escaped = [
        chr(byte)
        if chr(byte).isprintable() and byte < 127 and chr(byte) not in "'\\"
        else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    ]
    # After \xNN, a shell would read on while there are hexadecimal digits; it takes two at most.
    return f"$'{''.join(escaped)}'"


def shortened(text: str) -> str:
    """A text, abridged."""
    return _abridged(text, LONGEST)


def _abridged(text: str, longest: int) -> str:
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
