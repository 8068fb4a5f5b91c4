"""`stylenat convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stylenat.cli.options import VARIANT, UserPath

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("official", type=UserPath())
@click.argument("out", type=UserPath())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--config",
    "config_path",
    type=UserPath(),
    metavar="PATH",
    help="The model's configuration, for what the checkpoint does not hold: a YAML file, or a name "
    "that `stylenat configs` lists.",
)
@click.option(
    "--which",
    type=click.Choice(["g_ema", "g", "d"]),
    default="g_ema",
    show_default=True,
    help="Which network to convert: the averaged generator, the trained one, or the discriminator.",
)
@VARIANT
def convert(
    official: Path,
    out: Path,
    overrides: tuple[str, ...],
    config_path: Path | None,
    which: str,
    name: str | None,
) -> None:
    """Convert a published checkpoint, StyleNAT's or StyleSwin's OFFICIAL.pt, to OUT.safetensors.

    OFFICIAL may also be a training state, RUN/checkpoints/NIMG.pt, or a NAT, DiNAT or DiNAT_s,
    official or Hugging Face's. Nothing in the file is run.
    KEY=VALUE changes --config: model.generator.qk_scale=0.2
    """
    if overrides and config_path is None:
        raise click.UsageError(
            f"KEY=VALUE changes what --config names, so it needs --config: {overrides[0]}"
        )

    from stylenat.backbones import holds_classifier
    from stylenat.config import load_config
    from stylenat.export import save_discriminator, save_generator
    from stylenat.files import check_can_write, refuse_overwriting
    from stylenat.hub import is_hub_name
    from stylenat.legacy import convert_checkpoint
    from stylenat.models import Generator

    if is_hub_name(official):
        raise ValueError(
            f"{official}: models on the Hub need no conversion, as only safetensors files are read "
            "there; give this name to `stylenat sample` or `stylenat classify`"
        )
    refuse_overwriting(out, official, config_path)
    check_can_write(out)
    if holds_classifier(official):
        if config_path is not None or which != "g_ema":
            raise click.UsageError(f"--config and --which are for generators: {official} is a NAT")
        _convert_classifier(official, out, name)
        return
    if name is not None:
        raise click.UsageError(f"--name is for a NAT, DiNAT or DiNAT_s: {official} is none")
    config = None if config_path is None else load_config(config_path, overrides)
    network = convert_checkpoint(official, which=which, config=config)
    if isinstance(network, Generator):
        network.store_w_avg()
        save_generator(network, out)
        kind, use = "generator", f"generator = stylenat.load_generator({str(out)!r})"
    else:
        save_discriminator(network, out)
        kind, use = "discriminator", f"D = stylenat.load_discriminator({str(out)!r})"
    side = network.config.resolution
    _report(network, out, f"{kind}, {side}x{side}", use)


def _convert_classifier(official: Path, out: Path, name: str | None) -> None:
    from stylenat.backbones import load_classifier, save_classifier

    network = load_classifier(official, name)
    save_classifier(network, out)
    classes = network.config.num_classes
    what = f"classifier, {classes} classes" if classes else "backbone"
    load = "from stylenat.backbones import load_classifier; network = load_classifier"
    _report(network, out, what, f"{load}({str(out)!r})")


def _report(network: nn.Module, out: Path, what: str, use: str) -> None:
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    megabytes = out.stat().st_size / 1e6
    click.echo(f"{out}: {what}, {millions:.3f} M parameters, {megabytes:.1f} MB")
    click.echo(f"Next, in Python: {use}")
