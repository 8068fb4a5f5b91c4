"""`stylenat report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stylenat.choices import SPACES, Space
from stylenat.cli.options import TRUST, UserPath

NUM, DEVICE = 1000, "auto"
SPACE: Space = "effnet_lite0"


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=UserPath())
@click.option(
    "--out",
    type=UserPath(),
    metavar="HTML",
    help="The page to write; needed for several runs.  [default: RUN/report.html]",
)
@click.option(
    "--truncation",
    metavar="FROM:TO:COUNT",
    help="First measure precision, recall, density and coverage of the best snapshot at these psi, "
    "such as 0.4:1:4, and keep them in RUN/truncation.json.",
)
@click.option(
    "-n",
    "--num",
    type=click.IntRange(2),
    help=f"How many images --truncation generates for each psi.  [default: {NUM}]",
)
@click.option(
    "--space",
    type=click.Choice(SPACES),
    help=f"The features by which --truncation compares images.  [default: {SPACE}]",
)
@click.option(
    "--weights",
    type=UserPath(),
    metavar="FILE",
    help="A file with the weights of that network.",
)
@TRUST
@click.option(
    "--device",
    help=f"Where --truncation computes: auto, cpu, cuda or cuda:N.  [default: {DEVICE}]",
)
def report(
    runs: tuple[Path, ...],
    *,
    out: Path | None,
    truncation: str | None,
    num: int | None,
    space: Space | None,
    weights: Path | None,
    trust: bool,
    device: str | None,
) -> None:
    """Write one HTML page about a training run, or about several runs side by side.

    RUN is the folder that `stylenat train` wrote; it may still be training. The page has samples,
    curves, scores, configuration, machine and faults. It needs no other file and no network.
    """
    from stylenat.layout import RunPaths
    from stylenat.reporting.document import check_report, write_report
    from stylenat.reporting.facts import read_run

    if out is None:
        if len(runs) > 1:
            raise ValueError("several runs need --out, the page to write")
        out = RunPaths(runs[0]).report
    for run in runs:
        read_run(run)
    check_report(out)
    options = {
        "--num": num,
        "--space": space,
        "--weights": weights,
        "--trust": trust or None,
        "--device": device,
    }
    if truncation is not None:
        chosen = {"num": num or NUM, "space": space or SPACE}
        file = {"weights": None if weights is None else str(weights), "trust_weights": trust}
        _measure(runs, truncation, device or DEVICE, {**chosen, **file})
    elif given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{given[0]} belongs to --truncation, which is missing")
    size = write_report(runs, out)
    click.echo(f"{out}: {size / 1000:,.0f} kB")


def _measure(
    runs: tuple[Path, ...], truncation: str, device: str, settings: dict[str, Any]
) -> None:
    from stylenat.distributed import pick_device
    from stylenat.latents.sweep import parse_sweep
    from stylenat.memory import keep_freed_memory
    from stylenat.reporting.truncation import measure_truncation

    psis = parse_sweep(truncation, option="--truncation")
    keep_freed_memory()
    for run in runs:
        measure_truncation(run, psis, device=pick_device(device), tell=click.echo, **settings)
