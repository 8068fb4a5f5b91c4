"""`stylenat nearest`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from stylenat.choices import MODES, SPACES, metric_name
from stylenat.cli.options import (
    DEVICE,
    READ_BATCH,
    RESIZE,
    SEED,
    SNAPSHOT,
    TRUNC,
    TRUST,
    WORKERS,
    ModelName,
    UserPath,
    check_outputs,
)


@click.command()
@click.argument("model", type=ModelName())
@click.option(
    "--data",
    metavar="DATA",
    help="The training images: a folder, a zip, ...  [default: the run's own]",
)
@click.option(
    "-n",
    "--num",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many images to generate.",
)
@click.option(
    "--space",
    type=click.Choice(SPACES),
    default="effnet_lite0",
    show_default=True,
    help="The features by which images are compared.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="How images are scaled for the features of Inception.  [default: legacy_pytorch]",
)
@click.option(
    "--weights", type=UserPath(), metavar="FILE", help="A file with the weights of the network."
)
@TRUST
@RESIZE
@click.option(
    "--pairs",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    help="How many pairs the sheet shows.",
)
@TRUNC
@SEED
@READ_BATCH
@WORKERS
@DEVICE
@SNAPSHOT
@click.option(
    "--sheet",
    type=UserPath(),
    default="nearest.png",
    show_default=True,
    metavar="PNG",
    help="The sheet to write.",
)
@click.option("--out", type=UserPath(), metavar="JSON", help="Write the numbers to this file.")
def nearest(
    model: str,
    *,
    space: Any,
    trust: bool,
    trunc: float,
    seed: int,
    batch: int,
    workers: int,
    device: str,
    snapshot: str,
    pairs: int,
    sheet: Path,
    out: Path | None,
    **given: Any,
) -> None:
    """Show the training images that are nearest to what MODEL generates: does it copy?

    The sheet has pairs: a generated image, and the training image that is nearest to it. Those come
    first that are most suspicious. MODEL is what `stylenat fid` takes.
    """
    from stylenat.distributed import pick_device
    from stylenat.files import replacing
    from stylenat.latents.pictures import check_png
    from stylenat.memory import keep_freed_memory
    from stylenat.metrics import protocol_of
    from stylenat.metrics.nearest import look, share_among_data
    from stylenat.metrics.nearest import nearest as nearest_to
    from stylenat.sampling import save_sheet

    check_png(sheet)
    check_outputs(sheet, out, inputs=(model, given["data"], given["weights"]))
    keep_freed_memory()
    looks = look(
        model,
        # A metric of these features that is content with one image.
        protocol_of(model, **given, metrics=(metric_name("mind", space),)),
        space=space,
        device=pick_device(device),
        trust_weights=trust,
        snapshot=snapshot,
        truncation_psi=trunc,
        seed=seed,
        batch=batch,
        workers=workers,
        tell=click.echo,
    )
    found = nearest_to(looks.images_ND, looks.data_MD)
    save_sheet(looks.nearest_sheet(found, pairs, columns=4), sheet)
    numbers = {"share": found.share, "share_among_data": share_among_data(looks.data_MD)}
    count, of = len(looks.images_ND), len(looks.data_MD)
    click.echo(_in_words(numbers, count, of))
    click.echo(
        f"{sheet}: the {min(pairs, count)} most suspicious images, each with the nearest training "
        "image on its right"
    )
    if out is not None:
        with replacing(out) as temporary:
            content = {**numbers, "protocol": looks.protocol()}
            temporary.write_text(json.dumps(content, indent=2) + "\n")
        click.echo(f"Written to {out}")


def _in_words(numbers: Mapping[str, float], count: int, of: int) -> str:
    return (
        f"{numbers['share']:.1%} of {count:,} images are nearer to a training image than any other "
        f"of the {of:,} training images is.\n"
        f"{numbers['share_among_data']:.1%} are, if one half of the training images is compared "
        "with the other half: no copies give about that share."
    )
