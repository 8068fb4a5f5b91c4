"""`stylenat train`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import DEVICE, UserPath

STOPPED = 128  # plus the signal's number, as in a shell


@click.command()
@click.argument("config_path", metavar="CONFIG", type=UserPath())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--run-dir",
    type=UserPath(),
    metavar="DIR",
    help="The run's folder; if it holds a run, that one continues.  [default: a new, numbered one]",
)
@DEVICE
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and stop.")
def train(
    config_path: Path, overrides: tuple[str, ...], run_dir: Path | None, device: str, dry_run: bool
) -> None:
    """Train a generator: CONFIG is a YAML file, or a name that `stylenat configs` lists.

    KEY=VALUE changes a value of it, for example data.path=ffhq256.zip.

    The same command with the same --run-dir continues where the run stopped. On several GPUs:
    torchrun --nproc-per-node 8 -m stylenat train ...
    """
    from stylenat.config import load_config
    from stylenat.distributed import from_main, is_main, pick_device, process_group
    from stylenat.memory import keep_freed_memory

    config = load_config(config_path, overrides)
    torch_device = pick_device(device)
    if torch_device.type == "cpu":
        keep_freed_memory()
    with process_group(torch_device):
        if dry_run:
            from stylenat.training.dry_run import describe_run

            description = describe_run(config)
            if is_main():
                click.echo(description)
            return
        from stylenat.training.loop import train as train_loop
        from stylenat.training.run_folder import next_run_folder

        folder = from_main(run_dir or next_run_folder(config_path))
        stopped_by = train_loop(config, folder, torch_device)
    if stopped_by is not None:
        raise SystemExit(STOPPED + stopped_by)
