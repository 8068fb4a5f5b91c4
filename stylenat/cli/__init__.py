"""The `stylenat` command. A subcommand imports what it needs only when it runs."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import click

from stylenat import __version__
from stylenat.cli.accuracy import accuracy
from stylenat.cli.attention import attention
from stylenat.cli.augment_sheet import augment_sheet
from stylenat.cli.bench import bench
from stylenat.cli.blend import blend
from stylenat.cli.classify import classify
from stylenat.cli.configs import configs
from stylenat.cli.convert import convert
from stylenat.cli.directions import directions
from stylenat.cli.doctor import doctor
from stylenat.cli.edit import edit
from stylenat.cli.explore import explore
from stylenat.cli.export import export
from stylenat.cli.fid import fid
from stylenat.cli.film import film
from stylenat.cli.mix import mix
from stylenat.cli.nearest import nearest
from stylenat.cli.prepare import prepare
from stylenat.cli.project import project
from stylenat.cli.push import push
from stylenat.cli.report import report
from stylenat.cli.sample import sample
from stylenat.cli.train import train
from stylenat.ending import end_in_time, hurry

STOPPED = 128  # plus the signal's number, as in a shell
OTHER_RANKS_SECONDS = 2.0


class OneSentence(click.Group):
    """A group of commands that end with `Error: one sentence.` if the library refuses something.

    Exit codes: 1 if the library refused a file or a value, 2 if the command was misspelt, 130
    after Ctrl-C.
    """

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:  # click ends quietly
            raise
        except KeyboardInterrupt as error:
            click.echo("Stopped by SIGINT.", err=True)
            raise SystemExit(STOPPED + signal.SIGINT) from error
        except Exception as error:
            sentence = _sentence_of(error)
            if sentence is None:
                raise
            # Mostly all ranks find the same fault, and torchrun ends the others when the first has
            # said it.
            if os.environ.get("LOCAL_RANK", "0") != "0":
                time.sleep(OTHER_RANKS_SECONDS)
            raise click.ClickException(sentence) from error


def _sentence_of(error: Exception) -> str | None:
    """What a user needs to know; None for a fault in our code, which needs its traceback."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, ValueError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = " ".join(str(error).split())[:300]
        return f"out of memory: lower --batch, or train.batch_gpu. {reason}".strip()
    return None


@click.group(cls=OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stylenat")
def main() -> None:
    """StyleNAT: a style-based GAN with neighborhood attention."""


for command in (
    prepare, augment_sheet, train, report, sample, fid, nearest, convert, export, push, blend,
    mix, film, directions, edit, attention, project, explore,
    classify, accuracy, configs, bench, doctor
):  # fmt: skip
    main.add_command(command)


def run() -> None:
    """The program: it runs `main`, and ends in time whatever happens."""
    try:
        end_in_time()
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error
    exit_code = 1
    try:
        main(prog_name="stylenat")
    except SystemExit as exit_:
        exit_code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        raise
    finally:
        hurry(exit_code)
