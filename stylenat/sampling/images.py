"""Generator and seeds -> pixels; pixels -> contact sheets and files.

Legend: B batch, N images, H height, W width, L blocks, S style_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ops.checks import check_tensor, check_whole
from stylenat import marks
from stylenat.files import replacing, user_path
from stylenat.models import Generator
from stylenat.precision import DTYPES, autocast, for_images
from stylenat.sampling.seeds import check_seeds
from stylenat.sampling.styles import seed_ws


def generate(
    generator: Generator,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    *,
    batch: int = 8,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    dtype: torch.dtype = torch.float32,
    scheme: str = "torch",
) -> Iterator[Tensor]:
    """uint8 pixels [b, H, W, 3] on the CPU, `batch` images at a time, in the order of the seeds.

    A generator with classes also needs `labels`, the number of the class for each seed.
    A seed gives the same image whatever the batch, up to the rounding of matrix products, which
    depends on their size: about 4 values in 100,000 differ by 1. The generator runs on its own
    device, and under autocast if `dtype` is bfloat16 or float16 (see `precision.for_images`).
    Raises ValueError for a batch below 1, and as `seed_ws` does.
    """
    check_seeds(seeds, scheme)
    check_rendering(batch, dtype)
    for start in range(0, len(seeds), batch):
        ws_BLS = seed_ws(
            generator,
            seeds[start : start + batch],
            None if labels is None else labels[start : start + batch],
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            scheme=scheme,
        )
        yield render(generator, ws_BLS, dtype=dtype)


def check_rendering(batch: int, dtype: torch.dtype) -> None:
    """Raises ValueError for a batch that is no number from 1 up, and for an unknown dtype."""
    check_whole("the batch", batch)
    if dtype not in DTYPES.values():
        choices = ", ".join(map(str, DTYPES.values()))
        raise ValueError(f"the dtype must be one of {choices}: {dtype}")
    if batch < 1:
        raise ValueError(f"the batch must be at least 1: {batch}")


@torch.no_grad()
def render(generator: Generator, ws_BLS: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels [B, H, W, 3] on the CPU of ws [B, num_ws, S], all in one batch."""
    ws_BLS = ws_BLS.to(generator.const)
    with autocast(ws_BLS.device, for_images(dtype, ws_BLS.device)):
        images_B3HW = generator.synthesis(ws_BLS)
    return generator.to_uint8(images_B3HW).cpu()


def render_by_level(
    generator: Generator, ws_BLS: Tensor, *, dtype: torch.dtype = torch.float32
) -> Iterator[Tensor]:
    """uint8 pixels [B, H, W, 3] after each level of the generator; the last ones are `render`'s.

    A level is computed when it is asked for, so that a caller can show the small images first, or
    end early.
    """
    images = generator.synthesis_by_level(ws_BLS.to(generator.const))
    for _ in generator.levels:
        # No setting of this thread outlives a level: what else runs on it keeps its own.
        device = generator.const.device
        with torch.no_grad(), autocast(device, for_images(dtype, device)):
            image_B3HW = next(images)
        yield generator.to_uint8(image_B3HW).cpu()


def contact_sheet(images_NHW3: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """uint8 images [N, H, W, 3] side by side, line by line -> uint8 [rows * H, columns * W, 3].

    If `rows` is None, the sheet has as many rows as the images need. Cells without an image are
    black. Raises ValueError for no images, or for more images than cells.
    """
    _check_pixels("images", images_NHW3, "[N, H, W, 3]")
    for name, number in (("columns", columns), ("rows", 1 if rows is None else rows)):
        check_whole(name, number)
    count, height, width, _ = images_NHW3.shape
    rows = -(-count // max(columns, 1)) if rows is None else rows
    if not 1 <= count <= columns * rows:
        raise ValueError(
            f"a sheet of {columns}x{rows} must get 1 to {columns * rows} images: {count}"
        )
    cells = images_NHW3.new_zeros(rows * columns, height, width, 3)
    cells[:count] = images_NHW3
    sheet = cells.view(rows, columns, height, width, 3).permute(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, 3)


def save_png(image_HW3: Tensor, path: str | Path, *, software: str | None = None) -> None:
    """Write uint8 pixels [H, W, 3] as a PNG; `path` is replaced atomically.

    `software` is what the file says it was made by.
    """
    _check_pixels("an image", image_HW3, "[H, W, 3]")
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    if software is not None:
        about.add_text(marks.KEY, software)

    with replacing(user_path(path)) as temporary:
        Image.fromarray(image_HW3.cpu().numpy()).save(temporary, format="PNG", pnginfo=about)


def save_sheet(sheet_HW3: Tensor, path: str | Path) -> None:
    """Write a contact sheet as `save_png` does, with the mark by which readers know it as one."""
    save_png(sheet_HW3, path, software=marks.SHEET)


def _check_pixels(name: str, pixels: Tensor, shape: str) -> None:
    check_tensor(name, pixels)
    is_right = pixels.ndim == shape.count(",") + 1 and pixels.shape[-1] == 3
    if not is_right or pixels.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8 {shape}: {tuple(pixels.shape)}, {pixels.dtype}")
