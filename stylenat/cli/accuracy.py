"""`stylenat accuracy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stylenat.cli.options import DEVICE, DTYPE, VARIANT, ModelPath, UserPath

if TYPE_CHECKING:
    from stylenat.backbones import ImageConfig
    from stylenat.backbones.evaluation import Accuracy


@click.command()
@click.argument("model", type=ModelPath())
@click.argument("folder", type=UserPath())
@VARIANT
@click.option(
    "-b",
    "--batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="How many images each process takes at once.",
)
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="How many processes read images; with 0, the command itself does.",
)
@DEVICE
@DTYPE
@click.option(
    "-o",
    "--out",
    type=UserPath(),
    metavar="JSON",
    help="Write the numbers to this file, with how they were measured.",
)
def accuracy(
    model: Path,
    folder: Path,
    name: str | None,
    batch: int,
    workers: int,
    device: str,
    dtype_name: str,
    out: Path | None,
) -> None:
    """Measure how often MODEL, a NAT, DiNAT or DiNAT_s, is right on the images of FOLDER.

    FOLDER holds one folder for each class, in the order of the classes, as ImageNet's validation
    set does. Images are prepared as for the published numbers. On several GPUs:
    torchrun --nproc-per-node 8 -m stylenat accuracy ...
    """
    from stylenat.backbones import load_classifier
    from stylenat.backbones.evaluation import ImageFolder, check_classifies, measure_accuracy
    from stylenat.backbones.files import CONFIG_BESIDE
    from stylenat.distributed import is_main, pick_device, process_group
    from stylenat.files import check_can_write, refuse_overwriting, replacing
    from stylenat.hub import is_hub_name, pull
    from stylenat.memory import keep_freed_memory
    from stylenat.sampling import DTYPES

    if out is not None:
        refuse_overwriting(out, model)
        check_can_write(out)
    keep_freed_memory()
    chosen = pick_device(device)
    images = ImageFolder.open(folder)
    if is_hub_name(model):  # once: a branch may move
        model = pull(model, beside=(CONFIG_BESIDE,))
    with process_group(chosen):
        network = load_classifier(model, name, chosen)
        check_classifies(network)
        found = measure_accuracy(
            network, images, batch=batch, workers=workers, dtype=DTYPES[dtype_name]
        )
        if not is_main():
            return
        side = network.config.images.size
        click.echo(f"top-1  {found.top1:.3f} %")
        click.echo(f"top-5  {found.top5:.3f} %")
        click.echo(
            f"{found.count:,} images at {side}x{side}, {len(images.classes):,} classes, "
            f"{dtype_name}, {found.images_per_second:.1f} images/s"
        )
        if out is not None:
            numbers = _numbers(found, model, network.config.images, len(images.classes), dtype_name)
            with replacing(out) as temporary:
                temporary.write_text(json.dumps(numbers, indent=2) + "\n")
            click.echo(f"Written to {out}")


def _numbers(
    found: Accuracy, file: Path, images: ImageConfig, classes: int, dtype_name: str
) -> dict[str, object]:
    """The accuracy and how it was measured, as JSON holds them."""
    from stylenat.files import sha256_of
    from stylenat.hub import name_of

    return {
        "model": name_of(file) or file.name,
        "model_sha256": sha256_of(file) if file.is_file() else None,
        "top1": found.top1,
        "top5": found.top5,
        "images": found.count,
        "classes": classes,
        "size": images.size,
        "crop_pct": images.crop_pct,
        "dtype": dtype_name,
        "images_per_second": found.images_per_second,
    }
