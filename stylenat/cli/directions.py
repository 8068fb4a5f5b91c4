"""`stylenat directions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat.choices import DIRECTION_METHODS, DirectionMethod
from stylenat.cli.options import ModelPath, UserPath, check_together, style_settings

if TYPE_CHECKING:
    from torch import Tensor

    from stylenat.latents import Directions, LoadedModel
    from stylenat.sampling import NamedWs


@click.command()
@click.argument("model", type=ModelPath())
@click.option(
    "--method",
    type=click.Choice(DIRECTION_METHODS),
    default="pca",
    show_default=True,
    help="How to find them: where w varies most (pca), what the style layers amplify most (sefa), "
    "what changes a region of the images most (jacobian), what leads from some styles to others "
    "(difference), or how w differs with labels (fit).",
)
@click.option(
    "--region",
    metavar="x0,y0,x1,y1",
    help="The box of pixels that --method jacobian is to change; the rest is to stay.",
)
@click.option(
    "--from",
    "first",
    metavar="LIST",
    help="Seeds, or the name of a ws file, that --method difference leads away from, such as faces "
    "without glasses.",
)
@click.option(
    "--to",
    "second",
    metavar="LIST",
    help="Seeds, or the name of a ws file, that it leads to, such as faces with glasses.",
)
@click.option(
    "--ws",
    "ws_files",
    type=UserPath(),
    multiple=True,
    metavar="FILE",
    help="A ws file whose styles --method fit has labels for, such as `stylenat project` writes. "
    "This option may be given several times.",
)
@click.option(
    "--labels",
    type=UserPath(),
    metavar="FILE.csv",
    help="The table of labels for --method fit: a column `name` with the names of the styles, and "
    "a column of numbers for each label; 0 and 1 for no and yes.",
)
@click.option(
    "--count",
    type=int,
    metavar="N",
    help="How many directions to write, the strongest first.  [default: 10; of a difference 1; of "
    "a fit one for each label]",
)
@click.option(
    "--blocks",
    default="all",
    show_default=True,
    metavar="LIST",
    help="The blocks that the directions are for, as in `stylenat mix`.",
)
@click.option(
    "--names",
    metavar="LIST",
    help="Names for the first directions, such as hair,age.  [default: the method and a number]",
)
@click.option(
    "--out",
    type=UserPath(),
    default="directions.json",
    show_default=True,
    metavar="FILE.json",
    help="The file to write. FILE.NAME.png shows each direction.",
)
@click.option(
    "--strip-seeds",
    default="0-3",
    show_default=True,
    metavar="LIST",
    help="The seeds of the pictures, a row for each.",
)
@click.option(
    "--sigmas",
    type=click.FloatRange(0, 100, min_open=True),
    default=3.0,
    show_default=True,
    help="How far the pictures go to both sides, in standard deviations of w.",
)
@style_settings
def directions(
    model: Path,
    method: DirectionMethod,
    region: str | None,
    first: str | None,
    second: str | None,
    ws_files: tuple[Path, ...],
    labels: Path | None,
    count: int | None,
    blocks: str,
    names: str | None,
    out: Path,
    strip_seeds: str,
    sigmas: float,
    **settings: Any,
) -> None:
    """Find directions of w that change the images of MODEL, for `stylenat edit` and `film`.

    The directions go into one file, and a strip of pictures for each stands beside it. MODEL is
    what `stylenat sample` takes.
    """
    from stylenat.files import check_can_write
    from stylenat.latents import LoadedModel, Settings, parse_blocks, wanted_seeds
    from stylenat.latents.finding import find_directions, remarks
    from stylenat.latents.fitting import read_labels
    from stylenat.latents.jacobian import parse_region
    from stylenat.memory import keep_freed_memory

    keep_freed_memory()
    check_together(("--from", first), ("--to", second))
    check_together(("--ws", ws_files or None), ("--labels", labels))
    box = None if region is None else parse_region(region)
    if out.suffix.lower() != ".json":
        raise ValueError(f"the name of a directions file must end in .json: {out}")
    check_can_write(out)
    chosen = Settings(**settings)
    seeds = wanted_seeds(strip_seeds, scheme=chosen.seed_scheme)
    loaded = LoadedModel(model, chosen)
    numbers = parse_blocks(blocks, loaded.generator.config)
    labelled = None if labels is None else read_labels(labels, _all(loaded, (None, ws_files)))
    if count is None and labelled is not None:
        count = len(labelled.names)
    elif count is None:
        count = 1 if method == "difference" else 10
    pair = _pair(loaded, first, second)
    found = find_directions(
        loaded, method, count=count, blocks=numbers, region=box, pair=pair, labelled=labelled
    )
    found = found.named([] if names is None else [name.strip() for name in names.split(",")])
    _write(loaded, found, out, _all(loaded, (seeds, ())).ws, sigmas)
    click.echo(f"{out}: {len(found.directions)} directions by {method}, blocks {blocks}")
    for sentence in remarks(found):
        click.echo(f"  {sentence}")


def _write(
    loaded: LoadedModel, found: Directions, out: Path, ws_NLS: Tensor, sigmas: float
) -> None:
    """Write the directions, and a strip of pictures for each beside them."""
    from stylenat.latents import save_directions
    from stylenat.latents.pictures import direction_strip
    from stylenat.sampling import save_sheet

    for direction in found.directions:
        strip = direction_strip(loaded, ws_NLS, direction, sigmas=sigmas, steps=7)
        save_sheet(strip, out.with_suffix(f".{direction.name}.png"))
    save_directions(found, out)


def _all(loaded: LoadedModel, seeds_and_files: tuple[Any, Any]) -> NamedWs:
    """The styles of seeds and ws files."""
    return loaded.styles(*seeds_and_files).all(batch=loaded.settings.batch)


def _pair(
    loaded: LoadedModel, first: str | None, second: str | None
) -> tuple[Tensor, Tensor] | None:
    """The ws that a difference leads from and to, if they are given."""
    from stylenat.latents import seeds_or_file

    if first is None or second is None:
        return None
    from_ws, to_ws = (_all(loaded, seeds_or_file(text)).ws for text in (first, second))
    return from_ws, to_ws
