"""`stylenat export`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import SNAPSHOT, ModelPath, UserPath


@click.command()
@click.argument("model", type=ModelPath())
@click.option(
    "--onnx",
    "onnx_folder",
    type=UserPath(),
    metavar="DIR",
    help="Write mapping.onnx, synthesis.onnx and generator.json into this folder.",
)
@click.option(
    "--torch-export",
    "torch_folder",
    type=UserPath(),
    metavar="DIR",
    help="Write mapping.pt2, synthesis.pt2 and generator.json, for torch.export.load.",
)
@click.option(
    "--uint8", is_flag=True, help="Let synthesis give pixels, uint8 [B, R, R, 3], not images."
)
@click.option(
    "--fp16",
    is_flag=True,
    help="Store the weights of the ONNX files in float16, for half the size. They are computed "
    "with in float32.",
)
@SNAPSHOT
def export(
    model: Path,
    onnx_folder: Path | None,
    torch_folder: Path | None,
    uint8: bool,
    fp16: bool,
    snapshot: str,
) -> None:
    """Write MODEL as graphs that run without StyleNAT: with ONNX Runtime, in a browser, or with
    PyTorch alone.

    MODEL is what `stylenat sample` takes. Images of the ONNX files are compared with PyTorch's.
    """
    if onnx_folder is None and torch_folder is None:
        raise click.UsageError("say what to write: --onnx DIR, --torch-export DIR, or both")
    if onnx_folder is not None and onnx_folder == torch_folder:
        raise click.UsageError(
            f"--onnx and --torch-export must be two folders: both are {onnx_folder}"
        )
    if fp16 and onnx_folder is None:
        raise click.UsageError("--fp16 is for ONNX files, so it needs --onnx DIR")

    import torch

    from stylenat.files import check_can_fill
    from stylenat.portable import largest_difference, save_onnx, save_torch_export
    from stylenat.sampling import latents, load_model, model_file

    for folder in (onnx_folder, torch_folder):
        if folder is not None:
            check_can_fill(folder)
    generator = load_model(model_file(model, which=snapshot))
    if onnx_folder is not None:
        save_onnx(generator, onnx_folder, uint8=uint8, half=fp16)
        _report(onnx_folder, "onnx")
        label = torch.zeros(1, dtype=torch.int64) if generator.config.classes else None
        off = largest_difference(generator, onnx_folder, latents([0], generator.z_dim), label)
        unit = "of 255" if uint8 else "in the model's pixel space"
        click.echo(f"ONNX Runtime's image of seed 0 differs from PyTorch's by {off:.2g} {unit}")
    if torch_folder is not None:
        save_torch_export(generator, torch_folder, uint8=uint8)
        _report(torch_folder, "pt2")


def _report(folder: Path, suffix: str) -> None:
    sizes = (
        f"{name}.{suffix} {(folder / f'{name}.{suffix}').stat().st_size / 1e6:.1f} MB"
        for name in ("mapping", "synthesis")
    )
    click.echo(f"{folder}: {', '.join(sizes)}, generator.json")
