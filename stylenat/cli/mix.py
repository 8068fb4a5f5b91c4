"""`stylenat mix`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stylenat.cli.options import ModelPath, UserPath, style_settings


@click.command()
@click.argument("model", type=ModelPath())
@click.option(
    "--rows",
    required=True,
    metavar="LIST",
    help="The seeds of the rows, such as 85,100, or the name of a ws file.",
)
@click.option(
    "--cols",
    required=True,
    metavar="LIST",
    help="The seeds of the columns, or the name of a ws file.",
)
@click.option(
    "--blocks",
    default="coarse",
    show_default=True,
    metavar="LIST",
    help="The blocks that take their w from the column: coarse, middle, fine, or numbers such as "
    "0-3.",
)
@click.option(
    "--out",
    type=UserPath(),
    default="mix.png",
    show_default=True,
    metavar="FILE.png",
    help="The file to write.",
)
@style_settings
def mix(model: Path, rows: str, cols: str, blocks: str, out: Path, **settings: Any) -> None:
    """Write a matrix of mixed styles of MODEL, as one PNG file.

    Each image has the style of its row, except for --blocks, which have the style of its column.
    The unmixed images stand at the left and on top. MODEL is what `stylenat sample` takes.
    """
    from stylenat.files import check_can_write
    from stylenat.latents import (
        LoadedModel,
        Settings,
        blocks_text,
        mixing_sheet,
        parse_blocks,
        seeds_or_file,
        wanted_seeds,
    )
    from stylenat.latents.pictures import check_png
    from stylenat.memory import keep_freed_memory
    from stylenat.sampling import save_sheet

    check_png(out)
    check_can_write(out)
    keep_freed_memory()
    margins = [seeds_or_file(text) for text in (rows, cols)]
    chosen = Settings(**settings)
    for margin in margins:
        wanted_seeds(*margin, scheme=chosen.seed_scheme)
    loaded = LoadedModel(model, chosen)
    numbers = parse_blocks(blocks, loaded.generator.config)
    styles = [loaded.styles(*margin).all(batch=chosen.batch) for margin in margins]
    save_sheet(mixing_sheet(loaded, styles[0].ws, styles[1].ws, numbers), out)
    click.echo(
        f"{out}: {len(styles[0].ws)} rows, {len(styles[1].ws)} columns; blocks "
        f"{blocks_text(numbers)} are those of the columns"
    )
