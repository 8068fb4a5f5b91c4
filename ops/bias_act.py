"""Bias, leaky ReLU and gain, in plain PyTorch, differentiable to any order."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    negative_slope: float = 0.2,
    gain: float = math.sqrt(2),
    channel_dim: int = 1,
) -> Tensor:
    """`gain * leaky_relu(x + bias)`: the shape of x, with `bias` [C] along its `channel_dim`.

    The gain sqrt(2) keeps the second moment of a normal x near 1 (StyleGAN2, arXiv 1912.04958).
    Raises ValueError if x has no such dimension, or if the bias is not [C].
    """
    if not -x.ndim <= channel_dim < x.ndim:
        raise ValueError(f"bias_act: x of shape {tuple(x.shape)} has no dimension {channel_dim}")
    if bias is not None:
        channels = x.shape[channel_dim]
        if bias.shape != (channels,):
            raise ValueError(
                f"bias_act: the bias must hold one value per channel: {tuple(bias.shape)} against "
                f"{channels} channels in dimension {channel_dim}"
            )
        x = x + bias.view([channels if d == channel_dim % x.ndim else 1 for d in range(x.ndim)])
    return gain * F.leaky_relu(x, negative_slope)
