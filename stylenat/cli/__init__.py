"""The `stylenat` command: parse, call, print. What a subcommand needs is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from stylenat import __version__
from stylenat.cli.bench import bench
from stylenat.cli.convert import convert
from stylenat.cli.doctor import doctor
from stylenat.cli.fid import fid
from stylenat.cli.prepare import prepare
from stylenat.cli.sample import sample
from stylenat.cli.train import train


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


for command in (prepare, train, convert, bench, doctor, sample, fid):
    main.add_command(command)
