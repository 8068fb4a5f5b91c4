"""The unfused maps by csrc/unfused.cpp: float32 or bfloat16 storage, float32 sums.

Shapes: B batch, N heads, S one to three axes of space, D head_dim, K keys of a window.
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
from ops.neighborhood.unfused_problem import MAX_AXES, Window

_SOURCE = Path(__file__).parent / "csrc" / "unfused.cpp"


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why the library can't be built here. Builds it if need be."""
    return why_not(_library)


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    return load_library(
        _SOURCE,
        unfused_query_key=(pointer, whole, *[pointer] * 3, ctypes.c_float),
        unfused_gather=(pointer, whole, pointer, pointer),
        unfused_scatter=(pointer, whole, pointer, pointer),
        unfused_bias_gradient=(pointer, whole, *[pointer] * 3),
    )


def query_key(x: Tensor, y: Tensor, rpb: Tensor | None, window: Window, fill: float) -> Tensor:
    """`[B, N, *S, D]` twice to `[B, N, *S, K]`."""
    a = x.new_empty((*x.shape[:-1], window.keys))
    table = None if rpb is None else rpb.float().contiguous()
    arguments, _kept = _describe([x, y, a], x.shape[-1], window)
    address = None if table is None else table.data_ptr()
    _library().unfused_query_key(*arguments, address, fill)
    return a


def gather(a: Tensor, y: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` and `[B, N, *S, D]` to the latter."""
    x = y.new_empty(y.shape)
    arguments, _kept = _describe([a, y, x], y.shape[-1], window)
    _library().unfused_gather(*arguments)
    return x


def scatter(a: Tensor, x: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` and `[B, N, *S, D]` to the latter."""
    y = x.new_empty(x.shape)
    arguments, _kept = _describe([a, x, y], x.shape[-1], window)
    _library().unfused_scatter(*arguments)
    return y


def bias_gradient(da: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` to `[N, *P]` in float32."""
    sides = [2 * size - 1 for size in window.kernel_size]
    drpb = da.new_empty((da.shape[1], *sides), dtype=torch.float32)
    arguments, _kept = _describe([da], 1, window)
    _library().unfused_bias_gradient(*arguments, drpb.data_ptr())
    return drpb


def _describe(
    tensors: Sequence[Tensor], head_dim: int, window: Window
) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The C arrays that unfused.cpp reads, and the tensors whose memory they point to. Axes that
    are not there are one pixel long, with a window of one."""
    maps = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    batch, heads, *space, _ = maps[0].shape
    absent = MAX_AXES - len(space)
    axes = [(1, 1, 1, False)] * absent + list(zip(space, *window.by_axis(), strict=True))
    shape = [batch, heads, head_dim, torch.get_num_threads(), *(n for axis in axes for n in axis)]
    strides = []
    for tensor in maps:
        of_batch, of_head, *of_space, _ = tensor.stride()
        strides += [of_batch, of_head, *[0] * absent, *of_space]
    arguments = (
        (ctypes.c_int64 * len(shape))(*shape),
        int(maps[0].dtype == torch.bfloat16),
        (ctypes.c_void_p * len(maps))(*(tensor.data_ptr() for tensor in maps)),
        (ctypes.c_int64 * len(strides))(*strides),
    )
    return arguments, maps
