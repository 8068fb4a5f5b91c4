"""`stylenat configs`."""

from __future__ import annotations

import click


@click.command()
def configs() -> None:
    """List the configurations that come with StyleNAT.

    Their names stand for their files: stylenat train ffhq256 data.path=ffhq256.zip
    """
    from stylenat.config.shipped import about, shipped_configs

    shipped = shipped_configs()
    width = max(map(len, shipped), default=0)
    for name, path in shipped.items():
        click.echo(f"{name:<{width}}  {about(path)}")
