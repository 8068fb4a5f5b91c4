"""The unfused maps in plain PyTorch, for any number of axes: their specification.

Shapes: B batch, N heads, S the axes of space (heads first: `[B, N, *S, D]`), D head_dim, K keys of
a window, P = 2 * kernel_size - 1 for each axis.

They are the partial derivatives of `T(a, x, y) = sum_ij a[i, j] x[i] . y[key(i, j)]` over queries i
and their keys j, so that each one's derivatives are the other two. Sums run in float64 for float64
inputs and in float32 for all others. PyTorch differentiates and vectorises each of these functions
by itself, forward mode included.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from ops.neighborhood.unfused_problem import Window
from ops.neighborhood.window import causal_indices, window_indices

_FIRST_AXIS = 2  # behind batch and heads


def query_key(x: Tensor, y: Tensor, rpb: Tensor | None, window: Window, fill: float) -> Tensor:
    """`a[i, j] = x[i] . y[key(i, j)] + rpb[key - query]`, and `fill` for keys that are not there.

    `x, y`: `[B, N, *S, D]`; `rpb`: `[N, *P]`; returns `[B, N, *S, K]`.
    """
    x_wide = x.to(_accumulation_dtype(x.dtype))
    dots = []
    for keys, is_there in _slots(x.shape[_FIRST_AXIS:-1], window, x.device):
        dot = (x_wide * _at_keys(y, keys).to(x_wide.dtype)).sum(-1)
        dots.append(dot if is_there is None else torch.where(is_there, dot, fill))
    a = torch.stack(dots, dim=-1)
    if rpb is not None:
        a = a + bias_of_windows(rpb, x.shape[_FIRST_AXIS:-1], window)
    return a.to(x.dtype)


def gather(a: Tensor, y: Tensor, window: Window) -> Tensor:
    """`x[i] = sum_j a[i, j] y[key(i, j)]`: `[B, N, *S, K]` and `[B, N, *S, D]` to the latter."""
    total = torch.zeros_like(y, dtype=_accumulation_dtype(y.dtype))
    for weight, keys in _weights(a.to(total.dtype), window):
        total = torch.addcmul(total, weight, _at_keys(y, keys).to(total.dtype))
    return total.to(y.dtype)


def scatter(a: Tensor, x: Tensor, window: Window) -> Tensor:
    """`y[m] = sum of a[i, j] x[i] over all (i, j) with key(i, j) = m`: shapes as in `gather`."""
    x_wide = x.to(_accumulation_dtype(x.dtype))
    total = torch.zeros_like(x_wide)
    for weight, keys in _weights(a.to(x_wide.dtype), window):
        part = weight * x_wide
        for axis, key in reversed(list(enumerate(keys, start=_FIRST_AXIS))):
            zeros = total if axis == _FIRST_AXIS else torch.zeros_like(part)
            part = zeros.index_add(axis, key, part)
        total = part
    return total.to(x.dtype)


def bias_of_windows(rpb: Tensor, space: Sequence[int], window: Window) -> Tensor:
    """`[N, *P]` to `[N, *S, K]`: of each query and key, the entry for their offset."""
    bias = rpb
    for axis, index in enumerate(_bias_indices(space, window, rpb.device)):
        # Axis after axis, [N, L, k, .., P, ..]: a gradient sums in short steps, too.
        place = 1 + 2 * axis
        bias = bias.index_select(place, index.flatten()).unflatten(place, index.shape)
    axes = len(space)
    order = (0, *range(1, 1 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2))
    return bias.permute(order).flatten(1 + axes)


def bias_gradient(da: Tensor, window: Window) -> Tensor:
    """The transpose of `bias_of_windows`, summed over the batch: `[B, N, *S, K]` to `[N, *P]`."""
    space = da.shape[_FIRST_AXIS:-1]
    axes = len(space)
    summed = da.to(_accumulation_dtype(da.dtype)).sum(0).unflatten(-1, window.kernel_size)
    order = (0, *(place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)))
    summed = summed.permute(order)  # [N, L, k, L, k, ..]
    for axis, index in reversed(list(enumerate(_bias_indices(space, window, da.device)))):
        place = 1 + 2 * axis
        flat = summed.flatten(place, place + 1)
        sides = (*flat.shape[:place], 2 * window.kernel_size[axis] - 1, *flat.shape[place + 1 :])
        summed = flat.new_zeros(sides).index_add(place, index.flatten(), flat)
    return summed


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bias_indices(space: Sequence[int], window: Window, device: torch.device) -> Iterator[Tensor]:
    for length, kernel_size, dilation, _ in zip(space, *window.by_axis(), strict=True):
        yield window_indices(length, kernel_size, dilation, device)[1]


def _slots(
    space: Sequence[int], window: Window, device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """For each of the K places in a window: along each axis the key of every query, `[L]`; and
    which queries have that key, `[*S]`, or None if all have."""
    indices: list[Tensor] = []
    there: list[Tensor | None] = []
    for length, kernel_size, dilation, is_causal in zip(space, *window.by_axis(), strict=True):
        along = (length, kernel_size, dilation, device)
        if is_causal:
            keys, is_there = causal_indices(*along)
        else:
            keys, is_there = window_indices(*along)[0], None
        indices.append(keys)
        there.append(is_there)
    for places in itertools.product(*map(range, window.kernel_size)):
        keys_of_axes = [keys[:, place] for keys, place in zip(indices, places, strict=True)]
        mask: Tensor | None = None
        for axis, (is_there, place) in enumerate(zip(there, places, strict=True)):
            if is_there is not None:
                of_axis = is_there[:, place].reshape(-1, *[1] * (len(space) - axis - 1))
                mask = of_axis if mask is None else mask & of_axis
        yield keys_of_axes, mask


def _weights(a: Tensor, window: Window) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For each place in a window: its weights `[B, N, *S, 1]`, 0 for keys that are not there, and
    the keys."""
    assert a.shape[-1] == prod(window.kernel_size)
    slots = _slots(a.shape[_FIRST_AXIS:-1], window, a.device)
    for flat, (keys, is_there) in enumerate(slots):
        weight = a[..., flat]
        if is_there is not None:
            weight = torch.where(is_there, weight, 0.0)
        yield weight[..., None], keys


def _at_keys(y: Tensor, keys: Sequence[Tensor]) -> Tensor:
    for axis, key in enumerate(keys, start=_FIRST_AXIS):
        y = y.index_select(axis, key)
    return y
