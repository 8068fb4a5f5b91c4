"""Bias, leaky ReLU and gain, differentiable to any order; in one pass over memory on a CPU."""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.build import load_library, why_not
from ops.dense import FUSED_DTYPES, is_watched

_SOURCE = Path(__file__).parent / "csrc" / "bias_act.cpp"


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why the library can't be built here. Builds it if need be."""
    return why_not(_library)


@functools.cache
def _library() -> ctypes.CDLL:
    pointers = (ctypes.c_void_p,)
    return load_library(_SOURCE, bias_act=pointers * 5, bias_act_backward=pointers * 6)


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
    channel_dim %= x.ndim
    if bias is not None and bias.shape != (x.shape[channel_dim],):
        raise ValueError(
            f"bias_act: the bias must hold one value per channel: {tuple(bias.shape)} against "
            f"{x.shape[channel_dim]} channels in dimension {channel_dim}"
        )
    if _is_fused(x, bias, negative_slope, gain):
        out: Tensor = _BiasAct.apply(x, bias, negative_slope, gain, channel_dim)
        return out
    return _steps(x, bias, negative_slope, gain, channel_dim)


def _steps(
    x: Tensor, bias: Tensor | None, negative_slope: float, gain: float, channel_dim: int
) -> Tensor:
    if bias is not None:
        x = x + bias.view([-1 if d == channel_dim else 1 for d in range(x.ndim)])
    return gain * F.leaky_relu(x, negative_slope)


def _is_fused(x: Tensor, bias: Tensor | None, negative_slope: float, gain: float) -> bool:
    # The gradient reads from the sign of the result on which side of 0 the sum was.
    return (
        bias is not None
        and not is_watched(x, bias)
        and x.dtype in FUSED_DTYPES
        and bias.dtype == torch.float32
        and x.numel() > 0
        and negative_slope >= 0
        and gain > 0
        and missing() is None
    )


class _BiasAct(torch.autograd.Function):
    """The C++. Its result is float32, as the sum of bfloat16 or float32 and a float32 bias is."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, negative_slope: float, gain: float, channel_dim: int
    ) -> Tensor:
        x = x if _is_channels_last(x, channel_dim) else x.contiguous()
        bias = bias.contiguous()
        out = torch.empty_like(x, dtype=torch.float32)
        slopes = (ctypes.c_float * 2)(negative_slope, gain)
        shape = _shape(out, channel_dim, x.dtype)
        _library().bias_act(shape, slopes, *map(Tensor.data_ptr, (x, bias, out)))
        ctx.settings = (slopes, channel_dim, x.dtype)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        slopes, channel_dim, dtype = ctx.settings
        if torch.is_grad_enabled() or is_watched(grad):  # somebody will differentiate this
            dx = torch.ops.aten.leaky_relu_backward(slopes[1] * grad, out, slopes[0], True)
            others = [d for d in range(out.ndim) if d != channel_dim]
            return dx.to(dtype), dx.sum(others), None, None, None
        grad = torch.empty_like(out).copy_(grad) if grad.stride() != out.stride() else grad
        dx = torch.empty_like(out, dtype=dtype)
        dbias = out.new_empty(out.shape[channel_dim]) if ctx.needs_input_grad[1] else None
        address = None if dbias is None else dbias.data_ptr()
        shape = _shape(out, channel_dim, dtype)
        _library().bias_act_backward(shape, slopes, *map(Tensor.data_ptr, (grad, out, dx)), address)
        return dx, dbias, None, None, None


def _is_channels_last(x: Tensor, channel_dim: int) -> bool:
    """Whether the channels of maps [B, C, H, W] lie together."""
    return x.ndim == 4 and channel_dim == 1 and x.is_contiguous(memory_format=torch.channels_last)


def _shape(out: Tensor, channel_dim: int, dtype: torch.dtype) -> Any:
    """What the C++ takes out for, and x of this dtype: [outer, C, inner]."""
    channels = out.shape[channel_dim]
    inner = math.prod(out.shape[channel_dim + 1 :])
    if _is_channels_last(out, channel_dim):
        inner = 1
    outer = out.numel() // (channels * inner)
    numbers = (outer, channels, inner, torch.get_num_threads(), int(dtype == torch.bfloat16))
    return (ctypes.c_int64 * len(numbers))(*numbers)
