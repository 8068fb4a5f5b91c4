"""Options that several subcommands have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from stylenat.choices import DTYPES, FILTERS, SEED_SCHEMES, SNAPSHOTS
from stylenat.files import user_path
from stylenat.hub import is_hub_name, parse_name

Command = TypeVar("Command", bound=Callable[..., Any])


class Batches(click.ParamType):
    """`1,8,64`: batch sizes."""

    name = "batches"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, ...]:
        pieces = str(value).split(",")
        if all(piece.isascii() and piece.isdecimal() and int(piece) > 0 for piece in pieces):
            return tuple(int(piece) for piece in pieces)
        self.fail(f"'{value}' is not a list of batch sizes, such as 1,8,64", parameter, context)


class Cells(click.ParamType):
    """`4x2`: columns and rows."""

    name = "cells"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        columns, x, rows = str(value).partition("x")
        if x and columns.isdecimal() and rows.isdecimal():
            return int(columns), int(rows)
        self.fail(f"'{value}' is not columns and rows, such as 8x4", parameter, context)


class UserPath(click.ParamType):
    """A path with `~` expanded; every path that a command takes has this type."""

    name = "path"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        return user_path(value if isinstance(value, Path) else str(value))


class ModelPath(UserPath):
    """A file or folder with a model, or `hf:USER/NAME[@REVISION]`, which must be well formed."""

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        if is_hub_name(str(value)):
            return Path(str(parse_name(str(value))))
        return super().convert(value, parameter, context)


class ModelName(click.ParamType):
    """The same as text, for a command that also takes what is no path, such as `faces:100`."""

    name = "text"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> str:
        return str(parse_name(str(value))) if is_hub_name(str(value)) else str(value)


class Psi(click.ParamType):
    """A finite number."""

    name = "float"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        try:
            psi = float(str(value))
        except ValueError:
            self.fail(f"'{value}' is not a number", parameter, context)
        if not math.isfinite(psi):
            raise ValueError(f"truncation_psi must be finite: {psi}")
        return psi


BATCHES = click.option(
    "--batch",
    "batches",
    type=Batches(),
    metavar="LIST",
    help="The batch sizes to measure, such as 1,8,64.",
)
COMPILE = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the networks with torch.compile first, which takes up to minutes. It is for "
    "GPUs, where small batches also become CUDA graphs; on a CPU most networks become slower.",
)
DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N.",
)
DTYPE = click.option(
    "--dtype",
    "dtype_name",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="The precision of the generator; bfloat16 and float16 work by autocast.",
)
FILTER = click.option(
    "--filter",
    "resize",
    type=click.Choice(FILTERS),
    default="lanczos",
    show_default=True,
    help="The filter that scales the images.",
)
SNAPSHOT = click.option(
    "--snapshot",
    type=click.Choice(SNAPSHOTS),
    default="best",
    show_default=True,
    help="Which snapshot of a run folder to take.",
)
BATCH = click.option(
    "--batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many images to generate at once.",
)
TRUST = click.option("--trust", is_flag=True, help="Run a TorchScript program of unknown origin.")
RESIZE = click.option(
    "--resize",
    type=click.Choice(FILTERS),
    help="Scale DATA to the model's size while it is read.",
)
SEED = click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Which images to generate: seed s takes the seeds from s * num on.",
)
READ_BATCH = click.option(
    "--batch",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="How many images to take at once.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="How many processes read images; with 0, the command itself does.",
)
SEEDS = click.option("--seeds", metavar="LIST", help="Which seeds to take, such as 0-63,100.")
SEED_SCHEME = click.option(
    "--seed-scheme",
    type=click.Choice(SEED_SCHEMES),
    default="torch",
    show_default=True,
    help="How a seed becomes a latent: as in StyleNAT's code (torch) or in StyleGAN's.",
)
CLASS = click.option(
    "--class",
    "chosen_class",
    metavar="CLASS",
    help="Of a model with classes: the name or the number of one, or all to draw every seed in "
    "each of them.",
)
TRUNC = click.option(
    "--trunc",
    type=Psi(),
    default=1.0,
    show_default=True,
    help="Truncation psi: 1 changes nothing, less gives more typical images.",
)
TRUNC_CUTOFF = click.option(
    "--trunc-cutoff",
    type=int,
    metavar="N",
    help="Truncate only the w of the first N blocks.  [default: of all blocks]",
)
TRUNC_MODES = click.option(
    "--trunc-modes",
    type=int,
    metavar="K",
    help="Truncate towards the nearest of K centers of w, instead of the mean of w. Needs "
    "scikit-learn.",
)
WS = click.option(
    "--ws",
    "ws_files",
    type=UserPath(),
    multiple=True,
    metavar="FILE",
    help="A ws file, such as `sample --save-w` writes; its styles follow those of the seeds. This "
    "option may be given several times.",
)
ANY_MODEL = click.option(
    "--any-model",
    is_flag=True,
    help="Take ws files and directions of another model too, if their shapes fit.",
)
VARIANT = click.option(
    "-n",
    "--name",
    metavar="NAME",
    help="The variant of a NAT, such as dinat_mini, if its file's name does not say it: it decides "
    "the dilations.",
)


def style_settings(command: Command) -> Command:
    """Gives a command the options that are the fields of `stylenat.latents.Settings`."""
    options = (
        CLASS, TRUNC, TRUNC_CUTOFF, TRUNC_MODES, SEED_SCHEME, ANY_MODEL, BATCH, DEVICE, DTYPE,
        SNAPSHOT,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def check_together(*options: tuple[str, object]) -> None:
    """Raises ValueError if only some of these options, which need each other, are given."""
    missing = [name for name, value in options if value is None]
    if missing and len(missing) < len(options):
        raise ValueError(f"{' and '.join(name for name, _ in options)} belong together: "
                         f"{missing[0]} is missing")  # fmt: skip


def check_outputs(*paths: Path | None, inputs: Iterable[str | Path | None]) -> None:
    """Raises ValueError and OSError for files that would replace an input or cannot be written."""
    from stylenat.files import check_can_write, refuse_overwriting

    for path in paths:
        if path is not None:
            refuse_overwriting(path, *inputs)
            check_can_write(path)
