"""`stylenat sample`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.choices import SEED_SCHEMES
from stylenat.cli.options import COMPILE, DEVICE, DTYPE, SNAPSHOT, TRUNC, UserPath


class Sheet(click.ParamType):
    """`8x8`, which is columns and rows, or `none`."""

    name = "sheet"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int] | str:
        if value == "none":
            return "none"
        columns, x, rows = str(value).partition("x")
        if x and columns.isdecimal() and rows.isdecimal():
            return int(columns), int(rows)
        self.fail(f"'{value}' is not columns and rows, such as 8x4, or none", parameter, context)


@click.command()
@click.argument("model", type=UserPath())
@click.option(
    "--seeds", required=True, metavar="LIST", help="Which seeds to draw, such as 0-63,100."
)
@click.option(
    "--class",
    "chosen_class",
    metavar="CLASS",
    help="Of a model with classes: the name or the number of one, or all to draw every seed in "
    "each of them.",
)
@TRUNC
@click.option(
    "--outdir",
    type=UserPath(),
    required=True,
    metavar="DIR",
    help="The folder to write the PNG files to.",
)
@click.option(
    "--grid",
    type=Sheet(),
    metavar="CxR",
    help="How many columns and rows the contact sheet has, or none for no sheet.  [default: nearly "
    "square, at most 10x10]",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many images to generate at once.",
)
@DEVICE
@DTYPE
@COMPILE
@click.option(
    "--seed-scheme",
    type=click.Choice(SEED_SCHEMES),
    default="torch",
    show_default=True,
    help="How a seed becomes a latent: as in StyleNAT's code (torch) or in StyleGAN's.",
)
@SNAPSHOT
def sample(
    model: Path,
    seeds: str,
    chosen_class: str | None,
    trunc: float,
    outdir: Path,
    grid: tuple[int, int] | str | None,
    batch: int,
    device: str,
    dtype_name: str,
    compiled: bool,
    seed_scheme: str,
    snapshot: str,
) -> None:
    """Write images of MODEL: an exported file, a run folder or one of its checkpoints, or a
    published .pt.

    Each seed becomes one PNG file; grid.png is a contact sheet of the first ones. With --class all,
    each class has a row of it. Under torchrun, all processes share the seeds.
    """
    from stylenat import sampling
    from stylenat.distributed import is_main, pick_device, process_group
    from stylenat.files import check_can_fill
    from stylenat.memory import keep_freed_memory

    keep_freed_memory()
    numbers = sampling.parse_seeds(seeds)
    chosen = pick_device(device)
    # What can be refused is refused before a model is read.
    sampling.check_seeds(numbers, seed_scheme)
    sheet = _sheet(grid, len(numbers))
    check_can_fill(outdir)
    source = sampling.model_file(model, which=snapshot)
    with process_group(chosen):
        generator = sampling.load_model(source, chosen)
        classes = sampling.chosen_classes(generator, chosen_class)
        if grid is None and classes is not None:
            sheet = _sheet(grid, len(numbers), len(classes))
        if compiled:
            sampling.compile_synthesis(generator)
        sampling.write_samples(
            generator,
            numbers,
            outdir,
            sheet=sheet,
            classes=classes,
            batch=batch,
            truncation_psi=trunc,
            dtype=sampling.DTYPES[dtype_name],
            scheme=seed_scheme,
        )
        if is_main():
            with_sheet = "" if sheet is None else f", contact sheet {outdir / 'grid.png'}"
            count = len(set(numbers)) * (1 if classes is None else len(classes))
            click.echo(f"{count} images of {source} in {outdir}{with_sheet}")


def _sheet(
    grid: tuple[int, int] | str | None, count: int, classes: int = 0
) -> tuple[int, int] | None:
    """Columns and rows of the contact sheet of `count` images (of each of several classes); None if
    there shall be none."""
    from stylenat.sampling import check_sheet, default_sheet

    if grid == "none":
        return None
    sheet = default_sheet(count, classes) if grid is None else grid
    assert not isinstance(sheet, str)
    check_sheet(*sheet)
    return sheet
