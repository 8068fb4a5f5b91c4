"""`stylenat doctor`."""

from __future__ import annotations

import click


@click.command()
def doctor() -> None:
    """Show what this machine can run: try every attention backend on a small problem.

    The command fails if the backend that auto takes gives wrong values, or none.
    """
    from stylenat.doctor import examine

    examination = examine()
    examination.show()
    if (fault := examination.fault) is not None:
        raise click.ClickException(fault)
