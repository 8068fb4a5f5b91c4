"""`stylenat bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from stylenat.benchmarks.report import Report


@click.group()
def bench() -> None:
    """Measure speed on this machine's CPU, print a table, and write it as JSON."""


REPEATS = click.option(
    "--repeats", type=click.IntRange(1), default=9, show_default=True, help="Runs that count."
)
OUTDIR = click.option(
    "--outdir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the table to DIR as JSON, with hardware, versions and commit.",
)


@bench.command("op")
@REPEATS
@OUTDIR
def bench_op(repeats: int, outdir: Path | None) -> None:
    """The attention operation: every backend at the shapes of FFHQ, and FlexAttention."""
    from stylenat.benchmarks import op
    from stylenat.memory import keep_freed_memory

    keep_freed_memory()
    _finish(op.bench_op(repeats=repeats), outdir)


@bench.command("generator")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("configs/ffhq256.yaml"),
    show_default=True,
    metavar="PATH",
    help="The model's YAML.",
)
@REPEATS
@OUTDIR
def bench_generator(config_path: Path, repeats: int, outdir: Path | None) -> None:
    """One image through a generator with fresh weights, and through it without attention."""
    from stylenat.benchmarks import generator
    from stylenat.memory import keep_freed_memory

    keep_freed_memory()
    _finish(generator.bench_generator(config_path, repeats=repeats), outdir)


@bench.command("data")
@REPEATS
@OUTDIR
def bench_data(repeats: int, outdir: Path | None) -> None:
    """Preparing drawn faces, and reading training batches."""
    from stylenat.benchmarks import data

    _finish(data.bench_data(repeats=repeats), outdir)


def _finish(report: Report, outdir: Path | None) -> None:
    """Print a report, and write it where it was asked for."""
    report.show()
    if outdir is not None:
        click.echo(f"Written to {report.write(outdir)}")
