"""How strongly directions of w change a region of the images, and the rest of them.

Legend: N images, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylenat.latents.loaded import LoadedModel
from stylenat.models.pixels import to_rgb
from stylenat.progress import progress_bar
from stylenat.sampling import seed_ws

IMAGES = 4
TRUNCATION_PSI = 0.7  # of the images at which derivatives are taken: typical ones
# Step of the central differences, in spreads of w. In float32 the error of the derivative is least
# near the cube root of the rounding error.
STEP = 0.01

Region = tuple[int, int, int, int]


def parse_region(text: str) -> Region:
    """`x0,y0,x1,y1` -> a box of pixels, x1 and y1 not part of it. Raises ValueError otherwise."""
    pieces = text.split(",")
    if len(pieces) != 4 or not all(p.isascii() and p.isdecimal() and len(p) < 6 for p in pieces):
        raise ValueError(f"--region must be x0,y0,x1,y1 in pixels, such as 16,40,48,60: {text}")
    x0, y0, x1, y1 = map(int, pieces)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"--region must have x0 below x1 and y0 below y1: {text}")
    return x0, y0, x1, y1


@torch.no_grad()
def region_products(
    model: LoadedModel, blocks: Sequence[int], region: Region | None, *, spread: float
) -> tuple[Tensor, Tensor]:
    """Mean J^T J [S, S] of the pixels inside the region, and of those outside, float64.

    J is the derivative of an image in RGB, -1 to 1, by the w that all of `blocks` share, at seeds 0
    to 3, truncated by 0.7. It comes from central differences, whose step is a part of `spread`, the
    standard deviation of w. They cost two images for each dimension of w; on a CPU that is many
    times faster than forward mode, for which attention has no fast backend. Raises ValueError for a
    region that is not in the images.
    """
    generator = model.generator
    side, style_dim = generator.resolution, generator.config.style_dim
    x0, y0, x1, y1 = region or (0, 0, side, side)
    if max(x1, y1) > side:
        raise ValueError(f"--region must lie in the image, {side}x{side}: {x0},{y0},{x1},{y1}")
    is_inside = torch.zeros(side, side, dtype=torch.bool)
    is_inside[y0:y1, x0:x1] = True
    inside, outside = torch.zeros(2, style_dim, style_dim, dtype=torch.float64)
    classes = model.classes
    labels = None if classes is None else [classes[i % len(classes)] for i in range(IMAGES)]
    ws_NLS = seed_ws(generator, range(IMAGES), labels, truncation_psi=TRUNCATION_PSI)
    with progress_bar("Derivatives", IMAGES * style_dim) as advance:
        for ws_1LS in ws_NLS.split(1):
            J_S3HW = []
            for axes in torch.arange(style_dim).split(max(1, model.settings.batch // 2)):
                J_S3HW.append(derivatives(model, ws_1LS, blocks, axes, STEP * spread))
                advance(len(axes))
            J = torch.cat(J_S3HW)
            for products, mask in ((inside, is_inside), (outside, ~is_inside)):
                J_SP = J[:, :, mask].flatten(1)
                products += J_SP @ J_SP.mT / IMAGES
    return inside, outside


def derivatives(
    model: LoadedModel, ws_1LS: Tensor, blocks: Sequence[int], axes: Tensor, step: float
) -> Tensor:
    """Derivatives of an image by these dimensions of w, [axes, 3, H, W], float64 on the CPU."""
    generator = model.generator
    ws = ws_1LS.repeat(2 * len(axes), 1, 1)
    for row, axis in enumerate(axes.tolist()):
        ws[2 * row, list(blocks), axis] += step
        ws[2 * row + 1, list(blocks), axis] -= step
    images = to_rgb(generator.synthesis(ws), generator.config.pixel_space).double().cpu()
    return (images[::2] - images[1::2]) / (2 * step)
