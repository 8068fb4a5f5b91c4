"""Seeds -> a folder of PNG files and a contact sheet, by all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ops.checks import check_whole
from stylenat.distributed import all_gather, interleaved, is_main, own_share
from stylenat.files import user_path
from stylenat.models import Generator
from stylenat.progress import progress_bar
from stylenat.sampling.images import contact_sheet, generate, save_png, save_sheet
from stylenat.sampling.seeds import check_seeds

MOST_CELLS = 10_000
DEFAULT_SIDE = 10  # cells of a sheet that nobody asked for


def default_sheet(count: int) -> tuple[int, int]:
    """Columns and rows of a nearly square sheet of `count` images, or of the first hundred."""
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
    batch: int = 8,
    truncation_psi: float = 1.0,
    dtype: torch.dtype = torch.float32,
    scheme: str = "torch",
) -> None:
    """Write `seed0000.png` ... to `outdir`, and `grid.png` of the first seeds: columns, rows.

    Every rank takes the seeds at its own positions, rank 0 writes the sheet. Every file is whole or
    not there. Raises ValueError for no seeds, OSError if the folder cannot be written.
    """
    check_seeds(seeds, scheme)
    if not len(seeds):  # an array has no truth
        raise ValueError("there must be at least one seed")
    if sheet is not None:
        check_sheet(*sheet)
    outdir = user_path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    own_seeds = own_share(seeds)
    cells = 0 if sheet is None else min(math.prod(sheet), len(seeds))
    own_cells = len(own_share(range(cells)))
    side = generator.resolution
    kept = [torch.empty(0, side, side, 3, dtype=torch.uint8)]
    settings: dict[str, Any] = {"truncation_psi": truncation_psi, "dtype": dtype, "scheme": scheme}
    done = 0
    with progress_bar("Images", len(own_seeds)) as advance:
        for images_BHW3 in generate(generator, own_seeds, batch=batch, **settings):
            names = own_seeds[done : done + len(images_BHW3)]
            for seed, image_HW3 in zip(names, images_BHW3, strict=True):
                save_png(image_HW3, outdir / f"seed{seed:04d}.png")
            kept.append(images_BHW3[: max(0, own_cells - done)])
            done += len(images_BHW3)
            advance(len(images_BHW3))
    if sheet is not None:
        own_NHW3 = torch.cat(kept).to(generator.const.device)
        shares = all_gather(own_NHW3)
        if is_main():
            sheet_HW3 = contact_sheet(interleaved(shares).cpu(), *sheet)
            save_sheet(sheet_HW3, outdir / "grid.png")
