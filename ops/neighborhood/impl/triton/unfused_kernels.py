"""The Triton kernels of the unfused maps, for one and two axes. unfused.py starts them.

Legend: M pixels of a tile, N pixels of its halo swept at once, D head_dim, K keys of a window. `a`
are weights, `x` features of queries and `y` features of keys. A program belongs to one image, head
and sub-map (see plan.py), on which its dilated neighborhood is a plain one; positions are on that
sub-map, and `kernel_y`, `kernel_x` are the window's sides there. `_h` and `_w` are strides.

A tile's products with its halo are one matrix; of it, the pairs of a query and a key in its window
lie in memory at `slot`, in that query's row of `a`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ops.neighborhood.impl.triton.kernels import (
    _clamp,
    _load,
    _reached_keys,
    _reaching_queries,
    _store,
    _window_start,
)


@triton.jit
def _find_tile(
    heads, height, width, dilation_y, dilation_x, tiles_y, tiles_x,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
):  # fmt: skip
    """Image and head; sub-map; first pixel of the tile and lengths of the sub-map."""
    r = tl.program_id(0)
    tile_x, r = r % tiles_x, r // tiles_x
    tile_y, r = r % tiles_y, r // tiles_y
    shift_x, r = r % dilation_x, r // dilation_x
    shift_y, r = r % dilation_y, r // dilation_y
    length_y = (height - shift_y + dilation_y - 1) // dilation_y
    length_x = (width - shift_x + dilation_x - 1) // dilation_x
    image, head = (r // heads).to(tl.int64), (r % heads).to(tl.int64)
    return image, head, shift_y, shift_x, tile_y * TILE_Y, tile_x * TILE_X, length_y, length_x


@triton.jit
def _slots(query_y, query_x, key_y, key_x, length_y, length_x, kernel_y, kernel_x):
    """The place of each key in the window of each query, and whether it is in it."""
    above = key_y - _window_start(query_y, length_y, kernel_y)
    left = key_x - _window_start(query_x, length_x, kernel_x)
    seen = (above >= 0) & (above < kernel_y) & (left >= 0) & (left < kernel_x)
    return above * kernel_x + left, seen


@triton.jit
def query_key(
    x, y, a, bias, x_b, x_n, x_h, x_w, y_b, y_n, y_h, y_w, a_b, a_n, a_h, a_w,
    heads, height, width, kernel_y, kernel_x, dilation_y, dilation_x, tiles_y, tiles_x,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
    HALO_WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """a = x . y + bias, of a tile of queries and all keys in their windows."""
    image, head, shift_y, shift_x, first_y, first_x, length_y, length_x = _find_tile(
        heads, height, width, dilation_y, dilation_x, tiles_y, tiles_x, TILE_Y, TILE_X
    )
    x += image * x_b + head * x_n + shift_y * x_h + shift_x * x_w
    y += image * y_b + head * y_n + shift_y * y_h + shift_x * y_w
    a += image * a_b + head * a_n + shift_y * a_h + shift_x * a_w
    side_y, side_x = 2 * kernel_y - 1, 2 * kernel_x - 1
    bias += head * side_y * side_x

    offs_m = tl.arange(0, TILE_Y * TILE_X)
    query_y, query_x, valid = _clamp(
        first_y + offs_m // TILE_X, first_x + offs_m % TILE_X, length_y, length_x
    )
    x_MD = _load(
        x, query_y, query_x, x_h * dilation_y, x_w * dilation_x, valid, HEAD_DIM, BLOCK_D
    )  # fmt: skip
    rows_of_a = a + query_y * (a_h * dilation_y) + query_x * (a_w * dilation_x)
    last_y = tl.minimum(first_y + TILE_Y, length_y) - 1
    last_x = tl.minimum(first_x + TILE_X, length_x) - 1
    low_y, high_y = _reached_keys(first_y, last_y, length_y, kernel_y)
    low_x, high_x = _reached_keys(first_x, last_x, length_x, kernel_x)
    offs_n = tl.arange(0, BLOCK_N)
    key_x = low_x + offs_n % HALO_WIDTH
    for row in range(low_y, high_y, BLOCK_N // HALO_WIDTH):
        key_y = row + offs_n // HALO_WIDTH
        in_halo = (key_y < high_y) & (key_x < high_x)
        y_ND = _load(
            y, key_y, key_x, y_h * dilation_y, y_w * dilation_x, in_halo, HEAD_DIM, BLOCK_D
        )  # fmt: skip
        a_MN = tl.dot(x_MD, tl.trans(y_ND), input_precision=PRECISION)
        slot, seen = _slots(
            query_y[:, None], query_x[:, None], key_y[None, :], key_x[None, :],
            length_y, length_x, kernel_y, kernel_x,
        )  # fmt: skip
        seen = seen & valid[:, None] & in_halo[None, :]
        if HAS_BIAS:
            entry_y = key_y[None, :] - query_y[:, None] + kernel_y - 1
            entry_x = key_x[None, :] - query_x[:, None] + kernel_x - 1
            a_MN += tl.load(bias + entry_y * side_x + entry_x, mask=seen, other=0.0)
        tl.store(rows_of_a[:, None] + slot, a_MN.to(a.dtype.element_ty), mask=seen)


@triton.jit
def gather(
    a, y, x, a_b, a_n, a_h, a_w, y_b, y_n, y_h, y_w, x_b, x_n, x_h, x_w,
    heads, height, width, kernel_y, kernel_x, dilation_y, dilation_x, tiles_y, tiles_x,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
    HALO_WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x = sums of y, weighted by a, of a tile of queries over the keys in their windows."""
    image, head, shift_y, shift_x, first_y, first_x, length_y, length_x = _find_tile(
        heads, height, width, dilation_y, dilation_x, tiles_y, tiles_x, TILE_Y, TILE_X
    )
    a += image * a_b + head * a_n + shift_y * a_h + shift_x * a_w
    y += image * y_b + head * y_n + shift_y * y_h + shift_x * y_w
    x += image * x_b + head * x_n + shift_y * x_h + shift_x * x_w

    offs_m = tl.arange(0, TILE_Y * TILE_X)
    query_y, query_x, valid = _clamp(
        first_y + offs_m // TILE_X, first_x + offs_m % TILE_X, length_y, length_x
    )
    rows_of_a = a + query_y * (a_h * dilation_y) + query_x * (a_w * dilation_x)
    last_y = tl.minimum(first_y + TILE_Y, length_y) - 1
    last_x = tl.minimum(first_x + TILE_X, length_x) - 1
    low_y, high_y = _reached_keys(first_y, last_y, length_y, kernel_y)
    low_x, high_x = _reached_keys(first_x, last_x, length_x, kernel_x)
    offs_n = tl.arange(0, BLOCK_N)
    key_x = low_x + offs_n % HALO_WIDTH
    acc = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(low_y, high_y, BLOCK_N // HALO_WIDTH):
        key_y = row + offs_n // HALO_WIDTH
        in_halo = (key_y < high_y) & (key_x < high_x)
        y_ND = _load(
            y, key_y, key_x, y_h * dilation_y, y_w * dilation_x, in_halo, HEAD_DIM, BLOCK_D
        )  # fmt: skip
        slot, seen = _slots(
            query_y[:, None], query_x[:, None], key_y[None, :], key_x[None, :],
            length_y, length_x, kernel_y, kernel_x,
        )  # fmt: skip
        seen = seen & valid[:, None] & in_halo[None, :]
        a_MN = tl.load(rows_of_a[:, None] + slot, mask=seen, other=0.0)
        acc = tl.dot(a_MN, y_ND, acc, input_precision=PRECISION)
    _store(
        x, acc, query_y, query_x, x_h * dilation_y, x_w * dilation_x, valid, HEAD_DIM, BLOCK_D
    )  # fmt: skip


@triton.jit
def scatter(
    a, x, y, a_b, a_n, a_h, a_w, x_b, x_n, x_h, x_w, y_b, y_n, y_h, y_w,
    heads, height, width, kernel_y, kernel_x, dilation_y, dilation_x, tiles_y, tiles_x,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
    HALO_WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = sums of x, weighted by a, of a tile of keys over the queries whose windows hold them."""
    image, head, shift_y, shift_x, first_y, first_x, length_y, length_x = _find_tile(
        heads, height, width, dilation_y, dilation_x, tiles_y, tiles_x, TILE_Y, TILE_X
    )
    a += image * a_b + head * a_n + shift_y * a_h + shift_x * a_w
    x += image * x_b + head * x_n + shift_y * x_h + shift_x * x_w
    y += image * y_b + head * y_n + shift_y * y_h + shift_x * y_w

    offs_m = tl.arange(0, TILE_Y * TILE_X)
    key_y, key_x, valid = _clamp(
        first_y + offs_m // TILE_X, first_x + offs_m % TILE_X, length_y, length_x
    )
    last_y = tl.minimum(first_y + TILE_Y, length_y) - 1
    last_x = tl.minimum(first_x + TILE_X, length_x) - 1
    low_y, high_y = _reaching_queries(first_y, last_y, length_y, kernel_y)
    low_x, high_x = _reaching_queries(first_x, last_x, length_x, kernel_x)
    offs_n = tl.arange(0, BLOCK_N)
    query_x = low_x + offs_n % HALO_WIDTH
    acc = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(low_y, high_y, BLOCK_N // HALO_WIDTH):
        query_y = row + offs_n // HALO_WIDTH
        in_halo = (query_y < high_y) & (query_x < high_x)
        x_ND = _load(
            x, query_y, query_x, x_h * dilation_y, x_w * dilation_x, in_halo, HEAD_DIM, BLOCK_D
        )  # fmt: skip
        slot, seen = _slots(
            query_y[None, :], query_x[None, :], key_y[:, None], key_x[:, None],
            length_y, length_x, kernel_y, kernel_x,
        )  # fmt: skip
        seen = seen & valid[:, None] & in_halo[None, :]
        rows_of_a = a + query_y * (a_h * dilation_y) + query_x * (a_w * dilation_x)
        aT_MN = tl.load(rows_of_a[None, :] + slot, mask=seen, other=0.0)
        acc = tl.dot(aT_MN, x_ND, acc, input_precision=PRECISION)
    _store(
        y, acc, key_y, key_x, y_h * dilation_y, y_w * dilation_x, valid, HEAD_DIM, BLOCK_D
    )  # fmt: skip


@triton.jit
def bias_gradient(
    da, shares, a_b, a_n, a_h, a_w,
    batch, heads, height, width, kernel_y, kernel_x, dilation_y, dilation_x, programs, blocks,
    BLOCK_M: tl.constexpr, SIDE_X: tl.constexpr,
):  # fmt: skip
    """Of one head and one row of its table, the sum over blocks * BLOCK_M queries of the batch.

    The entries of a row lie side by side in a query's row of da, so that they are read together.
    `shares` is `[programs, heads, 2 * kernel_y - 1, SIDE_X]`, to be summed in order.
    """
    r = tl.program_id(0)
    share, r = r % programs, r // programs
    side_y = 2 * kernel_y - 1
    entry_y, head = r % side_y, r // side_y
    offs_x = tl.arange(0, SIDE_X)
    total = tl.zeros([SIDE_X], tl.float32)
    for block in range(blocks):
        pixel = (share * blocks + block) * BLOCK_M + tl.arange(0, BLOCK_M)
        x, row = pixel % width, pixel // width
        y, image = row % height, row // height
        length_y = (height - y % dilation_y + dilation_y - 1) // dilation_y
        length_x = (width - x % dilation_x + dilation_x - 1) // dilation_x
        position_y, position_x = y // dilation_y, x // dilation_x
        first_y = _window_start(position_y, length_y, kernel_y) - position_y + kernel_y - 1
        first_x = _window_start(position_x, length_x, kernel_x) - position_x + kernel_x - 1
        above = entry_y - first_y
        left = offs_x[None, :] - first_x[:, None]
        mask = (image < batch) & (above >= 0) & (above < kernel_y)
        mask = mask[:, None] & (left >= 0) & (left < kernel_x)
        rows = image.to(tl.int64) * a_b + head.to(tl.int64) * a_n + y * a_h + x * a_w
        offsets = (rows + above * kernel_x)[:, None] + left
        total += tl.sum(tl.load(da + offsets, mask=mask, other=0.0).to(tl.float32), 0)
    at = (share.to(tl.int64) * heads + head) * side_y + entry_y
    tl.store(shares + at * SIDE_X + offs_x, total)
