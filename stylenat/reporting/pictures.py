"""A run's sample grids as data URIs of WebP, few and small enough for one page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from stylenat.layout import RunPaths, numbered

MOST_GRIDS = 24
MOST_BYTES = 12_000_000  # of all grids of a page, as text
MOST_SIDE = 1600  # pixels; a larger grid is scaled down
LOSSLESS_SIDE = 512  # pixels; up to here WebP keeps every one of them
QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """One grid as the page holds it. `nimg` is None for the grid of real images."""

    nimg: int | None
    uri: str
    width: int
    height: int
    is_scaled: bool


@dataclass(frozen=True)
class Pictures:
    """The grids that are shown, the oldest first, of `count` in the folder."""

    shown: list[Picture]
    count: int
    reals: Picture | None = None
    unreadable: list[str] = field(default_factory=list)


def read_pictures(
    paths: RunPaths, *, most: int = MOST_GRIDS, most_bytes: int = MOST_BYTES
) -> Pictures:
    """The grids of a run, evenly thinned to `most` of them and to `most_bytes`, of which the grid
    of real images takes a part; the first and the last stay as long as two fit."""
    files = numbered(paths.samples, ".png")[::-1]
    unreadable: list[str] = []
    reals = _read(paths.reals, unreadable) if paths.reals.exists() else None
    left = most_bytes - (len(reals.uri) if reals else 0)
    read: dict[Path, Picture | None] = {}
    count = min(most, len(files))
    while True:
        chosen = evenly(files, count)
        for path in chosen:
            if path not in read:
                read[path] = _read(path, unreadable)
        shown = [picture for path in chosen if (picture := read[path]) is not None]
        size = sum(len(picture.uri) for picture in shown)
        if size <= left or count <= 1:
            return Pictures(shown, len(files), reals, unreadable)
        count = max(1, min(count - 1, count * left // size))


def evenly(files: list[Path], count: int) -> list[Path]:
    """`count` of the files, evenly spaced, the last one and (of two or more) the first among
    them."""
    if count < 2:
        return files[-1:] if count else []
    return [files[index * (len(files) - 1) // (count - 1)] for index in range(count)]


def _read(path: Path, unreadable: list[str]) -> Picture | None:
    """A grid as WebP; None, and its name in the list, if it can't be read as a picture."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        unreadable.append(path.name)
        return None
    side = max(image.size)
    if side > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=side <= LOSSLESS_SIDE, quality=QUALITY)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    nimg = int(path.stem) if path.stem.isdecimal() else None
    return Picture(nimg, uri, *image.size, is_scaled=side > MOST_SIDE)
