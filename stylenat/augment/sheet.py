"""What ADA does to images as its probability grows: the pictures of `stylenat augment-sheet`.

Legend: B images, K = len(STEPS), H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.augment.ada import augment, augment_at_percentile
from stylenat.augment.draws import ADA_DRAWS, Transforms
from stylenat.choices import SheetColumns

STEPS = tuple(tenths / 10 for tenths in range(1, 10))


@torch.no_grad()
def augmented_steps(
    images_B3HW: Tensor, transforms: Transforms, *, columns: SheetColumns, seed: int
) -> Tensor:
    """Each image in [-1, 1], followed by what becomes of it at 0.1, 0.2, ... 0.9.

    [B, 3, H, W] -> [B, 1 + K, 3, H, W]. The steps are probabilities p, or percentiles, at which
    every transformation happens and the step says how strongly; then `seed` has no effect. At all
    p an image has the same draws, so that transformations are added from step to step. Raises
    ValueError as `augment` does.
    """
    if columns == "percentile":
        shown = [augment_at_percentile(images_B3HW, transforms, step) for step in STEPS]
    else:
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(len(images_B3HW), ADA_DRAWS, generator=generator)
        shown = [augment(images_B3HW, draws, p=step, transforms=transforms) for step in STEPS]
    return torch.stack([images_B3HW, *shown], dim=1)
