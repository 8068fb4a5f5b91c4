"""`stylenat convert`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import UserPath


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
def convert(
    official: Path, out: Path, overrides: tuple[str, ...], config_path: Path | None, which: str
) -> None:
    """Convert a published checkpoint, StyleNAT's or StyleSwin's OFFICIAL.pt, to OUT.safetensors.

    OFFICIAL may also be a training state, RUN/checkpoints/NIMG.pt. Nothing in the file is run.
    KEY=VALUE changes --config: model.generator.qk_scale=0.2
    """
    if overrides and config_path is None:
        raise click.UsageError(
            f"KEY=VALUE changes what --config names, so it needs --config: {overrides[0]}"
        )

    from stylenat.config import load_config
    from stylenat.export import save_discriminator, save_generator
    from stylenat.files import check_can_write, refuse_overwriting
    from stylenat.legacy import convert_checkpoint
    from stylenat.models import Generator

    refuse_overwriting(out, official, config_path)
    check_can_write(out)
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
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    megabytes = out.stat().st_size / 1e6
    click.echo(f"{out}: {kind}, {side}x{side}, {millions:.3f} M parameters, {megabytes:.1f} MB")
    click.echo(f"Next, in Python: {use}")
