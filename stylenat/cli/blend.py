"""`stylenat blend`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import SNAPSHOT, ModelPath, UserPath


@click.command()
@click.argument("a", type=ModelPath())
@click.argument("b", type=ModelPath())
@click.argument("out", type=UserPath())
@click.option(
    "--from-level",
    type=int,
    required=True,
    metavar="SIDE",
    help="The resolution from which on levels are B's, such as 32.",
)
@SNAPSHOT
def blend(a: Path, b: Path, out: Path, from_level: int, snapshot: str) -> None:
    """Write OUT.safetensors: the generator of A, with the levels of B from --from-level up.

    A and B are models of one architecture, such as a model and what was fine-tuned from it: each an
    exported file, a run folder or one of its checkpoints, a published .pt, or
    hf:USER/NAME[@REVISION] on the Hub. The mapping network and the constant are A's.
    """
    from stylenat.export import save_generator
    from stylenat.files import check_can_write, refuse_overwriting
    from stylenat.sampling import blend as blend_generators
    from stylenat.sampling import load_model, model_file, model_name

    files = [model_file(path, which=snapshot) for path in (a, b)]
    refuse_overwriting(out, *files)
    check_can_write(out)
    first, second = map(load_model, files)
    blended = blend_generators(first, second, from_level=from_level)
    save_generator(blended, out)
    sides = [level.resolution for level in blended.config.levels]
    low = [str(side) for side in sides if side < from_level]
    high = [str(side) for side in sides if side >= from_level]
    from_a = f", levels {', '.join(low)}" if low else ""
    click.echo(f"{out}: mapping network and constant{from_a} of {model_name(files[0])}")
    click.echo(f"{' ' * len(str(out))}  levels {', '.join(high)} of {model_name(files[1])}")
