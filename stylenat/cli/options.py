"""Options that several subcommands have."""

import click

DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
DTYPE = click.option(
    "--dtype",
    "dtype_name",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="The generator's; the shorter ones by autocast.",
)
SNAPSHOT = click.option(
    "--snapshot",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Of a run folder.",
)
TRUNC = click.option("--trunc", type=float, default=1.0, show_default=True, help="Truncation psi.")
