"""Neighborhood attention in a few large operations for each head group, for exported graphs.

Shapes: B batch, H height, W width, N heads, D head_dim, R and C rows and columns of tiles, T
queries and S keys of a tile along one axis, q = T * T and s = S * S of them in both.

Each dilation group of an axis is cut into tiles of consecutive positions. The queries of a tile see
all keys that one of them can see, as a matrix product, and a mask takes away those outside their
own windows. For 7x7 windows that is four times the arithmetic of the definition, but there are
about 25 operations where `reference` has hundreds. Every operation is one that an exporter knows,
and the batch may have any size. A gradient through it would be less exact than the reference's,
and keep more, so there is none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ops.neighborhood.problem import HeadGroup

# A dilation group of at most so many positions is one tile: cutting it would save no arithmetic.
WHOLE = 16
TILE = 8
# A longer sum than this, in the order in which matrix products add, is less exact than two.
LONGEST_SUM = 32


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` tensors, group by group."""
    outputs, first = [], 0
    for index, group in enumerate(groups):
        heads = slice(first, first + group.heads)
        first += group.heads
        table = None if rpb is None else rpb[index]
        parts = [x[..., heads, :] for x in (q * scale, k, v)]
        outputs.append(_attend(parts, group, table))
    return torch.cat(outputs, dim=-2)


def _attend(qkv: Sequence[Tensor], group: HeadGroup, table: Tensor | None) -> Tensor:
    q, k, v = qkv
    height, width = q.shape[1:3]
    rows = _axis(int(height), group.kernel_size, group.dilation)
    columns = _axis(int(width), group.kernel_size, group.dilation)
    q_BRCNqD = _to_tiles(q, rows.queries, columns.queries)
    k_BRCNsD = _to_tiles(k, rows.keys, columns.keys)
    v_BRCNsD = _to_tiles(v, rows.keys, columns.keys)
    # One mask of both axes, [R, C, q, s], would be as large as the logits.
    mask_R11qs = _mask(rows, (1, 1), columns, (2, 4), q.device)
    bias_CNqs = _mask(columns, (1,), rows, (1, 3), q.device)
    if table is not None:
        bias_CNqs = bias_CNqs + _bias(table, rows.offsets, columns.offsets)
    logits = _products(q_BRCNqD, k_BRCNsD) + bias_CNqs + mask_R11qs
    out_BRCNqD = logits.softmax(-1).to(v.dtype) @ v_BRCNsD
    return _from_tiles(out_BRCNqD, rows, columns)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """All dot products of `[..., q, D]` and `[..., s, D]`."""
    if q.shape[-1] <= LONGEST_SUM:
        return q @ k.mT
    parts = zip(q.split(LONGEST_SUM, dim=-1), k.split(LONGEST_SUM, dim=-1), strict=True)
    first, *rest = (x @ y.mT for x, y in parts)
    return sum(rest, first)


def _to_tiles(
    x_BHWND: Tensor, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]
) -> Tensor:
    """The pixels of these rows and columns, each `[tiles, positions]`, as `[B, R, C, N, q, D]`."""
    x_BHWND = _at(_at(x_BHWND, 1, chain(*rows)), 2, chain(*columns))
    R, C, high, wide, (N, D) = (
        len(rows),
        len(columns),
        len(rows[0]),
        len(columns[0]),
        x_BHWND.shape[3:],
    )
    tiles = x_BHWND.reshape(-1, R, high, C, wide, N, D).permute(0, 1, 3, 5, 2, 4, 6)
    return tiles.reshape(-1, R, C, N, high * wide, D)


