"""`stylenat fid`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from stylenat.cli.options import COMPILE, DEVICE, DTYPE, SNAPSHOT, TRUNC

if TYPE_CHECKING:
    from stylenat.metrics import Scores


@click.command()
@click.argument("model")
@click.option("--data", metavar="DATA", help="The images to compare with: a folder, zip, ...")
@click.option(
    "--metrics", default="fid", show_default=True, metavar="LIST", help="Of fid,kid,pr,swd."
)
@click.option("--num", type=int, default=50_000, show_default=True, help="Images of either kind.")
@click.option(
    "--mode",
    type=click.Choice(["legacy_pytorch", "clean", "legacy_tensorflow"]),
    default="legacy_pytorch",
    show_default=True,
    help="The feature network and how images are scaled for it.",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="Of the feature network."
)
@click.option("--trust", is_flag=True, help="Run a TorchScript program of unknown origin.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="NPZ",
    help="mu and sigma in place of --data; fid alone.",
)
@click.option(
    "--resize",
    type=click.Choice(["bilinear", "lanczos", "box"]),
    help="Scale DATA to the model's size while it is read.",
)
@TRUNC
@click.option("--seed", type=int, default=0, show_default=True, help="Which generated images.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@DEVICE
@DTYPE
@COMPILE
@SNAPSHOT
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="JSON", help="Write scores and protocol."
)
def fid(
    model: str,
    data: str | None,
    metrics: str,
    num: int,
    mode: str,
    weights: Path | None,
    trust: bool,
    reference: Path | None,
    resize: Literal["bilinear", "lanczos", "box"] | None,
    trunc: float,
    seed: int,
    batch: int,
    device: str,
    dtype_name: str,
    compiled: bool,
    snapshot: str,
    out: Path | None,
) -> None:
    """FID and other scores of MODEL: an export, a run folder, a published .pt, or images.

    Under torchrun, all processes share the work. The scores do not depend on their number.
    """
    from stylenat.data import open_images
    from stylenat.distributed import is_main, pick_device, process_group
    from stylenat.memory import keep_freed_memory
    from stylenat.metrics import Evaluator
    from stylenat.sampling import DTYPES, compile_synthesis, is_model, load_model, model_file

    keep_freed_memory()
    chosen = pick_device(device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    with process_group(chosen):
        generator = load_model(model, chosen, which=snapshot) if is_model(model) else None
        images = open_images(model) if generator is None else None
        if compiled and generator is None:
            raise ValueError(f"--compile is for models, and {model} is a set of images")
        if compiled and generator is not None:
            compile_synthesis(generator)
        side = generator.resolution if generator is not None else None
        if images is not None and data is not None and (resize or data.startswith("faces:")):
            side = images.read(0).shape[1]
        evaluator = Evaluator(
            names,
            None if data is None else open_images(data, resolution=side, resize=resize),
            num=num,
            mode=mode,
            weights=weights,
            trust_weights=trust,
            reference=reference,
            device=chosen,
            seed=seed,
            batch=batch,
        )
        if generator is not None:
            scores = evaluator(generator, truncation_psi=trunc, dtype=DTYPES[dtype_name])
        else:
            assert images is not None
            scores = evaluator.score_images(images)
        if is_main():
            file = None if generator is None else model_file(model, which=snapshot)
            _finish(scores, model, file, out)


def _finish(scores: Scores, name: str, file: Path | None, out: Path | None) -> None:
    """Print the scores, and write them where it was asked for; `file` holds the model's weights."""
    from stylenat.config import replacing
    from stylenat.metrics.weights import sha256_of

    for metric, value in scores.values.items():
        click.echo(f"{metric:<12}{value:.6g}")
    click.echo(scores.summary())
    if out is not None:
        subject = {"images": Path(name).name}
        if file is not None:
            subject = {"model": file.name, "model_sha256": sha256_of(file)}
        with replacing(out) as temporary:
            temporary.write_text(json.dumps({**subject, **scores.to_dict()}, indent=2) + "\n")
        click.echo(f"Written to {out}")
