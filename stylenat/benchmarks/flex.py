"""Neighborhood attention through PyTorch's FlexAttention, to measure beside our backends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ops.neighborhood import HeadGroup
from ops.neighborhood.window import window_indices


def compiled_flex(side: int, group: HeadGroup, rpb: Tensor) -> Callable[..., Tensor]:
    """A compiled call of (q, k, v), each `[B, N, side * side, D]`, that equals our operation."""
    # Importing it imports dynamo and inductor, which has effects.
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    kernel_size, dilation = group.kernel_size, group.dilation
    keys, _ = window_indices(side, kernel_size, dilation, torch.device("cpu"))
    start = torch.div(keys[:, 0], dilation, rounding_mode="floor")
    pixel = torch.arange(side)
    position = torch.div(pixel, dilation, rounding_mode="floor")
    # [side, side]: is the second pixel in the first one's window along one axis?
    reach = position[None, :] - start[:, None]
    near = (pixel[:, None] % dilation == pixel[None, :] % dilation) & (reach >= 0)
    near &= reach < kernel_size
    offset = (position[None, :] - position[:, None] + kernel_size - 1).clamp(0, 2 * kernel_size - 2)

    def is_seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return near[q // side, k // side] & near[q % side, k % side]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + rpb[h, offset[q // side, k // side], offset[q % side, k % side]]

    mask = create_block_mask(is_seen, None, None, side * side, side * side, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, score_mod=add_bias, block_mask=mask)
