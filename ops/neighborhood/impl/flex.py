"""Neighborhood attention by PyTorch's FlexAttention, on tokens reordered so that it can skip.

Shapes: B batch, H height, W width, N heads, D head_dim, L tokens.

FlexAttention skips blocks of 128 tokens that no query of a block sees. If the tokens came row by
row, a window would touch one block per row, and a dilated window nearly all blocks. So each
dilation group becomes a map of its own, cut into tiles of at most 128 positions, one token each. A
window then touches a tile and its neighbors. Positions beyond an edge are tokens that no query
sees, and their results are dropped.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.neighborhood.problem import HeadGroup
from ops.neighborhood.window import window_indices

BLOCK = 128
_LEAST_HEAD_DIM = 16  # of FlexAttention's CUDA kernels
_KERNELS = 64  # compiled in one process, at most


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` tensors, one compiled kernel per group.

    On the CPU FlexAttention has no gradient, and refuses tensors that need one.
    """
    batch, height, width, _, head_dim = q.shape
    if batch == 0:
        return v.clone()
    outputs, first = [], 0
    for index, group in enumerate(groups):
        heads = slice(first, first + group.heads)
        first += group.heads
        # operator.index: dynamo then takes H and W for constants, as the layout needs.
        layout = _layout(
            operator.index(height),
            operator.index(width),
            group.kernel_size,
            group.dilation,
            q.device,
        )
        q_BNLD, k_BNLD, v_BNLD = (_to_tokens(x[..., heads, :], layout.pixel) for x in (q, k, v))
        table = None if rpb is None else rpb[index]
        out = _attend(q_BNLD, k_BNLD, v_BNLD, layout, group.kernel_size, table, scale)
        out = out[..., :head_dim].transpose(1, 2).index_select(1, layout.token)
        outputs.append(out.unflatten(1, (height, width)))
    return torch.cat(outputs, dim=-2)


def _to_tokens(x_BHWND: Tensor, pixel: Tensor) -> Tensor:
    """[B, H, W, N, D] -> [B, N, L, D], strided, D at least what the kernels take."""
    tokens = x_BHWND.flatten(1, 2).index_select(1, pixel).transpose(1, 2)
    return F.pad(tokens, (0, max(0, _LEAST_HEAD_DIM - tokens.shape[-1])))


class Layout(NamedTuple):
    """How the pixels of a map become tokens, and which blocks of tokens see each other.

    `row` and `column` are positions within the dilation group, rows of different groups far apart;
    a token sees the tokens whose row and column are one of the `kernel_size` from `first_row` and
    `first_column` on. If one block sees another, the other sees it too: one table serves both ways.
    """

    pixel: Tensor  # [L], int64: the pixel of a token; beyond an edge the nearest one
    token: Tensor  # [H * W], int64: the token of a pixel
    row: Tensor  # [L], int32, as are the next three
    column: Tensor
    first_row: Tensor
    first_column: Tensor
    num_blocks: Tensor  # [1, 1, blocks], int32: how many blocks a block sees
    blocks: Tensor  # [1, 1, blocks, the most that one sees], int32: which ones, then zeros


def _attend(
    q_BNLD: Tensor,
    k_BNLD: Tensor,
    v_BNLD: Tensor,
    layout: Layout,
    kernel_size: int,
    table: Tensor | None,
    scale: float,
) -> Tensor:
    # Importing it imports dynamo and inductor, which has effects.
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    _, _, row, column, first_row, first_column, num_blocks, blocks = layout

    def is_seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down, right = row[key] - first_row[query], column[key] - first_column[query]
        return (down >= 0) & (down < kernel_size) & (right >= 0) & (right < kernel_size)

    def add_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert table is not None
        down, right = row[key] - row[query], column[key] - column[query]
        # Keys outside the window may have any offset: what is added to them is not used.
        at = [(x + kernel_size - 1).clamp(0, 2 * kernel_size - 2) for x in (down, right)]
        return score + table[h, at[0], at[1]]

    length = q_BNLD.shape[2]
    mask = BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=num_blocks,
        kv_indices=blocks,
        full_kv_num_blocks=None,
        full_kv_indices=None,
        q_num_blocks=num_blocks,
        q_indices=blocks,
        full_q_num_blocks=None,
        full_q_indices=None,
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=is_seen,
    )
    call: Any = flex_attention if torch.compiler.is_compiling() else _compiled
    score_mod = None if table is None else add_bias
    return call(q_BNLD, k_BNLD, v_BNLD, score_mod=score_mod, block_mask=mask, scale=scale)


def _compiled(*arguments: Any, **options: Any) -> Tensor:
    # dynamo's own limit of 8 is less than the combinations of one network need.
    with torch._dynamo.config.patch(recompile_limit=_KERNELS):
        return _compile()(*arguments, **options)


@functools.cache
def _compile() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # fullgraph: if the call can't be compiled, that is an error and not a slow path.
    return torch.compile(flex_attention, fullgraph=True)


def _layout(
    height: int, width: int, kernel_size: int, dilation: int, device: torch.device
) -> Layout:
    return _cached_layout(height, width, kernel_size, dilation, device)


