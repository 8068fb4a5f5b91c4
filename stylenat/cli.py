"""The `stylenat` command: parse, call, print. What a subcommand needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat import __version__

if TYPE_CHECKING:
    from stylenat.benchmarks.report import Report


class OneSentence(click.Group):
    """A group whose commands end in `Error: one sentence.` where the library refuses something.

    Exit codes: 1 where the library refused a file or a value, 2 where the command was misspelt.
    """

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:  # click ends quietly
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            named = f"{error.filename}: {reason}" if error.filename else reason
            raise click.ClickException(named) from error
        except ValueError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stylenat")
def main() -> None:
    """StyleNAT: a style-based GAN with neighborhood attention."""


@main.command()
@click.argument("official", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The model's YAML, for what the checkpoint's own args do not hold.",
)
@click.option(
    "--which",
    type=click.Choice(["g_ema", "g", "d"]),
    default="g_ema",
    show_default=True,
    help="The averaged generator, the trained one, or the discriminator.",
)
def convert(
    official: Path, out: Path, overrides: tuple[str, ...], config_path: Path | None, which: str
) -> None:
    """Convert a published checkpoint, StyleNAT's or StyleSwin's OFFICIAL.pt, to OUT.safetensors.

    Nothing in the file is run. KEY=VALUE changes --config: model.generator.qk_scale=0.2
    """
    if overrides and config_path is None:
        raise click.UsageError(f"KEY=VALUE changes --config, and there is none: {overrides[0]}")
    if out.exists() and official.exists() and out.samefile(official):
        raise click.UsageError(f"OUT must be another file than OFFICIAL: {out}")

    from stylenat.config import load_config
    from stylenat.export import save_discriminator, save_generator
    from stylenat.legacy import convert_checkpoint
    from stylenat.models import Generator

    config = None if config_path is None else load_config(config_path, overrides)
    network = convert_checkpoint(official, which=which, config=config)
    if isinstance(network, Generator):
        network.store_w_avg()
        save_generator(network, out)
        kind, use = "generator", f'generator = stylenat.load_generator("{out}")'
    else:
        save_discriminator(network, out)
        kind, use = "discriminator", f'D = stylenat.load_discriminator("{out}")'
    side = network.config.resolution
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    megabytes = out.stat().st_size / 1e6
    click.echo(f"{out}: {kind}, {side}x{side}, {millions:.3f} M parameters, {megabytes:.1f} MB")
    click.echo(f"Next, in Python: {use}")


@main.group()
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


def _finish(report: Report, outdir: Path | None) -> None:
    """Print a report, and write it where it was asked for."""
    report.show()
    if outdir is not None:
        click.echo(f"Written to {report.write(outdir)}")
