"""Instance normalisation of tokens with a scale and a shift; in C++ on a CPU without gradients.

Legend: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from ops.build import load_library, why_not
from ops.dense import needs_every_step, product_dtype

_SOURCE = Path(__file__).parent / "csrc" / "instance_norm.cpp"
DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why the library can't be built here. Builds it if need be."""
    return why_not(_library)


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library(_SOURCE)
    pointer = ctypes.c_void_p
    library.instance_norm.argtypes = (pointer, ctypes.c_float, *[pointer] * 4)
    library.instance_norm.restype = None
    return library


def instance_norm(x_BHWC: Tensor, gamma_BC: Tensor, beta_BC: Tensor, *, eps: float) -> Tensor:
    """`gamma * (x - mean) / sqrt(var + eps) + beta`, [B, H, W, C], with the mean and the (biased)
    variance of each image and channel over H and W.

    Statistics, gamma and beta are at least float32. The result has x's dtype, or that of autocast
    if what comes next would round it to that anyway.
    """
    if _is_fused(x_BHWC, gamma_BC, beta_BC):
        return _fused(x_BHWC, gamma_BC, beta_BC, eps)
    # Not torch.var_mean: over leading dimensions it is not vectorised on the CPU.
    x = x_BHWC.to(torch.promote_types(x_BHWC.dtype, torch.float32))
    centered = x - x.mean(dim=(1, 2), keepdim=True)
    variance = centered.square().mean(dim=(1, 2), keepdim=True)
    scale = gamma_BC[:, None, None] * torch.rsqrt(variance + eps)
    beta = beta_BC[:, None, None].to(scale.dtype)
    return torch.addcmul(beta, centered, scale).to(x_BHWC.dtype)


def _is_fused(x_BHWC: Tensor, *styles: Tensor) -> bool:
    return (
        not needs_every_step(x_BHWC, *styles)
        and x_BHWC.dtype in DTYPES
        and product_dtype(x_BHWC) in DTYPES
        and all(style.dtype == torch.float32 for style in styles)
        and x_BHWC.numel() > 0
        and missing() is None
    )


def _fused(x_BHWC: Tensor, gamma_BC: Tensor, beta_BC: Tensor, eps: float) -> Tensor:
    x, gamma, beta = (tensor.contiguous() for tensor in (x_BHWC, gamma_BC, beta_BC))
    out = torch.empty(x.shape, dtype=product_dtype(x))
    batch, height, width, channels = x.shape
    narrow = [int(tensor.dtype == torch.bfloat16) for tensor in (x, out)]
    numbers = (batch, height * width, channels, torch.get_num_threads(), *narrow)
    shape = (ctypes.c_int64 * len(numbers))(*numbers)
    pointers = [tensor.data_ptr() for tensor in (x, gamma, beta, out)]
    _library().instance_norm(shape, eps, *pointers)
    return out
