"""Neighborhood attention in plain PyTorch: the specification that every other backend answers to.

Shapes: B batch, H height, W width, N heads, D head_dim, K = kernel_size**2 keys of a query.

Attention is built from the trilinear form `T(a, x, y) = sum_ij a[i, j] x[i] . y[key(i, j)]` over
queries i and their keys j. Its three partial derivatives are bilinear, and each one's derivatives
are the other two, so that gradients of any order stay within these three functions. Only weights
`[B, H, W, N, K]` and features `[B, H, W, N, D]` are kept, never K copies of the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ops.derivatives import is_transformed
from ops.neighborhood.problem import HeadGroup
from ops.neighborhood.window import window_indices


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _keys(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The K key offsets: flat index, key row of every query row, key column of every column."""
    kernel_size = rows.shape[1]
    for flat in range(kernel_size**2):
        yield flat, rows[:, flat // kernel_size], columns[:, flat % kernel_size]


def _at_keys(y_BHWND: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return y_BHWND.index_select(1, rows).index_select(2, columns)


class _QueryKey(torch.autograd.Function):
    """`a[i, j] = x[i] . y[key(i, j)]`: dT/da."""

    @staticmethod
    def forward(
        ctx: Any, x_BHWND: Tensor, y_BHWND: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x_BHWND, y_BHWND, rows, columns)
        return _plain_query_key(x_BHWND, y_BHWND, rows, columns)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, y, rows, columns = ctx.saved_tensors
        return _gather(da, y, rows, columns), _scatter(da, x, rows, columns), None, None


class _Gather(torch.autograd.Function):
    """`x[i] = sum_j a[i, j] y[key(i, j)]`: dT/dx. With attention weights for a: the output."""

    @staticmethod
    def forward(
        ctx: Any, a_BHWNK: Tensor, y_BHWND: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        ctx.save_for_backward(a_BHWNK, y_BHWND, rows, columns)
        total = torch.zeros_like(y_BHWND, dtype=_accumulation_dtype(y_BHWND.dtype))
        for flat, row, column in _keys(rows, columns):
            total += a_BHWNK[..., flat, None] * _at_keys(y_BHWND, row, column).to(total.dtype)
        return total.to(y_BHWND.dtype)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, y, rows, columns = ctx.saved_tensors
        return _query_key(dx, y, rows, columns), _scatter(a, dx, rows, columns), None, None


class _Scatter(torch.autograd.Function):
    """`y[m] = sum of a[i, j] x[i] over all (i, j) with key(i, j) = m`: dT/dy."""

    @staticmethod
    def forward(
        ctx: Any, a_BHWNK: Tensor, x_BHWND: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        ctx.save_for_backward(a_BHWNK, x_BHWND, rows, columns)
        x = x_BHWND.to(_accumulation_dtype(x_BHWND.dtype))
        total = torch.zeros_like(x)
        for flat, row, column in _keys(rows, columns):
            by_column = torch.zeros_like(x).index_add_(2, column, a_BHWNK[..., flat, None] * x)
            total.index_add_(1, row, by_column)
        return total.to(x_BHWND.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, x, rows, columns = ctx.saved_tensors
        return _query_key(x, dy, rows, columns), _gather(a, dy, rows, columns), None, None


# The same three, as operations that PyTorch differentiates and vectorises by itself. A gradient
# through them keeps K copies of the features; forward-mode derivatives keep nothing.


def _plain_query_key(x_BHWND: Tensor, y_BHWND: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    x = x_BHWND.to(_accumulation_dtype(x_BHWND.dtype))
    dots = [(x * _at_keys(y_BHWND, row, column)).sum(-1) for _, row, column in _keys(rows, columns)]
    return torch.stack(dots, dim=-1).to(x_BHWND.dtype)


def _plain_gather(a_BHWNK: Tensor, y_BHWND: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    total = torch.zeros_like(y_BHWND, dtype=_accumulation_dtype(y_BHWND.dtype))
    for flat, row, column in _keys(rows, columns):
        total = total + a_BHWNK[..., flat, None] * _at_keys(y_BHWND, row, column).to(total.dtype)
    return total.to(y_BHWND.dtype)


def _plain_scatter(a_BHWNK: Tensor, x_BHWND: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    x = x_BHWND.to(_accumulation_dtype(x_BHWND.dtype))
    total = torch.zeros_like(x)
    for flat, row, column in _keys(rows, columns):
        by_column = torch.zeros_like(x).index_add(2, column, a_BHWNK[..., flat, None] * x)
        total = total.index_add(1, row, by_column)
    return total.to(x_BHWND.dtype)


def _query_key(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    function = _plain_query_key if is_transformed() else _QueryKey.apply
    return function(x, y, rows, columns)


def _gather(a: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    function = _plain_gather if is_transformed() else _Gather.apply
    return function(a, y, rows, columns)


def _scatter(a: Tensor, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    function = _plain_scatter if is_transformed() else _Scatter.apply
    return function(a, x, rows, columns)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` tensors, group by group; any order of gradient.

    Sums run in float64 for float64 inputs and in float32 for all others; the weights are rounded
    to the inputs' dtype between the two products, as PyTorch's own unfused attention does.
    """
    height, width = q.shape[1:3]
    outputs = []
    first = 0
    for index, group in enumerate(groups):
        heads = slice(first, first + group.heads)
        first += group.heads
        axis = (group.kernel_size, group.dilation, q.device)
        (rows, bias_rows), (columns, bias_columns) = (
            window_indices(height, *axis),
            window_indices(width, *axis),
        )
        logits = _query_key(q[..., heads, :] * scale, k[..., heads, :], rows, columns)
        if rpb is not None:
            # [N, H, ky, W, kx] -> [H, W, N, K]
            table = rpb[index][:, bias_rows][..., bias_columns]
            logits = logits + table.permute(1, 3, 0, 2, 4).flatten(-2)
        weights = logits.softmax(-1).to(v.dtype)
        outputs.append(_gather(weights, v[..., heads, :], rows, columns))
    return torch.cat(outputs, dim=-2)
