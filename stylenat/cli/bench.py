"""`stylenat bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stylenat.choices import PRECISIONS
from stylenat.cli.options import BATCHES, COMPILE, DEVICE, UserPath

if TYPE_CHECKING:
    import torch

    from stylenat.benchmarks.report import Report


@click.group()
def bench() -> None:
    """Measure speed on this machine, print a table, and write it as JSON."""


CONFIG = click.option(
    "--config",
    "config_path",
    type=UserPath(),
    default=Path("ffhq256"),
    show_default=True,
    metavar="PATH",
    help="Which networks to measure: a YAML file, or a name that `stylenat configs` lists.",
)
REPEATS = click.option(
    "--repeats", type=click.IntRange(1), default=9, show_default=True, help="How many runs count."
)
MAX_SIDE = click.option(
    "--max-side", type=click.IntRange(16), default=1024, help="Leave out maps that are larger."
)
PROFILE = click.option(
    "--profile", is_flag=True, help="Add a text file with the time that each kernel takes."
)
OUTDIR = click.option(
    "--outdir",
    type=UserPath(),
    metavar="DIR",
    help="Write the table to DIR as JSON, with hardware, versions and commit.",
)


@bench.command("op")
@BATCHES
@MAX_SIDE
@DEVICE
@REPEATS
@OUTDIR
def bench_op(
    batches: tuple[int, ...] | None, max_side: int, device: str, repeats: int, outdir: Path | None
) -> None:
    """Measure the attention operation: every backend at the shapes of FFHQ, and its rivals.

    The default is one image, and on a GPU eight as well.
    """
    from stylenat.benchmarks import op

    chosen = _prepare(device, outdir)
    batches = batches or ((1, 8) if chosen.type == "cuda" else (1,))
    report = op.bench_op(device=chosen, batches=batches, repeats=repeats, max_side=max_side)
    _finish(report, outdir)


@bench.command("tokens")
@MAX_SIDE
@DEVICE
@REPEATS
@OUTDIR
def bench_tokens(max_side: int, device: str, repeats: int, outdir: Path | None) -> None:
    """Measure what the attention operation costs per token, from 64x64 to 1024x1024."""
    from stylenat.benchmarks import tokens

    if max_side < tokens.SIDES[0]:
        raise click.BadParameter(
            f"the smallest map here is {tokens.SIDES[0]}", param_hint="max-side"
        )
    chosen = _prepare(device, outdir)
    _finish(tokens.bench_tokens(device=chosen, repeats=repeats, max_side=max_side), outdir)


@bench.command("generator")
@CONFIG
@BATCHES
@click.option(
    "--dtype",
    type=click.Choice(PRECISIONS),
    help="Measure this precision alone, not both.",
)
@COMPILE
@PROFILE
@DEVICE
@REPEATS
@OUTDIR
def bench_generator(
    config_path: Path,
    batches: tuple[int, ...] | None,
    dtype: str | None,
    compiled: bool,
    profile: bool,
    device: str,
    repeats: int,
    outdir: Path | None,
) -> None:
    """Measure images per second of a generator with fresh weights, with and without attention.

    The default batches are 1, 2 and 4, and on a GPU more, up to 256 or until its memory is full.
    """
    from stylenat.benchmarks import generator
    from stylenat.precision import DTYPES, TRAINED

    chosen = _prepare(device, outdir)
    report = generator.bench_generator(
        config_path,
        device=chosen,
        batches=batches or [2**n for n in range(9 if chosen.type == "cuda" else 3)],
        repeats=repeats,
        dtypes=TRAINED if dtype is None else (DTYPES[dtype],),
        compiled=compiled,
        profiled=profile,
    )
    _finish(report, outdir)


@bench.command("training")
@CONFIG
@click.option(
    "--resolution", type=int, metavar="SIDE", help="Cut the networks to images of this side."
)
@BATCHES
@click.option(
    "--dtype",
    "precision",
    type=click.Choice(PRECISIONS),
    help="The precision; by default the config's.",
)
@click.option("--compile", "compiled", is_flag=True, help="With train.compile=true.")
@click.option(
    "--cuda-graphs", "graphs", is_flag=True, help="With train.cuda_graphs=true, compiled too."
)
@PROFILE
@DEVICE
@REPEATS
@OUTDIR
def bench_training(
    config_path: Path,
    resolution: int | None,
    batches: tuple[int, ...] | None,
    precision: str | None,
    compiled: bool,
    graphs: bool,
    profile: bool,
    device: str,
    repeats: int,
    outdir: Path | None,
) -> None:
    """Measure the seconds of each part of a training step, on random images.

    The default batch is the config's.
    """
    from stylenat.benchmarks import training
    from stylenat.config import load_config

    overrides = [] if precision is None else [f"train.precision={precision}"]
    if compiled or graphs:
        overrides += ["train.compile=true", f"train.cuda_graphs={str(graphs).lower()}"]
    config = load_config(config_path, overrides)
    name = config_path.stem
    if resolution is not None:
        config, name = training.cut(config, resolution), f"{name}-cut{resolution}"
    if precision is not None:
        name = f"{name}-{precision}"
    if compiled or graphs:
        name = f"{name}-{'graphs' if graphs else 'compiled'}"
    report = training.bench_training(
        config,
        name=name,
        device=_prepare(device, outdir),
        batches=batches or (config.train.batch,),
        repeats=repeats,
        profiled=profile,
    )
    _finish(report, outdir)


@bench.command("backbones")
@BATCHES
@DEVICE
@REPEATS
@OUTDIR
def bench_backbones(
    batches: tuple[int, ...] | None, device: str, repeats: int, outdir: Path | None
) -> None:
    """Measure NAT and DiNAT, in inference and training, with and without attention.

    By default in batches of 1 and 8; on a GPU of 1, 8 and 64.
    """
    from stylenat.benchmarks import backbones

    chosen = _prepare(device, outdir)
    batches = batches or ((1, 8, 64) if chosen.type == "cuda" else (1, 8))
    report = backbones.bench_backbones(device=chosen, batches=batches, repeats=repeats)
    _finish(report, outdir)


@bench.command("data")
@REPEATS
@OUTDIR
def bench_data(repeats: int, outdir: Path | None) -> None:
    """Measure preparing drawn faces, and reading training batches."""
    from stylenat.benchmarks import data

    _check_outdir(outdir)
    _finish(data.bench_data(repeats=repeats), outdir)


def _prepare(device: str, outdir: Path | None) -> torch.device:
    """The requested device. Freed memory is kept from here on, and OUTDIR must be writable."""
    from stylenat.distributed import pick_device
    from stylenat.memory import keep_freed_memory

    _check_outdir(outdir)
    keep_freed_memory()
    return pick_device(device)


def _check_outdir(outdir: Path | None) -> None:
    from stylenat.files import check_can_fill

    if outdir is not None:
        check_can_fill(outdir)


def _finish(report: Report, outdir: Path | None) -> None:
    """Print a report, and write it to OUTDIR if that is given."""
    report.show()
    if outdir is not None:
        click.echo(f"Written to {report.write(outdir)}")
