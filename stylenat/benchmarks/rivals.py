"""Neighborhood attention by means of PyTorch alone, to compare our backends with.

Legend: B batch, N heads, L pixels of a side x side map, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.neighborhood import HeadGroup
from ops.neighborhood.window import window_indices
from stylenat.benchmarks.calls import Attend


def axis_windows(side: int, group: HeadGroup, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each query and key along one axis [side, side]: whether the key is in the query's window,
    and the index of their offset in the bias table. The index of a key outside is clamped."""
    kernel_size, dilation = group.kernel_size, group.dilation
    keys, _ = window_indices(side, kernel_size, dilation, device)
    start = torch.div(keys[:, 0], dilation, rounding_mode="floor")
    pixel = torch.arange(side, device=device)
    position = torch.div(pixel, dilation, rounding_mode="floor")
    reach = position[None, :] - start[:, None]
    near = (pixel[:, None] % dilation == pixel[None, :] % dilation) & (reach >= 0)
    near &= reach < kernel_size
    offset = position[None, :] - position[:, None] + kernel_size - 1
    return near, offset.clamp(0, 2 * kernel_size - 2)


def compiled_flex(side: int, group: HeadGroup, rpb: Tensor) -> Attend:
    """A compiled call of (q, k, v), each [B, N, L, D], that equals our operation: FlexAttention."""
    # Imported here, since it imports dynamo and inductor, which has effects.
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    near, offset = axis_windows(side, group, rpb.device)

    def is_seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return near[q // side, k // side] & near[q % side, k % side]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + rpb[h, offset[q // side, k // side], offset[q % side, k % side]]

    pixels = side * side
    mask = create_block_mask(is_seen, None, None, pixels, pixels, device=str(rpb.device))
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, score_mod=add_bias, block_mask=mask)


def dense_attention(
    side: int, groups: Sequence[HeadGroup], rpb: Sequence[Tensor], dtype: torch.dtype
) -> Attend:
    """A call of (q, k, v), each [B, N, L, D], that equals our operation: PyTorch's attention over
    all pairs of pixels, behind a mask [N, L, L] of `dtype` that holds the bias."""
    mask_NLL = torch.cat([_dense_mask(side, *pair) for pair in zip(groups, rpb, strict=True)])
    mask_NLL = mask_NLL.to(dtype)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask_NLL)


def _dense_mask(side: int, group: HeadGroup, rpb: Tensor) -> Tensor:
    """The bias of every pair of pixels, minus infinity for keys that are not seen: [N, L, L]."""
    near, offset = axis_windows(side, group, rpb.device)
    bias_NQKqk = rpb[:, offset[:, :, None, None], offset]  # rows of query and key, then columns
    is_seen_QKqk = near[:, :, None, None] & near
    masked_NQKqk = bias_NQKqk.masked_fill(~is_seen_QKqk, float("-inf"))
    return masked_NQKqk.transpose(2, 3).reshape(group.heads, side**2, side**2)
