"""A linear layer with what follows it: by oneDNN on a CPU, in one pass if nothing needs a gradient.

oneDNN computes the product, adds the bias, applies GELU and adds another tensor while the result is
in the cache. It also multiplies float32 about twice as fast as MKL does on AMD's processors, and so
serves gradients too.

Legend: M rows, K features in, N features out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.derivatives import is_transformed

FUSED_DTYPES = (torch.float32, torch.bfloat16)
ROWS = 2048
PLAIN = (Tensor, torch.nn.Parameter)  # others, such as fake tensors, record what is done to them


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False, add: Tensor | None = None
) -> Tensor:
    """`x W^T + b` over the last axis; then the exact GELU with `gelu`; then plus `add`.

    x [..., in], weight [out, in], bias [out], add [..., out] -> [..., out]. Under autocast the
    product has its precision, as `torch.nn.functional.linear` has. `add` keeps the result at least
    in its own precision.
    """
    dtype = product_dtype(x)
    if _is_fused(dtype, x, weight, bias, add):
        return _fused(x.to(dtype), weight.to(dtype), bias, gelu=gelu, add=add)
    is_wide = dtype == x.dtype == weight.dtype == torch.float32
    if is_wide and _is_ours(dtype, x, weight, bias):
        out = _Product.apply(x, weight, bias)
    else:
        out = F.linear(x, weight, bias)
    out = F.gelu(out) if gelu else out
    return out if add is None else add + out


def by_rows(
    layers: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, add: Tensor | None
) -> Tensor:
    """`layers(x, add)`, of layers that treat each row of the last axis by itself.

    On a CPU without gradients, it takes 2,048 rows at a time: what lies between the layers, which
    is wider than x, then stays in the cache.
    """
    given = [x] if add is None else [x, add]
    # Nobody who watches may see a question about the rows: its answer would become a constraint.
    if is_watched(*given) or torch.is_grad_enabled():
        return layers(x, add)
    rows = x.numel() // max(x.shape[-1], 1)
    if rows <= ROWS:
        return layers(x, add)
    parts = x.reshape(rows, -1).split(ROWS)
    adds = [None] * len(parts) if add is None else add.reshape(rows, -1).split(ROWS)
    out = torch.cat([layers(part, other) for part, other in zip(parts, adds, strict=True)])
    return out.view(*x.shape[:-1], -1)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product of x: its own, or that of autocast."""
    device = x.device.type
    if x.dtype == torch.float64:  # which autocast leaves alone
        return x.dtype
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


@functools.cache
def bfloat16_instructions() -> str | None:
    """What this processor multiplies bfloat16 with, None if it can't; `unknown` if it is no x86.

    Without such instructions, products in bfloat16 take two to three times as long as in float32.
    """
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if known.get("architecture") != "x86_64":
        return "unknown"
    return next((name for name in ("amx_bf16", "avx512_bf16") if known.get(name)), None)


@functools.cache
def _has_onednn() -> bool:
    # The operations are those that torch.compile calls; PyTorch does not document them.
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_watched(*tensors: Tensor) -> bool:
    """Whether PyTorch must see each step of a computation: for a compiler, a transform or a mode
    that counts operations, or because the tensors are no plain ones on a CPU."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or is_transformed()
        or any(type(tensor) not in PLAIN or tensor.device.type != "cpu" for tensor in tensors)
    )


def _is_fused(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    needs_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in tensors if tensor is not None
    )
    return not needs_gradient and _is_ours(dtype, *tensors)


def _is_ours(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether oneDNN can compute a product in this dtype, and quickly, and nobody looks into it."""
    given = [tensor for tensor in tensors if tensor is not None]
    return bool(
        not is_watched(*given)
        and dtype in FUSED_DTYPES
        and (dtype == torch.float32 or bfloat16_instructions() in ("amx_bf16", "avx512_bf16"))
        and _has_onednn()
        and torch.backends.mkldnn.enabled
        and given[0].numel() > 0
    )


def _fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool, add: Tensor | None
) -> Tensor:
    bias = None if bias is None else bias.to(weight.dtype)
    x_MK = x.reshape(-1, x.shape[-1])
    kernel = torch.ops.mkldnn._linear_pointwise
    if add is None or add.dtype != weight.dtype or gelu:
        activation: Any = ("gelu", [], "none") if gelu else ("none", [], None)
        out = kernel(x_MK, weight, bias, *activation).view(*x.shape[:-1], len(weight))
        return out if add is None else add + out
    other_MN = add.reshape(-1, len(weight))
    return kernel.binary(x_MK, other_MN, weight, bias, "add").view(add.shape)


class _Product(torch.autograd.Function):
    """`x W^T + b` in float32, and its gradients; those of further order go step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _fused(x, weight, bias, gelu=False, add=None)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        is_differentiated = torch.is_grad_enabled() or is_watched(dy)

        def product(a: Tensor, b: Tensor) -> Tensor:  # a b^T
            return a @ b.T if is_differentiated else _fused(a, b, None, gelu=False, add=None)

        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x_MK, dy_MN = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return (
            product(dy, weight.T) if needs_x else None,
            product(x_MK.T, dy_MN.T).T if needs_weight else None,
            dy_MN.sum(0) if needs_bias else None,
        )
