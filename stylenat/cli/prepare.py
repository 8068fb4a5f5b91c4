"""`stylenat prepare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat.choices import CROPS
from stylenat.cli.options import FILTER, UserPath

if TYPE_CHECKING:
    from stylenat.data.prepare import Report


@click.command()
@click.argument("source", required=False)
@click.argument("dest", required=False, type=UserPath(), metavar="[DEST.zip]")
@click.option("--resolution", type=int, metavar="R", help="The side of the images to write.")
@click.option(
    "--crop",
    type=click.Choice(CROPS),
    default="center",
    show_default=True,
    help="What to do with an image that is not square: take its center, or count it as bad.",
)
@FILTER
@click.option(
    "--max-images",
    type=click.IntRange(1),
    metavar="N",
    help="Take only N images, chosen at random.",
)
@click.option(
    "--max-bad",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many unusable images may be left out; more of them are an error.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Which images --max-images takes, and which faces are drawn.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="How many processes share the work; with 0, the command does it alone.  [default: one per "
    "processor]",
)
@click.option(
    "--labels-from-folders",
    is_flag=True,
    help="Make a class of each folder in SOURCE, with the folder's name.",
)
@click.option("--overwrite", is_flag=True, help="Replace DEST.zip if it exists.")
@click.option(
    "--verify",
    "verified",
    metavar="X.zip",
    help="Write nothing, but check every member of X.zip.",
)
@click.pass_context
def prepare(
    context: click.Context,
    /,
    source: str | None,
    dest: Path | None,
    resolution: int | None,
    verified: str | None,
    workers: int | None,
    **options: Any,
) -> None:
    """Make a data set: scale the images of SOURCE and store them in DEST.zip.

    SOURCE is a folder of images, a zip, the folder of an LMDB, a CIFAR archive, or faces:N for N
    drawn faces. A second call continues what was interrupted.
    """
    if verified is not None:
        given = [p.opts[-1] for p in context.command.params if _is_given(context, p)]
        if extra := [name for name in given if name not in ("--verify", "--workers")]:
            raise click.UsageError(f"--verify cannot be combined with {extra[0]}")
        _verify(verified, workers)
        return
    if source is None or dest is None or resolution is None:
        missing = "SOURCE" if source is None else "DEST.zip" if dest is None else "--resolution"
        raise click.UsageError(f"{missing} is missing")
    from stylenat.data import prepare as work

    start = time.monotonic()
    settings = work.Settings(resolution, crop=options.pop("crop"), resize=options.pop("resize"))
    report = work.prepare(source, dest, settings, workers=workers, **options)
    _show(report, dest, resolution, time.monotonic() - start)


def _is_given(context: click.Context, parameter: click.Parameter) -> bool:
    source = context.get_parameter_source(parameter.name or "")
    return source == click.core.ParameterSource.COMMANDLINE


def _show(report: Report, dest: Path, resolution: int, seconds: float) -> None:
    from stylenat.text import printable, shell_word

    if report.restarted:
        click.echo("Began again: the unfinished run had another source or other settings.")
    if report.resumed:
        click.echo(f"Continued after {report.resumed:,} images of an unfinished run.")
    if report.enlarged:
        click.echo(
            f"Enlarged {report.enlarged:,} images that were smaller than {resolution}x{resolution}."
        )
    if report.skipped:
        click.echo(f"Skipped {len(report.skipped):,} images:")
    for name, reason in report.skipped:
        click.echo(f"  {printable(name)} {reason}")
    megabytes = dest.stat().st_size / 1e6
    size = f"{resolution}x{resolution}, {megabytes:.1f} MB"
    click.echo(f"{printable(str(dest))}: {report.images:,} images, {size}, in {seconds:.0f} s")
    for remark in _remarks(report):
        click.echo(f"Note: {remark}.")
    click.echo(f"Next: stylenat train CONFIG {shell_word(f'data.path={dest}')}")


def _remarks(report: Report) -> tuple[str, ...]:
    if not 0 < report.labelled < report.images:
        return report.remarks
    left_out = f"{report.labelled:,} of {report.images:,} images have a label"
    return (*report.remarks, f"the zip has no labels, since only {left_out}")


def _verify(path: str, workers: int | None) -> None:
    from stylenat.data.verify import verify
    from stylenat.text import printable

    found = verify(path, workers=workers)
    labels = f", {found.labels:,} of them labelled" if found.labels else ""
    size = f"{found.width}x{found.height}"
    click.echo(f"{printable(path)}: {found.images:,} images, {size}{labels}: all whole")
    for remark in found.remarks:
        click.echo(f"Note: {remark}.")
