"""`stylenat attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stylenat.cli.options import WS, ModelPath, UserPath, style_settings


class Pixel(click.ParamType):
    """`32,20`: x and y."""

    name = "pixel"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int]:
        x, comma, y = str(value).partition(",")
        if comma and x.isdecimal() and y.isdecimal():
            return int(x), int(y)
        self.fail(f"'{value}' is not a pixel, such as 32,20", parameter, context)


@click.command()
@click.argument("model", type=ModelPath())
@click.option(
    "--seeds",
    "--seed",
    "seeds",
    metavar="LIST",
    help="The seeds of the images; numbers are means over all, pictures show the first.",
)
@WS
@click.option(
    "--at",
    type=Pixel(),
    metavar="x,y",
    help="The pixel whose attention the pictures show.  [default: the middle]",
)
@click.option(
    "--out", type=UserPath(), required=True, metavar="DIR", help="The folder to write to."
)
@style_settings
def attention(
    model: Path,
    seeds: str | None,
    ws_files: tuple[Path, ...],
    at: tuple[int, int] | None,
    out: Path,
    **settings: Any,
) -> None:
    """Show what the heads of MODEL look at, by level, block and head group.

    DIR gets attention.md and attention.json, a picture of each group's weights over the image and
    one of its bias tables. MODEL is what `stylenat sample` takes.
    """
    from stylenat.files import check_can_fill
    from stylenat.latents import LoadedModel, Settings, wanted_seeds
    from stylenat.latents.attention_maps import left_out
    from stylenat.latents.attention_report import table, write_report
    from stylenat.memory import keep_freed_memory

    keep_freed_memory()
    check_can_fill(out)
    chosen = Settings(**settings)
    numbers = wanted_seeds(seeds, ws_files, scheme=chosen.seed_scheme)
    loaded = LoadedModel(model, chosen)
    reports = write_report(loaded, loaded.styles(numbers, ws_files), out, at=at)
    click.echo(table(reports))
    if count := left_out(loaded.generator):
        click.echo(f"levels with StyleSwin's windows, which are left out: {count}")
    click.echo(f"{out}: attention.md, attention.json and {2 * len(reports)} pictures")
