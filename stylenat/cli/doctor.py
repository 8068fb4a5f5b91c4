"""`stylenat doctor`."""

from __future__ import annotations

import click


@click.command()
def doctor() -> None:
    """What this machine can run, and why not: every attention backend, tried on a small problem.

    Ends in an error where the backend that would be taken gives wrong values, or none.
    """
    from stylenat.doctor import examine

    examination = examine()
    examination.show()
    if (fault := examination.fault) is not None:
        raise click.ClickException(fault)