# torch.compiler.assume_constant_result sets this too, but imports dynamo and inductor: dynamo calls
# the function and does not trace it.
_layout._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=32)  # the levels of two models; 32 MB for a map of 1024x1024
@torch.inference_mode(False)  # an inference tensor could not be kept for a gradient
def _cached_layout(
    height: int, width: int, kernel_size: int, dilation: int, device: torch.device
) -> Layout:
    tile = _tile(-(-height // dilation), -(-width // dilation))
    keys_y, keys_x = (
        window_indices(length, kernel_size, dilation, device)[0] for length in (height, width)
    )
    tiles_y, tiles_x = (
        -(-length // (dilation * side)) for length, side in zip((height, width), tile, strict=True)
    )
    # Every token's dilation group, tile of the group, and place in the tile, y before x.
    sizes = (dilation, dilation, tiles_y, tiles_x, *tile)
    index = torch.arange(math.prod(sizes), device=device)
    group_y, group_x, tile_y, tile_x, y, x = torch.unravel_index(index, sizes)
    row, column = tile_y * tile[0] + y, tile_x * tile[1] + x

    pixel_y, inside_y = _pixels(row, group_y, height, dilation)
    pixel_x, inside_x = _pixels(column, group_x, width, dilation)
    pixel, inside = pixel_y * width + pixel_x, inside_y & inside_x
    token = torch.empty(height * width, dtype=torch.int64, device=device)
    token[pixel[inside]] = index[inside]

    first_row, first_column = (
        torch.div(keys[:, 0], dilation, rounding_mode="floor")[of]
        for keys, of in ((keys_y, pixel_y), (keys_x, pixel_x))
    )
    group_row = (group_y * dilation + group_x) * tiles_y * tile[0]  # keeps groups apart
    num_blocks, blocks = _blocks(
        _near(keys_y, tiles_y, tile[0], dilation),
        _near(keys_x, tiles_x, tile[1], dilation),
        dilation**2,
        index.numel(),
    )
    return Layout(
        pixel,
        token,
        (row + group_row).int(),
        column.int(),
        (first_row + group_row).int(),
        first_column.int(),
        num_blocks,
        blocks,
    )


def _tile(height: int, width: int) -> tuple[int, int]:
    """The sides of a tile, powers of two. A tile has at most BLOCK positions, and is 8 high if the
    group allows it; it has fewer only if it holds the whole group of height x width."""
    high = min(8, _power_of_two(height))
    wide = min(BLOCK // high, _power_of_two(width))
    return min(BLOCK // wide, _power_of_two(height)), wide


def _power_of_two(x: int) -> int:
    """The least that is not below x."""
    return 1 << (x - 1).bit_length()


def _pixels(position: Tensor, residue: Tensor, length: int, dilation: int) -> tuple[Tensor, Tensor]:
    """The pixel at a position of a dilation group, beyond the edge the last; is it inside?"""
    pixel = position * dilation + residue
    last = length - 1 - (length - 1 - residue) % dilation
    return pixel.minimum(last), pixel <= last


def _near(keys: Tensor, tiles: int, side: int, dilation: int) -> Tensor:
    """`[tiles, tiles]`: does a pixel of one tile see a key in the other, along one axis?"""
    pixel = torch.arange(keys.shape[0], device=keys.device)[:, None].expand_as(keys)
    of_query, of_key = (torch.div(x, dilation * side, rounding_mode="floor") for x in (pixel, keys))
    near = torch.zeros(tiles, tiles, dtype=torch.bool, device=keys.device)
    near[of_query, of_key] = True
    return near | near.T


def _blocks(near_y: Tensor, near_x: Tensor, groups: int, tokens: int) -> tuple[Tensor, Tensor]:
    """`num_blocks` and `blocks` of Layout: the tiles near on both axes, in the same group.

    No tensor here has an entry per pair of blocks: a 1024x1024 map has 67 million pairs.
    """
    count = -(-tokens // BLOCK)
    tiles = near_y.shape[0] * near_x.shape[0]
    if tiles == 1:  # a block is one group or several, and sees itself
        own = torch.arange(count, device=near_y.device)
        seen, is_seen = own[:, None], torch.ones_like(own, dtype=torch.bool)[:, None]
    else:  # a block is a tile
        (rows, is_row), (columns, is_column) = _listed(near_y), _listed(near_x)
        seen = rows[:, None, :, None] * near_x.shape[0] + columns[None, :, None, :]
        is_seen = is_row[:, None, :, None] & is_column[None, :, None, :]
        seen, is_seen = (x.flatten(2).flatten(0, 1) for x in (seen, is_seen))
        order = is_seen.int().argsort(dim=1, descending=True)  # the True ones first
        seen, is_seen = seen.gather(1, order), is_seen.gather(1, order).repeat(groups, 1)
        first = torch.arange(groups, device=seen.device)[:, None, None] * tiles
        seen = (first + seen).flatten(0, 1)
    blocks = torch.where(is_seen, seen, 0).int()
    if blocks.device.type == "cpu":  # the CPU's kernel expects one column per block
        blocks = F.pad(blocks, (0, count - blocks.shape[1]))
    return is_seen.sum(1).int()[None, None], blocks[None, None]


def _listed(near: Tensor) -> tuple[Tensor, Tensor]:
    """`near` as lists: for each row the columns that are True, and which entries are real."""
    order = near.int().argsort(dim=1, descending=True)
    longest = int(near.sum(1).max())
    return order[:, :longest], near.gather(1, order)[:, :longest]
