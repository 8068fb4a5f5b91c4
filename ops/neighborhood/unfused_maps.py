"""The maps that unfused attention and all of its derivatives are made of, as operations of PyTorch.

Each is registered with torch.library, so that torch.compile sees one node, and is differentiated by
the others: gradients of any order stay within them, whichever backend computes them.

Shapes: B batch, N heads, S the axes of space, D head_dim, K keys of a window,
P = 2 * kernel_size - 1 for each axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ops.derivatives import is_transformed, refuse_tangents
from ops.neighborhood.impl import unfused_reference
from ops.neighborhood.unfused_backends import load_maps
from ops.neighborhood.unfused_problem import Window
from ops.operation import operation


@dataclass(frozen=True)
class Maps:
    """The four maps of one window, computed by one backend."""

    window: Window
    backend: str

    def query_key(self, x: Tensor, y: Tensor, rpb: Tensor | None, fill: float) -> Tensor:
        """`a[i, j] = x[i] . y[key(i, j)] + rpb[key - query]`, and `fill` for keys not there."""
        if self._is_plain(x, y, *(() if rpb is None else (rpb,))):
            return unfused_reference.query_key(x, y, rpb, self.window, fill)
        return _query_key(x, y, rpb, fill, *self._arguments())

    def gather(self, a: Tensor, y: Tensor) -> Tensor:
        """`x[i] = sum_j a[i, j] y[key(i, j)]`."""
        if self._is_plain(a, y):
            return unfused_reference.gather(a, y, self.window)
        return _gather(a, y, *self._arguments())

    def scatter(self, a: Tensor, x: Tensor) -> Tensor:
        """`y[m] = sum of a[i, j] x[i] over all (i, j) with key(i, j) = m`."""
        if self._is_plain(a, x):
            return unfused_reference.scatter(a, x, self.window)
        return _scatter(a, x, *self._arguments())

    def bias_gradient(self, da: Tensor) -> Tensor:
        """`[B, N, *S, K]` to `[N, *P]`: the sum over all pairs of one offset, float32 or better."""
        if self._is_plain(da):
            return unfused_reference.bias_gradient(da, self.window)
        return _bias_gradient(da, *self._arguments())

    def _arguments(self) -> tuple[list[int], list[int], list[int], str]:
        window = self.window
        is_causal = [int(value) for value in window.is_causal]  # jit.trace knows no list of bool
        return list(window.kernel_size), list(window.dilation), is_causal, self.backend

    def _is_plain(self, *tensors: Tensor) -> bool:
        """Whether PyTorch needs to see every step, which the reference alone can show it."""
        if not is_transformed():
            return False
        if self.backend == "reference":
            return True
        refuse_tangents(*tensors)
        return False


def _window(kernel_size: list[int], dilation: list[int], is_causal: list[int]) -> Window:
    return Window(tuple(kernel_size), tuple(dilation), tuple(map(bool, is_causal)))


# query_key


@operation("neighborhood_query_key")
def _query_key(
    x: Tensor,
    y: Tensor,
    rpb: Tensor | None,
    fill: float,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    window = _window(kernel_size, dilation, is_causal)
    return load_maps(backend).query_key(x, y, rpb, window, fill)


@torch.library.register_fake(_query_key)
def _(
    x: Tensor,
    y: Tensor,
    rpb: Tensor | None,
    fill: float,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], prod(kernel_size)))


def _keep_query_key(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, rpb, _, *window, backend = inputs
    ctx.save_for_backward(x, y)
    ctx.rpb_dtype = None if rpb is None else rpb.dtype
    ctx.maps = Maps(_window(*window), backend)


def _differentiate_query_key(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
    x, y = ctx.saved_tensors
    needs_x, needs_y, needs_rpb, *_ = ctx.needs_input_grad
    dx = ctx.maps.gather(da, y) if needs_x else None
    dy = ctx.maps.scatter(da, x) if needs_y else None
    drpb = ctx.maps.bias_gradient(da).to(ctx.rpb_dtype) if needs_rpb else None
    return dx, dy, drpb, None, None, None, None, None


torch.library.register_autograd(_query_key, _differentiate_query_key, setup_context=_keep_query_key)


# gather and scatter


@operation("neighborhood_gather")
def _gather(
    a: Tensor,
    y: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    return load_maps(backend).gather(a, y, _window(kernel_size, dilation, is_causal))


@operation("neighborhood_scatter")
def _scatter(
    a: Tensor,
    x: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    return load_maps(backend).scatter(a, x, _window(kernel_size, dilation, is_causal))


@torch.library.register_fake(_gather)
@torch.library.register_fake(_scatter)
def _(
    a: Tensor,
    features: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    return features.new_empty(features.shape)


def _keep_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, features, *window, backend = inputs
    ctx.save_for_backward(a, features)
    ctx.maps = Maps(_window(*window), backend)


def _differentiate_gather(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
    a, y = ctx.saved_tensors
    da = ctx.maps.query_key(dx, y, None, 0.0) if ctx.needs_input_grad[0] else None
    dy = ctx.maps.scatter(a, dx) if ctx.needs_input_grad[1] else None
    return da, dy, None, None, None, None


def _differentiate_scatter(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    a, x = ctx.saved_tensors
    da = ctx.maps.query_key(x, dy, None, 0.0) if ctx.needs_input_grad[0] else None
    dx = ctx.maps.gather(a, dy) if ctx.needs_input_grad[1] else None
    return da, dx, None, None, None, None


torch.library.register_autograd(_gather, _differentiate_gather, setup_context=_keep_features)
torch.library.register_autograd(_scatter, _differentiate_scatter, setup_context=_keep_features)


# bias_gradient


@operation("neighborhood_bias_gradient")
def _bias_gradient(
    da: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    return load_maps(backend).bias_gradient(da, _window(kernel_size, dilation, is_causal))


@torch.library.register_fake(_bias_gradient)
def _(
    da: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    is_causal: list[int],
    backend: str,
) -> Tensor:
    dtype = torch.float64 if da.dtype == torch.float64 else torch.float32
    return da.new_empty((da.shape[1], *(2 * size - 1 for size in kernel_size)), dtype=dtype)


def _keep_da(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    da, *window, _ = inputs
    ctx.space, ctx.batch, ctx.dtype = da.shape[2:-1], da.shape[0], da.dtype
    ctx.window = _window(*window)


def _differentiate_bias_gradient(ctx: Any, drpb: Tensor) -> tuple[Tensor | None, ...]:
    da = unfused_reference.bias_of_windows(drpb, ctx.space, ctx.window).to(ctx.dtype)
    return da.expand(ctx.batch, *da.shape), None, None, None, None


torch.library.register_autograd(
    _bias_gradient, _differentiate_bias_gradient, setup_context=_keep_da
)
