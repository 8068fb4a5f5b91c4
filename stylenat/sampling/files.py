"""Seeds, and classes if the generator has some -> a folder of PNG files and a contact sheet, by
all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ops.checks import check_whole
from stylenat.distributed import all_gather, interleaved, is_main, own_share
from stylenat.files import user_path
from stylenat.models import Generator
from stylenat.progress import progress_bar
from stylenat.sampling.images import contact_sheet, generate, save_png, save_sheet
from stylenat.sampling.seeds import check_seeds

MOST_CELLS = 10_000
DEFAULT_SIDE = 10  # cells of a sheet whose size nobody chose


class _Wanted(NamedTuple):
    """One image: its seed, and its class if there are classes."""

    seed: int
    label: int | None

    @property
    def file(self) -> str:
        of_class = "" if self.label is None else f"class{self.label}-"
        return f"{of_class}seed{self.seed:04d}.png"


def _in_order(
    seeds: Sequence[int], classes: Sequence[int] | None, sheet: tuple[int, int] | None
) -> tuple[list[_Wanted], int]:
    """Every seed in every class, and how many of them the sheet shows: these come first."""
    columns, rows = (0, 0) if sheet is None else sheet
    if classes is None or len(classes) == 1:
        label = None if classes is None else classes[0]
        return [_Wanted(seed, label) for seed in seeds], min(columns * rows, len(seeds))
    shown = [_Wanted(seed, label) for label in classes[:rows] for seed in seeds[:columns]]
    others = [
        _Wanted(seed, label)
        for row, label in enumerate(classes)
        for column, seed in enumerate(seeds)
        if row >= rows or column >= columns
    ]
    return [*shown, *others], len(shown)


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

    With `classes`, which a generator with classes needs, every seed is drawn in each of these: the
    files are `class0-seed0000.png` ..., and if there are several, each has a row of the sheet.
    `sheet`: columns and rows of `grid.png`, or None for no sheet. Every rank takes the images at
    its own positions, and rank 0 writes the sheet. Every file is whole or not there. Raises
    ValueError for no seeds, and OSError if the folder cannot be written.
    """
    check_seeds(seeds, scheme)
    if not len(seeds):  # not `not seeds`: an array has no truth value
        raise ValueError("there must be at least one seed")
    if sheet is not None:
        check_sheet(*sheet)
    outdir = user_path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    wanted, cells = _in_order(seeds, classes, sheet)
    own = [wanted[position] for position in own_share(range(len(wanted)))]
    own_cells = len(own_share(range(cells)))
    labels = [image.label for image in own if image.label is not None]
    side = generator.resolution
    kept = [torch.empty(0, side, side, 3, dtype=torch.uint8)]
    settings: dict[str, Any] = {"truncation_psi": truncation_psi, "dtype": dtype, "scheme": scheme}
    done = 0
    with progress_bar("Images", len(own)) as advance:
        own_seeds = [image.seed for image in own]
        for images_BHW3 in generate(generator, own_seeds, labels or None, batch=batch, **settings):
            names = own[done : done + len(images_BHW3)]
            for image, image_HW3 in zip(names, images_BHW3, strict=True):
                save_png(image_HW3, outdir / image.file)
            kept.append(images_BHW3[: max(0, own_cells - done)])
            done += len(images_BHW3)
            advance(len(images_BHW3))
    if sheet is not None:
        own_NHW3 = torch.cat(kept).to(generator.const.device)
        shares = all_gather(own_NHW3)
        if is_main():
            sheet_HW3 = contact_sheet(interleaved(shares).cpu(), *sheet)
            save_sheet(sheet_HW3, outdir / "grid.png")
