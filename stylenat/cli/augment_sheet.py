"""`stylenat augment-sheet`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.choices import AUGMENT_SETS, SHEET_COLUMNS, AugmentSet, Filter, SheetColumns
from stylenat.cli.options import FILTER, UserPath


@click.command()
@click.argument("data")
@click.argument("out", type=UserPath(), metavar="OUT.png")
@click.option(
    "--set",
    "transforms",
    type=click.Choice(AUGMENT_SETS),
    default="bgc",
    show_default=True,
    help="Which transformations: b (flips, turns, shifts), g (geometry), c (colors), f (filter), n "
    "(noise), c (cutout).",
)
@click.option(
    "--columns",
    type=click.Choice(SHEET_COLUMNS),
    default="p",
    show_default=True,
    help="What 0.1 to 0.9 are: the probability of each transformation, or the percentile that says "
    "how strong all of them are.",
)
@click.option(
    "--images",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    help="How many images to show at most, one per row.",
)
@click.option(
    "--resolution",
    type=click.IntRange(8, 1024),
    default=128,
    show_default=True,
    metavar="R",
    help="The side to which the images are scaled and cropped.",
)
@FILTER
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Which random numbers p is held against, and which faces are drawn.",
)
def augment_sheet(
    data: str,
    out: Path,
    transforms: AugmentSet,
    columns: SheetColumns,
    images: int,
    resolution: int,
    resize: Filter,
    seed: int,
) -> None:
    """Show what ADA does to images of DATA: OUT.png has a row for each image.

    The first column holds the images themselves; the others show them at 0.1, 0.2, ... 0.9. DATA is
    a folder of images, a zip, the folder of an LMDB, a CIFAR archive, or faces:N for N drawn faces.
    """
    import numpy as np
    import torch

    from stylenat.augment.sheet import augmented_steps
    from stylenat.data import open_images
    from stylenat.files import check_can_write, refuse_overwriting
    from stylenat.models import PixelSpace, from_uint8, to_uint8
    from stylenat.sampling import contact_sheet, save_sheet
    from stylenat.text import printable

    if out.suffix.lower() != ".png":
        raise ValueError(f"the sheet is a PNG, and its name must end in .png: {out}")
    refuse_overwriting(out, data)
    check_can_write(out)
    source = open_images(data, resolution=resolution, resize=resize, seed=seed)
    count = min(images, len(source))
    # Spread over the data set; a damaged image is replaced by the next.
    indices = [source.readable(row * len(source) // count) for row in range(count)]
    pixels = torch.from_numpy(np.stack([source.read(index) for index in indices]))
    space = PixelSpace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # [-1, 1]
    steps = augmented_steps(from_uint8(pixels, space), transforms, columns=columns, seed=seed)
    save_sheet(contact_sheet(to_uint8(steps.flatten(0, 1), space), steps.shape[1]), out)
    click.echo(f"{printable(str(out))}: {count} images of {printable(data)} with {transforms}")
    click.echo(f"Columns: the image, then {columns} = 0.1, 0.2, ... 0.9")
