"""`stylenat sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat.cli.options import COMPILE, SEEDS, WS, Cells, ModelPath, UserPath, style_settings

if TYPE_CHECKING:
    from stylenat.latents import LoadedModel
    from stylenat.sampling import Styles


class Sheet(Cells):
    """`8x8`, which is columns and rows, or `none`."""

    name = "sheet"

    def convert(  # type: ignore[override]
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int] | str:
        return "none" if value == "none" else super().convert(value, parameter, context)


@click.command()
@click.argument("model", type=ModelPath())
@SEEDS
@WS
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
    "--save-w",
    is_flag=True,
    help="Also write DIR/ws.safetensors with the ws of all images, which --ws takes.",
)
@click.option(
    "--trunc-sweep",
    "sweep",
    metavar="FROM:TO:COUNT",
    help="Write one sheet instead, DIR/sweep.png: a row for each seed, a column for each psi, such "
    "as -1:2:7.",
)
@COMPILE
@style_settings
def sample(
    model: Path,
    seeds: str | None,
    ws_files: tuple[Path, ...],
    outdir: Path,
    grid: tuple[int, int] | str | None,
    save_w: bool,
    sweep: str | None,
    compiled: bool,
    **settings: Any,
) -> None:
    """Write images of MODEL: an exported file, a run folder or one of its checkpoints, a published
    .pt, or hf:USER/NAME[@REVISION] on the Hub.

    Each seed becomes one PNG file; grid.png is a contact sheet of the first ones. With --class all,
    each class has a row of it. Under torchrun, all processes share the seeds.
    """
    from stylenat.distributed import is_main, pick_device, process_group
    from stylenat.files import check_can_fill
    from stylenat.latents import LoadedModel, Settings, parse_sweep
    from stylenat.memory import keep_freed_memory
    from stylenat.sampling import check_seeds, compile_synthesis, parse_seeds

    keep_freed_memory()
    # What can be refused is refused before a model is read.
    if seeds is None and not ws_files:
        raise click.UsageError("Missing option '--seeds' or '--ws'.")
    numbers = [] if seeds is None else parse_seeds(seeds)
    check_seeds(numbers, settings["seed_scheme"])
    if sweep is not None:
        psis = parse_sweep(sweep)
        _refuse_beside_sweep(settings["trunc"] != 1, grid is not None, save_w)
        settings["trunc"] = None
    elif isinstance(grid, tuple):
        _sheet(grid, 1)
    check_can_fill(outdir)
    chosen = Settings(**settings)
    with process_group(pick_device(chosen.device)):
        loaded = LoadedModel(model, chosen)
        if compiled:
            compile_synthesis(loaded.generator)
        styles = loaded.styles(numbers, ws_files)
        if sweep is None:
            classes = len(styles.classes or ())
            count = len(styles.seeds) if classes > 1 else len(styles)
            said = _write_images(loaded, styles, outdir, _sheet(grid, count, classes), save_w)
        else:
            said = _write_sweep(loaded, styles, outdir, psis)
        if is_main():
            click.echo(said)


def _write_images(
    loaded: LoadedModel,
    styles: Styles,
    outdir: Path,
    sheet: tuple[int, int] | None,
    save_w: bool,
) -> str:
    """Write a PNG file for each style, and what goes with them; return what to say of it."""
    from stylenat.distributed import is_main
    from stylenat.latents import save_ws
    from stylenat.sampling import DTYPES, write_images

    settings = loaded.settings
    dtype = DTYPES[settings.dtype_name]
    write_images(styles, outdir, sheet=sheet, batch=settings.batch, dtype=dtype)
    count = len({styles.name(index) for index in range(len(styles))})
    said = f"{count} images of {loaded.name} in {outdir}"
    if sheet is not None:
        said += f", contact sheet {outdir / 'grid.png'}"
    if save_w:
        said += f", ws {outdir / 'ws.safetensors'}"
        if is_main():
            all_styles = styles.all(batch=settings.batch)
            save_ws(all_styles, outdir / "ws.safetensors", model_sha256=loaded.sha256)
    return said


def _write_sweep(loaded: LoadedModel, styles: Styles, outdir: Path, psis: list[float]) -> str:
    from stylenat.distributed import is_main
    from stylenat.latents import sweep_sheet
    from stylenat.sampling import save_sheet

    if is_main():
        outdir.mkdir(parents=True, exist_ok=True)
        save_sheet(sweep_sheet(loaded, styles, psis), outdir / "sweep.png")
    columns = ", ".join(f"{psi:g}" for psi in psis)
    return f"{outdir / 'sweep.png'}: {len(styles)} rows; columns are psi {columns}"


def _refuse_beside_sweep(trunc: bool, grid: bool, save_w: bool) -> None:
    """Raises ValueError for an option that would have no effect on a sweep."""
    for name, is_given in (("--trunc", trunc), ("--grid", grid), ("--save-w", save_w)):
        if is_given:
            raise ValueError(f"{name} has no meaning beside --trunc-sweep: leave one of them out")


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
