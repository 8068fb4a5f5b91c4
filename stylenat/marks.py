"""The mark in our contact sheets and curves, by which readers tell them from images."""

from __future__ import annotations

KEY = "Software"  # of a PNG's text chunk
SHEET = "StyleNAT contact sheet"
CURVES = "StyleNAT curves"
READ_BYTES = 1024  # of a file; the mark stands before the pixels


def is_marked(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is one of our contact sheets or curves."""
    return any(b"tEXt%b\0%b" % (KEY.encode(), word.encode()) in first_bytes for word in MARKS)


MARKS = (SHEET, CURVES)
