"""Neighborhood attention in C++ (csrc/): tensors in float32 or bfloat16, sums in float32.

One call runs all head groups. The operation and its gradient are registered with torch.library, so
that torch.compile sees one node each. The gradient is of first order.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ops.build import load_library, why_not
from ops.derivatives import refuse_second_gradient, refuse_tangents
from ops.neighborhood.problem import HeadGroup
from ops.operation import operation

_SOURCE = Path(__file__).parent / "csrc" / "neighborhood.cpp"


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why the library can't be built here. Builds it if need be."""
    return why_not(_library)


@functools.cache
def _library() -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    return load_library(
        _SOURCE,
        neighborhood_forward=(pointer, ctypes.c_float, *[pointer] * 3),
        neighborhood_backward=(pointer, ctypes.c_float, *[pointer] * 4),
    )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` CPU tensors in float32 or bfloat16."""
    tables = None if rpb is None else torch.cat([table.flatten() for table in rpb]).float()
    layout = [n for g in groups for n in (g.heads, g.kernel_size, g.dilation)]
    return _forward(q, k, v, tables, layout, scale)


@operation("neighborhood_cpu", device="cpu")
def _forward(
    q: Tensor, k: Tensor, v: Tensor, rpb: Tensor | None, layout: list[int], scale: float
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype)
    maps = [_unit_depth(tensor) for tensor in (q, k, v)] + [out]
    shape, data, strides = _describe(maps, layout)
    tables = None if rpb is None else rpb.contiguous()
    _library().neighborhood_forward(shape, scale, _address(tables), data, strides)
    return out


@operation("neighborhood_cpu_backward", device="cpu")
def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpb: Tensor | None,
    layout: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq = torch.empty(q.shape, dtype=q.dtype)
    dk, dv = torch.zeros(q.shape), torch.zeros(q.shape)  # float32: tiles add into them
    drpb = torch.zeros(0 if rpb is None else rpb.numel())
    maps = [_unit_depth(tensor) for tensor in (q, k, v, dout)] + [dq, dk, dv]
    shape, data, strides = _describe(maps, layout)
    tables = None if rpb is None else rpb.contiguous()
    _library().neighborhood_backward(
        shape, scale, _address(tables), data, strides, None if rpb is None else _address(drpb)
    )
    return dq, dk.to(k.dtype), dv.to(v.dtype), drpb


def _unit_depth(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _describe(maps: Sequence[Tensor], layout: Sequence[int]) -> tuple[Any, Any, Any]:
    """The C arrays that neighborhood.cpp reads: shape and groups, addresses, strides."""
    batch, height, width, _, head_dim = maps[0].shape
    is_bfloat16 = int(maps[0].dtype == torch.bfloat16)
    head = (batch, height, width, head_dim, torch.get_num_threads(), is_bfloat16)
    numbers = (*head, len(layout) // 3, *layout)
    strides = [stride for tensor in maps for stride in tensor.stride()[:4]]
    return (
        (ctypes.c_int64 * len(numbers))(*numbers),
        (ctypes.c_void_p * len(maps))(*(tensor.data_ptr() for tensor in maps)),
        (ctypes.c_int64 * len(strides))(*strides),
    )


@torch.library.register_fake(_forward)
def _(
    q: Tensor, k: Tensor, v: Tensor, rpb: Tensor | None, layout: list[int], scale: float
) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.register_fake(_backward)
def _(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpb: Tensor | None,
    layout: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias = q.new_empty(0 if rpb is None else rpb.numel(), dtype=torch.float32)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, rpb, ctx.layout, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, rpb)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, rpb = ctx.saved_tensors
    refuse_tangents(dout, q, k, v, *(() if rpb is None else (rpb,)))
    dq, dk, dv, drpb = _backward(dout, q, k, v, rpb, ctx.layout, ctx.scale)
    return dq, dk, dv, None if rpb is None else drpb, None, None


torch.library.register_autograd(_backward, refuse_second_gradient)
torch.library.register_autograd(_forward, _differentiate, setup_context=_setup_context)
