"""Instance normalisation of tokens with a scale and a shift, in C++ on a CPU.

Legend: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ops.build import load_library, why_not
from ops.dense import FUSED_DTYPES, is_watched, product_dtype

_SOURCE = Path(__file__).parent / "csrc" / "instance_norm.cpp"


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why the library can't be built here. Builds it if need be."""
    return why_not(_library)


@functools.cache
def _library() -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    return load_library(
        _SOURCE,
        instance_norm=(pointer, ctypes.c_float, *[pointer] * 6),
        instance_norm_backward=(pointer,) * 9,
    )


def instance_norm(x_BHWC: Tensor, gamma_BC: Tensor, beta_BC: Tensor, *, eps: float) -> Tensor:
    """`gamma * (x - mean) / sqrt(var + eps) + beta`, [B, H, W, C], with the mean and the (biased)
    variance of each image and channel over H and W. It is differentiable to any order.

    Statistics, gamma and beta are at least float32. The result has x's dtype, or that of autocast
    if what comes next would round it to that anyway.
    """
    if _is_fused(x_BHWC, gamma_BC, beta_BC):
        out: Tensor = _Fused.apply(x_BHWC, gamma_BC, beta_BC, eps, product_dtype(x_BHWC))
        return out
    return _steps(x_BHWC, gamma_BC, beta_BC, eps)


def _steps(x_BHWC: Tensor, gamma_BC: Tensor, beta_BC: Tensor, eps: float) -> Tensor:
    # Not torch.var_mean: over leading dimensions it is not vectorised on the CPU.
    x = x_BHWC.to(torch.promote_types(x_BHWC.dtype, torch.float32))
    centered = x - x.mean(dim=(1, 2), keepdim=True)
    variance = centered.square().mean(dim=(1, 2), keepdim=True)
    scale = gamma_BC[:, None, None] * torch.rsqrt(variance + eps)
    beta = beta_BC[:, None, None].to(scale.dtype)
    return torch.addcmul(beta, centered, scale).to(x_BHWC.dtype)


def _is_fused(x_BHWC: Tensor, *styles: Tensor) -> bool:
    return (
        not is_watched(x_BHWC, *styles)
        and x_BHWC.dtype in FUSED_DTYPES
        and product_dtype(x_BHWC) in FUSED_DTYPES
        and all(style.dtype == torch.float32 for style in styles)
        and x_BHWC.numel() > 0
        and missing() is None
    )


class _Fused(torch.autograd.Function):
    """The C++. Further derivatives go through `_steps`, which PyTorch can look into."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BHWC: Tensor,
        gamma_BC: Tensor,
        beta_BC: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        x, gamma, beta = (tensor.contiguous() for tensor in (x_BHWC, gamma_BC, beta_BC))
        out = torch.empty(x.shape, dtype=dtype)
        center, inverse = torch.empty_like(gamma), torch.empty_like(gamma)
        _library().instance_norm(
            _shape(x, out), eps, *map(Tensor.data_ptr, (x, gamma, beta, out, center, inverse))
        )
        ctx.eps = eps
        ctx.save_for_backward(x_BHWC, gamma_BC, beta_BC, center, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, center, inverse = ctx.saved_tensors
        if torch.is_grad_enabled() or is_watched(grad):  # somebody will differentiate this
            inputs = [tensor for tensor in (x, gamma, beta) if tensor.requires_grad]
            out = _steps(x, gamma, beta, ctx.eps)
            found = iter(torch.autograd.grad(out, inputs, grad.to(out.dtype), create_graph=True))
            needed = [next(found) if t.requires_grad else None for t in (x, gamma, beta)]
            return *needed, None, None
        x, gamma, grad = (tensor.contiguous() for tensor in (x, gamma, grad))
        dx, dgamma, dbeta = (torch.empty_like(tensor) for tensor in (x, gamma, gamma))
        tensors = (x, grad, gamma, center, inverse, dx, dgamma, dbeta)
        _library().instance_norm_backward(_shape(x, grad), *map(Tensor.data_ptr, tensors))
        return dx, dgamma, dbeta, None, None


def _shape(x_BHWC: Tensor, out: Tensor) -> Any:
    batch, height, width, channels = x_BHWC.shape
    narrow = [int(tensor.dtype == torch.bfloat16) for tensor in (x_BHWC, out)]
    numbers = (batch, height * width, channels, torch.get_num_threads(), *narrow)
    return (ctypes.c_int64 * len(numbers))(*numbers)
