"""`stylenat classify`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import DEVICE, VARIANT, ModelPath, UserPath


@click.command()
@click.argument("model", type=ModelPath())
@click.argument("images", nargs=-1, required=True, type=UserPath())
@click.option(
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="How many classes to show for each image.",
)
@click.option(
    "--labels",
    "labels_path",
    type=UserPath(),
    metavar="FILE",
    help="A text file that names the classes, one per line.  [default: the model's own, if any]",
)
@VARIANT
@DEVICE
def classify(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    labels_path: Path | None,
    name: str | None,
    device: str,
) -> None:
    """Say what IMAGES show, by a NAT, DiNAT or DiNAT_s.

    MODEL is a published checkpoint, one of Hugging Face's, a file that `stylenat convert` made, or
    hf:USER/NAME[@REVISION] on the Hub.
    """
    from stylenat.backbones import load_classifier
    from stylenat.backbones.evaluation import check_classifies, read_labels
    from stylenat.backbones.evaluation import classify as classify_images
    from stylenat.distributed import pick_device
    from stylenat.text import printable

    chosen = pick_device(device)
    given = () if labels_path is None else read_labels(labels_path)
    for image in images:
        image.stat()  # raises OSError, before a model is read
    network = load_classifier(model, name, chosen)
    check_classifies(network, given, str(labels_path))
    labels = given or network.config.labels
    for image in images:
        (guesses,) = classify_images(network, [image], top=top)
        click.echo(printable(str(image)))
        for guess in guesses:
            label = f"  {printable(labels[guess.index])}" if labels else ""
            click.echo(f"  {100 * guess.probability:5.1f} %  class {guess.index}{label}")
