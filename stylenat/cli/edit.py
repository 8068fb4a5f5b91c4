"""`stylenat edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stylenat.cli.options import SEEDS, WS, ModelPath, UserPath, style_settings


@click.command()
@click.argument("model", type=ModelPath())
@SEEDS
@WS
@click.option(
    "--directions",
    type=UserPath(),
    required=True,
    metavar="FILE",
    help="The file that `stylenat directions` wrote.",
)
@click.option(
    "--set",
    "edits",
    multiple=True,
    required=True,
    metavar="NAME:STRENGTH",
    help="The number or name of a direction, and how far to go along it, in standard deviations: "
    "1:+2.0. NAME:FROM..TO makes several columns. May be given several times.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 100),
    metavar="N",
    help="How many columns FROM..TO makes.  [default: 5]",
)
@click.option(
    "--out",
    type=UserPath(),
    default="edit.png",
    show_default=True,
    metavar="FILE.png",
    help="The sheet to write: a row for each style, first its own image, then the edited ones.",
)
@click.option(
    "--save-w",
    type=UserPath(),
    metavar="FILE",
    help="Also write the edited styles to this ws file, which --ws takes.",
)
@style_settings
def edit(
    model: Path,
    seeds: str | None,
    ws_files: tuple[Path, ...],
    directions: Path,
    edits: tuple[str, ...],
    steps: int | None,
    out: Path,
    save_w: Path | None,
    **settings: Any,
) -> None:
    """Move styles of MODEL along directions, and write their images before and after.

    MODEL is what `stylenat sample` takes.
    """
    from stylenat.files import check_can_write, refuse_overwriting
    from stylenat.latents import LoadedModel, Settings, edited, parse_edit, save_ws, wanted_seeds
    from stylenat.latents.pictures import check_png, edit_columns, edit_sheet
    from stylenat.memory import keep_freed_memory
    from stylenat.sampling import NamedWs, save_sheet

    keep_freed_memory()
    check_png(out)
    check_can_write(out)
    if save_w is not None:
        refuse_overwriting(save_w, model)
        check_can_write(save_w)
    chosen = Settings(**settings)
    numbers = wanted_seeds(seeds, ws_files, scheme=chosen.seed_scheme)
    loaded = LoadedModel(model, chosen)
    found = loaded.load_directions(directions)
    moves = [parse_edit(text, found) for text in edits]
    positions = edit_columns(moves, steps)
    if save_w is not None and len(positions) > 1:
        raise ValueError("--save-w writes one edit of each style: give --set strengths of one end")
    styles = loaded.styles(numbers, ws_files).all(batch=chosen.batch)
    save_sheet(edit_sheet(loaded, styles.ws, moves, positions, with_originals=True), out)
    click.echo(f"{out}: {len(styles.ws)} rows; the image, then {', '.join(edits)}")
    if save_w is not None:
        after = NamedWs(styles.names, edited(styles.ws, moves, positions[0]))
        save_ws(after, save_w, model_sha256=loaded.sha256)
        click.echo(f"{save_w}: the edited styles")
