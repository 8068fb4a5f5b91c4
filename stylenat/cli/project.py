"""`stylenat project`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stylenat.choices import LATENT_SPACES, PROJECTION_LOSSES, LatentSpace, ProjectionLoss
from stylenat.cli.options import BATCH, CLASS, DEVICE, DTYPE, SNAPSHOT, ModelPath, UserPath

if TYPE_CHECKING:
    from torch import Tensor

    from stylenat.latents import LoadedModel
    from stylenat.latents.projection import Projection


@click.command()
@click.argument("model", type=ModelPath())
@click.argument("pictures", type=UserPath(), nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--outdir",
    type=UserPath(),
    required=True,
    metavar="DIR",
    help="The folder to write to.",
)
@click.option(
    "--space",
    type=click.Choice(LATENT_SPACES),
    default="w+",
    show_default=True,
    help="Look for one w for all blocks (w), or for one for each block (w+), which comes nearer to "
    "the picture, and is harder to edit.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="How many steps to take.",
)
@click.option(
    "--loss",
    type=click.Choice(PROJECTION_LOSSES),
    default="effnet",
    show_default=True,
    help="What compares images: features of EfficientNet-Lite0, pixels alone, or LPIPS.",
)
@click.option(
    "--tune",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Then fit the generator to the pictures, in N steps (350, for example), and write it as "
    "DIR/tuned.safetensors.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="The seed of the noise on w.")
@click.option("--no-film", is_flag=True, help="Do not write the film of the way.")
@CLASS
@BATCH
@DEVICE
@DTYPE
@SNAPSHOT
def project(
    model: Path,
    pictures: tuple[Path, ...],
    outdir: Path,
    space: LatentSpace,
    steps: int,
    loss: ProjectionLoss,
    tune: int,
    seed: int,
    no_film: bool,
    chosen_class: str | None,
    batch: int,
    device: str,
    dtype_name: str,
    snapshot: str,
) -> None:
    """Find the styles of MODEL whose images are most like the given ones.

    DIR gets ws.safetensors, which --ws of other commands takes; projected.png, the given images
    beside those found; projection.json, which says how well it went; and path.webp, a film of the
    way. MODEL is what `stylenat sample` takes.
    """
    from stylenat.files import check_can_fill
    from stylenat.latents import LoadedModel, Settings
    from stylenat.latents.pictures import names_of, read_pictures
    from stylenat.latents.projection import ProjectionSettings
    from stylenat.latents.projection import project as find
    from stylenat.memory import keep_freed_memory
    from stylenat.progress import progress_bar

    keep_freed_memory()
    names = names_of(pictures)
    check_can_fill(outdir)
    wanted = ProjectionSettings(space, loss, steps, tune, seed)
    settings = Settings(
        chosen_class=chosen_class, batch=batch, device=device, dtype_name=dtype_name,
        snapshot=snapshot,
    )  # fmt: skip
    loaded = LoadedModel(model, settings)
    pictures_NRR3 = read_pictures(pictures, loaded.generator.resolution)
    with progress_bar("Projecting", steps + tune) as advance:
        found = find(loaded, pictures_NRR3, wanted, report=lambda done, _: advance(done))
    _write(loaded, found, names, pictures_NRR3, outdir, tuned=tune > 0, film=not no_film)
    for name, quality in zip(names, found.qualities, strict=True):
        far = "; far from what the model makes: this is not the picture" if quality.is_far else ""
        click.echo(
            f"{name}: PSNR {quality.psnr:.1f} dB, distance {quality.distance:.2f}, w at "
            f"{quality.sigmas:.2f} sigma{far}"
        )
    click.echo(f"Next: stylenat sample {model} --ws {outdir / 'ws.safetensors'} --outdir DIR")


def _write(
    loaded: LoadedModel,
    found: Projection,
    names: list[str],
    pictures_NRR3: Tensor,
    outdir: Path,
    *,
    tuned: bool,
    film: bool,
) -> None:
    """Write all that a projection leaves to a folder."""
    import torch

    from stylenat.export import save_generator
    from stylenat.files import sha256_of
    from stylenat.latents import save_ws
    from stylenat.latents.projection import path_frames, save_qualities
    from stylenat.latents.video import parse_fps, save_film
    from stylenat.sampling import NamedWs, contact_sheet, save_sheet

    outdir.mkdir(parents=True, exist_ok=True)
    sha256 = loaded.sha256
    if tuned:
        save_generator(found.generator, outdir / "tuned.safetensors")
        sha256 = sha256_of(outdir / "tuned.safetensors")
    save_ws(NamedWs(tuple(names), found.ws), outdir / "ws.safetensors", model_sha256=sha256)
    beside = torch.stack([pictures_NRR3, found.images], dim=1).flatten(0, 1)
    save_sheet(contact_sheet(beside, 2, len(names)), outdir / "projected.png")
    save_qualities(outdir / "projection.json", names, found.qualities)
    if film:
        frames = path_frames(loaded, found.path, loaded.generator)
        rate = parse_fps("15")
        save_film(frames, outdir / "path.webp", count=len(found.path), fps=rate, quality=85)
