"""The unfused maps by the kernels of unfused_kernels.py, for one and two axes of space.

Shapes: B batch, N heads, S the axes of space, D head_dim, K keys of a window. Every sum has its
fixed order: results are the same bits in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.neighborhood.impl.triton import unfused_kernels as kernels
from ops.neighborhood.impl.triton.launch import device_of, precision_of, unit_depth
from ops.neighborhood.impl.triton.plan import TILE, longest, power_of_two, widest_halo
from ops.neighborhood.unfused_problem import Window

BLOCK_N = 32  # pixels of a halo at once, unless a row of it has more
BIAS_BLOCK = 64  # queries at once
BIAS_BLOCKS = 32  # of those, for one program


def query_key(x: Tensor, y: Tensor, rpb: Tensor | None, window: Window, fill: float) -> Tensor:
    """`[B, N, *S, D]` twice to `[B, N, *S, K]`; no window lacks a key, so `fill` has no place."""
    a = x.new_empty((*x.shape[:-1], window.keys))
    table = x if rpb is None else rpb.float().contiguous()
    settings = {"HAS_BIAS": rpb is not None}
    _launch(kernels.query_key, (x, y, a), window, table, head_dim=x.shape[-1], **settings)
    return a


def gather(a: Tensor, y: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` and `[B, N, *S, D]` to the latter."""
    x = y.new_empty(y.shape)
    _launch(kernels.gather, (a, y, x), window, head_dim=y.shape[-1])
    return x


def scatter(a: Tensor, x: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` and `[B, N, *S, D]` to the latter."""
    y = x.new_empty(x.shape)
    _launch(kernels.scatter, (a, x, y), window, head_dim=x.shape[-1])
    return y


def bias_gradient(da: Tensor, window: Window) -> Tensor:
    """`[B, N, *S, K]` to `[N, *P]` in float32."""
    sides = [2 * size - 1 for size in window.kernel_size]
    da = _two_axes(unit_depth(da))
    (kernel_y, kernel_x), dilations = _sides(window)
    batch, heads, height, width, _ = da.shape
    all_blocks = -(-batch * height * width // BIAS_BLOCK)
    blocks = max(1, min(BIAS_BLOCKS, all_blocks))
    programs = -(-all_blocks // blocks)
    side_y, side_x = 2 * kernel_y - 1, power_of_two(2 * kernel_x - 1)
    shares = da.new_empty((programs, heads, side_y, side_x), dtype=torch.float32)
    if shares.numel():
        with device_of(da):
            kernels.bias_gradient[(programs * side_y * heads,)](
                da, shares, *da.stride()[:4], batch, heads, height, width,
                kernel_y, kernel_x, *dilations, programs, blocks,
                BLOCK_M=BIAS_BLOCK, SIDE_X=side_x,
            )  # fmt: skip
    return shares.sum(0)[..., : 2 * kernel_x - 1].reshape(heads, *sides)


def _launch(
    kernel: Any,
    maps: tuple[Tensor, Tensor, Tensor],
    window: Window,
    *tensors: Tensor,
    head_dim: int,
    **settings: Any,
) -> None:
    """One program for each tile of TILE * TILE pixels, of each head and sub-map."""
    maps = tuple(_two_axes(unit_depth(x)) for x in maps)  # type: ignore[assignment]
    batch, heads, height, width, _ = maps[0].shape
    kernel_sizes, dilations = _sides(window)
    tile = (1, TILE * TILE) if len(window.kernel_size) == 1 else (TILE, TILE)
    tiles = [
        -(-longest(length, dilation) // side)
        for length, dilation, side in zip((height, width), dilations, tile, strict=True)
    ]
    halo = power_of_two(widest_halo(width, kernel_sizes[1], dilations[1], tile[1]))
    programs = batch * heads * dilations[0] * dilations[1] * tiles[0] * tiles[1]
    if not programs:
        return
    with device_of(maps[0]):
        kernel[(programs,)](
            *maps, *tensors, *(stride for x in maps for stride in x.stride()[:4]),
            heads, height, width, *kernel_sizes, *dilations, *tiles,
            HEAD_DIM=head_dim, BLOCK_D=max(16, power_of_two(head_dim)),
            TILE_Y=tile[0], TILE_X=tile[1], HALO_WIDTH=halo, BLOCK_N=max(BLOCK_N, halo),
            PRECISION=precision_of(maps[0]), num_stages=2,
            num_warps=_warps(head_dim * maps[0].element_size()),
            **settings,
        )  # fmt: skip


def _warps(pixel_bytes: int) -> int:
    """So many that in 16 bits no kernel spills (results/benchmarks/triton-compiled.json)."""
    return 4 if pixel_bytes <= 128 else 8


def _two_axes(x: Tensor) -> Tensor:
    """`[B, N, *S, C]` with two axes; one alone gets a first of length 1."""
    return x if x.ndim == 5 else x.unsqueeze(2)


def _sides(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel sizes and dilations of two axes."""
    if len(window.kernel_size) == 1:
        return (1, window.kernel_size[0]), (1, window.dilation[0])
    return (window.kernel_size[0], window.kernel_size[1]), (window.dilation[0], window.dilation[1])
