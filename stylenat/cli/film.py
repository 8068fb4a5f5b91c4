"""`stylenat film`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat.cli.options import (
    SEEDS,
    WS,
    Cells,
    ModelPath,
    UserPath,
    check_together,
    style_settings,
)

if TYPE_CHECKING:
    from stylenat.latents import LoadedModel
    from stylenat.latents.film import Change


@click.command()
@click.argument("model", type=ModelPath())
@SEEDS
@WS
@click.option(
    "--out",
    type=UserPath(),
    required=True,
    metavar="FILE",
    help="The film to write; its name ends in .webp, .avif or .mp4, which needs PyAV.",
)
@click.option(
    "--grid",
    type=Cells(),
    default="1x1",
    show_default=True,
    metavar="CxR",
    help="How many columns and rows of loops the film shows; they share the keyframes.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 100_000),
    default=60,
    show_default=True,
    metavar="N",
    help="How many frames lead from one keyframe to the next.",
)
@click.option(
    "--fps", default="30", show_default=True, metavar="RATE", help="Frames a second, such as 29.97."
)
@click.option(
    "--quality",
    type=click.IntRange(0, 100),
    default=80,
    show_default=True,
    help="How exact the pictures are, at the price of a larger file.",
)
@click.option(
    "--mix",
    "donor",
    metavar="SEED",
    help="A seed, or a ws file of one style, whose w the blocks of --blocks have in all frames.",
)
@click.option("--blocks", metavar="LIST", help="The blocks of --mix, as in `stylenat mix`.")
@click.option(
    "--directions",
    type=UserPath(),
    metavar="FILE",
    help="The file that `stylenat directions` wrote, for --set.",
)
@click.option(
    "--set",
    "edits",
    multiple=True,
    metavar="NAME:STRENGTH",
    help="Edit all frames, as `stylenat edit` does; with NAME:FROM..TO, the film swings once from "
    "FROM to TO and back.",
)
@style_settings
def film(
    model: Path,
    seeds: str | None,
    ws_files: tuple[Path, ...],
    out: Path,
    grid: tuple[int, int],
    frames: int,
    fps: str,
    quality: int,
    donor: str | None,
    blocks: str | None,
    directions: Path | None,
    edits: tuple[str, ...],
    **settings: Any,
) -> None:
    """Write a film of MODEL that walks through the styles of seeds and ws files, and repeats.

    The styles are keyframes; between them, the film follows a smooth curve through w. MODEL is what
    `stylenat sample` takes.
    """
    from stylenat.files import check_can_write
    from stylenat.latents import LoadedModel, Settings, wanted_seeds
    from stylenat.latents.film import film_frames
    from stylenat.latents.video import check_film, parse_fps, save_film
    from stylenat.memory import keep_freed_memory
    from stylenat.progress import progress_bar

    rate = parse_fps(fps)
    check_film(out)
    check_can_write(out)
    keep_freed_memory()
    check_together(("--mix", donor), ("--blocks", blocks))
    check_together(("--directions", directions), ("--set", edits or None))
    chosen = Settings(**settings)
    numbers = wanted_seeds(seeds, ws_files, scheme=chosen.seed_scheme)
    loaded = LoadedModel(model, chosen)
    keyframes = loaded.styles(numbers, ws_files).all(batch=chosen.batch).ws
    change = _change(loaded, donor, blocks, directions, edits)
    pictures = film_frames(loaded, keyframes, grid=grid, frames=frames, change=change)
    count = len(keyframes) // (grid[0] * grid[1]) * frames
    with progress_bar("Frames", count) as advance:
        shown = (advance(1) or picture for picture in pictures)
        save_film(shown, out, count=count, fps=rate, quality=quality)
    size = out.stat().st_size / 1e3
    click.echo(f"{out}: {count} frames, {float(count / rate):.1f} s, {size:,.0f} kB")


def _change(
    loaded: LoadedModel,
    donor: str | None,
    blocks: str | None,
    directions: Path | None,
    edits: tuple[str, ...],
) -> Change | None:
    """What is done to the ws of every frame; None if nothing is."""
    from stylenat.latents import parse_blocks, parse_edit, seeds_or_file
    from stylenat.latents.film import film_change

    donor_ws, numbers, moves = None, None, []
    if donor is not None and blocks is not None:
        styles = loaded.styles(*seeds_or_file(donor))
        if len(styles) != 1:
            raise ValueError(f"--mix must be one seed, or a file of one style: {len(styles)}")
        donor_ws, numbers = styles.all(batch=1).ws, parse_blocks(blocks, loaded.generator.config)
    if directions is not None:
        found = loaded.load_directions(directions)
        moves = [parse_edit(text, found) for text in edits]
    return film_change(donor_ws, numbers or (), moves)
