"""What an image loses without a head group: how much of it changes, and at which scale.

Legend: B images, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.latents.attention_maps import Place
from stylenat.latents.blocks import all_blocks
from stylenat.models import Generator

COARSE_SIDE = 8  # boxes of the image whose means are its coarse part


@contextmanager
def without_group(generator: Generator, place: Place) -> Iterator[None]:
    """Within the block, this head group adds nothing to its block's tokens."""
    attention = all_blocks(generator)[place.block].attention

    def silence(module: object, inputs: tuple[Tensor, ...]) -> Tensor:
        heads = inputs[0].unflatten(-1, (attention.heads, -1)).clone()  # [..., C] -> [..., N, D]
        heads[..., place.first_head : place.first_head + place.heads, :] = 0
        return heads.flatten(-2)

    hook = attention.proj.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def lost_without(generator: Generator, ws_BLS: Tensor, place: Place) -> tuple[float, float]:
    """The mean square change of images without this group, and that of its coarse part.

    The change is in pixel values, 0 to 255. Its coarse part is what is left of it when the image is
    averaged in 8x8 boxes.
    """
    ws_BLS = ws_BLS.to(generator.const)
    before = generator.to_uint8(generator.synthesis(ws_BLS)).double()
    with without_group(generator, place):
        after = generator.to_uint8(generator.synthesis(ws_BLS)).double()
    change_B3HW = (after - before).permute(0, 3, 1, 2)
    coarse = F.adaptive_avg_pool2d(change_B3HW, min(COARSE_SIDE, generator.resolution))
    return float(change_B3HW.square().mean()), float(coarse.square().mean())