def _from_tiles(out_BRCNqD: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """`[B, R, C, N, q, D]` -> `[B, H, W, N, D]`."""
    _, R, C, N, _, D = out_BRCNqD.shape
    high, wide = len(rows.queries[0]), len(columns.queries[0])
    tiles = out_BRCNqD.reshape(-1, R, C, N, high, wide, D).permute(0, 1, 4, 2, 5, 3, 6)
    out_BHWND = tiles.reshape(-1, R * high, C * wide, N, D)
    return _at(_at(out_BHWND, 1, rows.places), 2, columns.places)


def _at(x: Tensor, dim: int, places: Iterable[int]) -> Tensor:
    """x at these places along one dimension; x itself if they are all there are, in order."""
    index = list(places)
    if index == list(range(x.shape[dim])):
        return x
    return x.index_select(dim, torch.tensor(index, device=x.device))


def _bias(
    table: Tensor, offsets_y: Sequence[Sequence[int]], offsets_x: Sequence[Sequence[int]]
) -> Tensor:
    """The bias of each query and key of a tile, `[N, q, s]`, from rpb `[N, P, P]`."""
    (high, reach_y), (wide, reach_x) = ((len(x), len(x[0])) for x in (offsets_y, offsets_x))
    bias = _at(_at(table, 1, chain(*offsets_y)), 2, chain(*offsets_x))
    bias = bias.reshape(-1, high, reach_y, wide, reach_x).transpose(2, 3)
    return bias.reshape(-1, high * wide, reach_y * reach_x)


def _mask(
    axis: Axis, ones: tuple[int, ...], other: Axis, at: tuple[int, int], device: torch.device
) -> Tensor:
    """What one axis adds to the logits, 0 or -inf: `[tiles, *ones, q, s]`.

    `at` is where the queries and the keys of the other axis come in among tiles, T and S of this.
    """
    hidden = [[[0.0 if seen else -math.inf for seen in T] for T in tile] for tile in axis.seen]
    mask = torch.tensor(hidden, device=device)
    sizes = [*mask.shape]
    for place, size in zip(at, (len(other.queries[0]), len(other.keys[0])), strict=True):
        mask = mask.unsqueeze(place)
        sizes.insert(place, size)
    tiles, *TTSS = sizes
    return mask.expand(sizes).reshape(tiles, *ones, TTSS[0] * TTSS[1], TTSS[2] * TTSS[3])


class Axis(NamedTuple):
    """The tiles of one axis of a map, as tuples, which every tracer takes for constants.

    Key minus query position is the same in every tile, so some keys lie beyond the edges, and no
    query sees them. Beyond the end of a shorter dilation group there are queries too; their results
    are dropped.
    """

    queries: tuple[tuple[int, ...], ...]  # [tiles, T]: the pixel of each query
    keys: tuple[tuple[int, ...], ...]  # [tiles, S]: the pixel of each key
    seen: tuple[tuple[tuple[bool, ...], ...], ...]  # [tiles, T, S]: is the key in the window?
    offsets: tuple[tuple[int, ...], ...]  # [T, S]: the index along an axis of rpb
    places: tuple[int, ...]  # [length]: where each pixel is among all queries


def _axis(length: int, kernel_size: int, dilation: int) -> Axis:
    return _cached_axis(length, kernel_size, dilation)


# torch.compiler.assume_constant_result sets this too, but imports dynamo and inductor: dynamo calls
# the function and does not trace it.
_axis._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=64)
def _cached_axis(length: int, kernel_size: int, dilation: int) -> Axis:
    longest, half = -(-length // dilation), kernel_size // 2
    # A query at an edge sees kernel_size - 1 positions to one side; a tile of more than half a
    # window, with half a window around it, has them all.
    side = longest if longest <= WHOLE else max(TILE, half + 1)
    first_key, reach = (0, side) if side == longest else (-half, side + 2 * half)
    queries: list[tuple[int, ...]] = []
    keys: list[tuple[int, ...]] = []
    seen: list[tuple[tuple[bool, ...], ...]] = []
    places = [0] * length
    for residue in range(dilation):
        last = (length - 1 - residue) // dilation
        for start in range(0, longest, side):
            first = max(min(start, last + 1 - side), 0)  # the last tile ends with the group
            at_query = range(first, first + side)
            at_key = range(first + first_key, first + first_key + reach)
            for place, position in enumerate(at_query[: last + 1 - first], len(queries) * side):
                places[position * dilation + residue] = place
            queries.append(tuple(min(p, last) * dilation + residue for p in at_query))
            keys.append(tuple(min(max(p, 0), last) * dilation + residue for p in at_key))
            seen.append(tuple(_seen(p, at_key, kernel_size, last) for p in at_query))
    differences = (range(first_key - query, first_key - query + reach) for query in range(side))
    return Axis(
        tuple(queries),
        tuple(keys),
        tuple(seen),
        tuple(
            tuple(min(max(d + kernel_size - 1, 0), 2 * kernel_size - 2) for d in row)
            for row in differences
        ),
        tuple(places),
    )


def _seen(position: int, keys: range, kernel_size: int, last: int) -> tuple[bool, ...]:
    """Which positions the window of a position holds, in a dilation group that ends with `last`.

    A query that is to be dropped sees all, since a softmax of nothing would be NaN.
    """
    start = min(max(position - kernel_size // 2, 0), last + 1 - kernel_size)
    return tuple(position > last or start <= key < start + kernel_size for key in keys)
