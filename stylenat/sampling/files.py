"""Styles -> a folder of PNG files and a contact sheet, by all ranks.

Legend: B batch, N images, H height, W width, L blocks, S style_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ops.checks import check_whole
from stylenat.distributed import all_gather, interleaved, is_main, own_share
from stylenat.files import user_path
from stylenat.models import Generator
from stylenat.progress import progress_bar
from stylenat.sampling.images import (
    check_rendering,
    contact_sheet,
    render,
    save_png,
    save_sheet,
)
from stylenat.sampling.styles import Styles

MOST_CELLS = 10_000
DEFAULT_SIDE = 10  # cells of a sheet whose size nobody chose


def default_sheet(count: int, classes: int = 0) -> tuple[int, int]:
    """Columns and rows of a nearly square sheet of `count` images, or of the first hundred.

    With several classes, a row for each of the first hundred, of `count` images or the first ten.
    """
    if classes > 1:
        return min(count, DEFAULT_SIDE), min(classes, DEFAULT_SIDE**2)
    count = min(count, DEFAULT_SIDE**2)
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def check_sheet(columns: int, rows: int) -> None:
    """Raises ValueError unless the sheet has 1 to 10,000 cells."""
    check_whole("a contact sheet's columns", columns)
    check_whole("a contact sheet's rows", rows)
    if columns < 1 or rows < 1 or columns * rows > MOST_CELLS:
        raise ValueError(
            f"a contact sheet must be columns x rows, 1 to {MOST_CELLS:,} images: {columns}x{rows}"
        )


def write_samples(
    generator: Generator,
    seeds: Sequence[int],
    outdir: str | Path,
    *,
    sheet: tuple[int, int] | None,
    classes: Sequence[int] | None = None,
    batch: int = 8,
    truncation_psi: float = 1.0,
    dtype: torch.dtype = torch.float32,
    scheme: str = "torch",
) -> None:
    """Write `seed0000.png` ... to `outdir`, and `grid.png` of the first seeds.

    As `write_images`, for seeds, in each of `classes` if the generator has classes. Raises
    ValueError as that and `Styles` do.
    """
    styles = Styles(generator, seeds, classes, scheme=scheme, truncation_psi=truncation_psi)
    write_images(styles, outdir, sheet=sheet, batch=batch, dtype=dtype)


def write_images(
    styles: Styles,
    outdir: str | Path,
    *,
    sheet: tuple[int, int] | None,
    batch: int = 8,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `NAME.png` of each style to `outdir`, and `grid.png` of the first ones.

    `sheet`: columns and rows of `grid.png`, or None for no sheet. If there are several classes,
    each has a row of it. Every rank takes the styles at
    its own positions, and rank 0 writes the sheet. Every file is whole or not there. Raises
    ValueError for no styles, and OSError if the folder cannot be written.
    """
    if not len(styles):
        raise ValueError("there must be at least one seed")
    check_rendering(batch, dtype)
    if sheet is not None:
        check_sheet(*sheet)
    outdir = user_path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    generator = styles.generator
    places, cells = _in_order(styles, sheet)
    own = own_share(places)
    own_cells = len(own_share(range(cells)))
    side = generator.resolution
    kept = [torch.empty(0, side, side, 3, dtype=torch.uint8)]
    done = 0
    with progress_bar("Images", len(own)) as advance:
        for names, ws_BLS in styles.batches(own, batch=batch):
            images_BHW3 = render(generator, ws_BLS, dtype=dtype)
            for name, image_HW3 in zip(names, images_BHW3, strict=True):
                save_png(image_HW3, outdir / f"{name}.png")
            kept.append(images_BHW3[: max(0, own_cells - done)])
            done += len(images_BHW3)
            advance(len(images_BHW3))
    if sheet is not None:
        own_NHW3 = torch.cat(kept).to(generator.const.device)
        shares = all_gather(own_NHW3)
        if is_main():
            columns, rows = sheet
            columns = min(columns, len(styles.seeds)) if _has_class_rows(styles) else columns
            sheet_HW3 = contact_sheet(interleaved(shares).cpu(), columns, rows)
            save_sheet(sheet_HW3, outdir / "grid.png")


def _has_class_rows(styles: Styles) -> bool:
    return styles.classes is not None and len(styles.classes) > 1


def _in_order(styles: Styles, sheet: tuple[int, int] | None) -> tuple[Sequence[int], int]:
    """The places of all styles, and how many of them the sheet shows: these come first."""
    columns, rows = (0, 0) if sheet is None else sheet
    every = range(len(styles))
    if not _has_class_rows(styles):
        return every, min(columns * rows, len(every))
    seeds = len(styles.seeds)
    shown = [place for place in range(styles.drawn) if place % seeds < columns]
    shown = shown[: rows * min(columns, seeds)]
    return [*shown, *sorted(set(every) - set(shown))], len(shown)
