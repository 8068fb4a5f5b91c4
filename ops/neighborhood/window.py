"""The window rule of NAT and DiNAT along one axis; every backend follows it.

Pixel `i` of `length` belongs to dilation group `i % dilation` at position `i // dilation`. Its
window is `kernel_size` consecutive positions of that group, centred if the group allows it and
shifted inside at the edges, never padded (NAT, arXiv 2204.07143; dilation: DiNAT, 2209.15001).

A causal window ends with its own pixel, and is not shifted: the first pixels see fewer keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_indices(
    length: int, kernel_size: int, dilation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keys and bias offsets of every pixel along one axis.

    Returns two int64 tensors `[length, kernel_size]`: the pixel that key `j` of pixel `i` is, and
    its index `key position - query position + kernel_size - 1` along one axis of rpb.
    """
    pixel = torch.arange(length, device=device)
    residue = pixel % dilation
    position = torch.div(pixel, dilation, rounding_mode="floor")
    group_length = torch.div(length - 1 - residue, dilation, rounding_mode="floor") + 1
    start = torch.minimum((position - kernel_size // 2).clamp(min=0), group_length - kernel_size)
    key_position = start[:, None] + torch.arange(kernel_size, device=device)
    bias_index = key_position - position[:, None] + kernel_size - 1
    return key_position * dilation + residue[:, None], bias_index


def causal_indices(
    length: int, kernel_size: int, dilation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keys of every pixel's causal window along one axis, and which of them there are.

    Returns an int64 and a bool tensor `[length, kernel_size]`. The keys that a window lacks come
    last in it; their index is the pixel's own.
    """
    pixel = torch.arange(length, device=device)
    position = torch.div(pixel, dilation, rounding_mode="floor")
    start = (position - (kernel_size - 1)).clamp(min=0)
    key_position = start[:, None] + torch.arange(kernel_size, device=device)
    is_there = key_position <= position[:, None]
    key_position = torch.minimum(key_position, position[:, None])
    return key_position * dilation + (pixel % dilation)[:, None], is_there
