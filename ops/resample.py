"""FIR resampling and the Haar wavelet transform, in plain PyTorch, differentiable to any order.

Legend: B batch, C channels, H height, W width, K taps of the FIR kernel.

Every feature map here is [B, C, H, W] in any floating dtype and any memory format. The FIR kernel
is the outer product of its taps with themselves, normalised to sum 1. It filters by true
convolution (StyleGAN2, arXiv 1912.04958, whose [1, 3, 3, 1] is the default). Beyond its edges a
map is zero. The Haar transform is that of SWAGAN (arXiv 2102.06108).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.derivatives import is_transformed

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def upsample2d(x: Tensor, *, kernel: Sequence[float] = BINOMIAL) -> Tensor:
    """Double height and width: insert zeros between the pixels, then filter (with gain 4).

    [B, C, H, W] -> [B, C, 2H, 2W]. With the default kernel, 4 times the adjoint of `downsample2d`.
    Raises ValueError for a map that is not 4-D and floating, or a bad kernel.
    """
    _check_map(x)
    weight = _depthwise_weight(x, kernel, gain=2.0)
    return _filter(x, weight, stride=2, padding=len(kernel) // 2 - 1, transposed=True)


def downsample2d(x: Tensor, *, kernel: Sequence[float] = BINOMIAL) -> Tensor:
    """Halve height and width: filter, then keep every second pixel.

    [B, C, H, W] -> [B, C, H/2, W/2]. Raises ValueError for an odd height or width, a map that is
    not 4-D and floating, or a bad kernel.
    """
    _check_map(x)
    _check_even(x, "downsample2d")
    weight = _depthwise_weight(x, kernel).flip(2, 3)
    return _filter(x, weight, stride=2, padding=len(kernel) // 2 - 1)


def blur2d(x: Tensor, *, padding: int = 2, kernel: Sequence[float] = BINOMIAL) -> Tensor:
    """Filter a map that has `padding` zeros added on every side.

    [B, C, H, W] -> [B, C, H + 2 padding - K + 1, W + 2 padding - K + 1]. The defaults give
    [B, C, H + 1, W + 1]: what an unpadded 3x3 convolution of stride 2 halves exactly.
    Raises ValueError for a negative padding, a map that is not 4-D and floating, or a bad kernel.
    """
    _check_map(x)
    if padding < 0:
        raise ValueError(f"blur2d: padding must not be negative: {padding}")
    weight = _depthwise_weight(x, kernel).flip(2, 3)
    return _filter(x, weight, stride=1, padding=padding)


def haar(x: Tensor) -> Tensor:
    """Haar wavelet transform, orthonormal.

    [B, C, H, W] -> [B, 4C, H/2, W/2]: the mean band, the vertical difference (top - bottom), the
    horizontal one (left - right) and the diagonal one, C channels each: ll, lh, hl, hh.
    Raises ValueError for an odd height or width, or a map that is not 4-D and floating.
    """
    _check_map(x)
    _check_even(x, "haar")
    top, bottom = x[:, :, 0::2], x[:, :, 1::2]
    low, high = 0.5 * (top + bottom), 0.5 * (top - bottom)
    left = torch.cat([low[..., 0::2], high[..., 0::2]], dim=1)
    right = torch.cat([low[..., 1::2], high[..., 1::2]], dim=1)
    return torch.cat([left + right, left - right], dim=1)


def _filter(
    x: Tensor, weight: Tensor, *, stride: int, padding: int, transposed: bool = False
) -> Tensor:
    """A convolution of each channel by itself, or its adjoint; differentiable to any order."""
    # Transforms of torch.func, and compilers, look into plain convolutions.
    if is_transformed() or torch.compiler.is_compiling() or not x.requires_grad:
        return _convolve(x, weight, stride, padding, transposed)
    out: Tensor = _Filter.apply(x, weight, stride, padding, transposed)
    return out


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
    convolve = F.conv_transpose2d if transposed else F.conv2d
    return convolve(x, weight, stride=stride, padding=padding, groups=x.shape[1])


class _Filter(torch.autograd.Function):
    """A filter, whose gradient is its adjoint: a filter again, of the same weight.

    PyTorch's second derivative of a convolution with C groups is 2 C small convolutions, for the
    gradient of its weight, which is a constant here.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = {"stride": stride, "padding": padding, "transposed": not transposed}
        return _convolve(x, weight, stride, padding, transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        # Under autocast the result, and so its gradient, is narrower than x.
        return _filter(grad, weight.to(grad.dtype), **ctx.settings), None, None, None, None


def _depthwise_weight(x: Tensor, kernel: Sequence[float], *, gain: float = 1.0) -> Tensor:
    """The 2-D kernel, one copy per channel of x: [C, 1, K, K]; `gain` counts once per axis."""
    if len(kernel) < 2 or len(kernel) % 2 or sum(kernel) == 0:
        raise ValueError(
            "a FIR kernel must have an even number of taps, at least 2, whose sum is not 0: "
            f"{tuple(kernel)}"
        )
    # Filled on the device: a tensor made from a list would be copied there and stall the stream.
    taps = torch.cat([x.new_full((1,), tap * gain / sum(kernel)) for tap in kernel])
    return torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)


def _check_map(x: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"a feature map must be [B, C, H, W] and floating: {tuple(x.shape)}, {x.dtype}"
        )


def _check_even(x: Tensor, name: str) -> None:
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        raise ValueError(f"{name}: height and width must be even: {height}x{width}")
