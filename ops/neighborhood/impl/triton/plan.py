"""How one call is cut into programs: tiles of queries (or keys), group by group.

A dilated neighborhood is a plain one on each of dilation**2 interleaved sub-maps. A sub-map is cut
into tiles of TILE x TILE pixels. A tile's halo is what its windows reach; it is swept row by row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ops.neighborhood.problem import HeadGroup

TILE = 8  # 64 pixels, the least that Hopper's matrix instruction takes; 3 of 4 products are wasted
COLUMNS = 9  # numbers of a group in Plan.layout
MAX_KERNEL_SIZE = 13  # the sums for the bias's gradient fill the registers; NATTEN's limit was 13
PROGRAMS = 1024  # of the query gradient, if the map is large enough: two per slot of a large GPU
TILES_A_PROGRAM = 16


@dataclass(frozen=True)
class Plan:
    """`layout` holds, group after group, what kernels.py reads in its `_find_program`.

    `programs` is the number of programs for one image. `halo_widths` are the columns (powers of
    two) of a halo: in the widest group, and in the groups that need half of that or less.
    """

    layout: tuple[int, ...]
    programs: int
    tiles_a_program: int
    halo_widths: tuple[int, int]
    groups: tuple[HeadGroup, ...]

    def programs_of_groups(self) -> Iterator[tuple[HeadGroup, int, int]]:
        """Each group, its first program, and how many it has for each head."""
        firsts = [*self.layout[::COLUMNS], self.programs]
        for index, group in enumerate(self.groups):
            count = firsts[index + 1] - firsts[index]
            yield group, firsts[index], count // group.heads


@functools.lru_cache(maxsize=256)
def plan_tiles(groups: tuple[HeadGroup, ...], height: int, width: int) -> Plan:
    """One program per head and tile."""
    return _plan(groups, height, width, tiles_a_program=1)


@functools.lru_cache(maxsize=256)
def plan_columns(groups: tuple[HeadGroup, ...], height: int, width: int, batch: int) -> Plan:
    """One program per head and up to TILES_A_PROGRAM tiles in a column, fewer on small maps."""
    tiles = batch * plan_tiles(groups, height, width).programs
    return _plan(groups, height, width, max(1, min(tiles // PROGRAMS, TILES_A_PROGRAM)))


def _plan(groups: tuple[HeadGroup, ...], height: int, width: int, tiles_a_program: int) -> Plan:
    halos = [
        power_of_two(widest_halo(width, group.kernel_size, group.dilation)) for group in groups
    ]
    wide = max(halos)
    narrow = max([halo for halo in halos if halo <= wide // 2], default=wide)
    layout: list[int] = []
    programs = first_head = first_bias = 0
    for group, halo in zip(groups, halos, strict=True):
        tiles_y, tiles_x = (
            -(-longest(length, group.dilation) // TILE) for length in (height, width)
        )
        rows = tiles_y * group.dilation  # a row of tiles for each row of sub-maps
        chunks = -(-rows // tiles_a_program)
        layout += (
            programs,
            first_head,
            group.heads,
            group.kernel_size,
            group.dilation,
            tiles_y,
            tiles_x,
            first_bias,
            int(halo <= narrow < wide),
        )
        programs += group.heads * group.dilation * tiles_x * chunks
        first_head += group.heads
        first_bias += group.heads * (2 * group.kernel_size - 1) ** 2
    return Plan(tuple(layout), programs, tiles_a_program, (wide, narrow), groups)


def longest(length: int, dilation: int) -> int:
    """The longest sub-map's side."""
    return -(-length // dilation)


def widest_halo(length: int, kernel_size: int, dilation: int, tile: int = TILE) -> int:
    """The most columns that a tile of queries attends to, or that attend to a tile of keys."""
    widest = 0
    for side in {longest(length, dilation), length // dilation}:
        for first in range(0, side, tile):
            last = min(first + tile, side) - 1
            for low, high in (
                reached_keys(first, last, side, kernel_size),
                reaching_queries(first, last, side, kernel_size),
            ):
                widest = max(widest, high - low)
    return widest


def reached_keys(first: int, last: int, side: int, kernel_size: int) -> tuple[int, int]:
    """Positions [low, high) that the windows of queries first..last hold, along one axis."""

    def start(position: int) -> int:
        return min(max(position - kernel_size // 2, 0), side - kernel_size)

    return start(first), start(last) + kernel_size


def reaching_queries(first: int, last: int, side: int, kernel_size: int) -> tuple[int, int]:
    """Positions [low, high) of the queries whose windows hold one of the keys first..last."""
    low = 0 if first < kernel_size else first - kernel_size // 2
    high = side if last >= side - kernel_size else last + kernel_size // 2 + 1
    return low, high


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def groups_of(layout: Sequence[int]) -> tuple[HeadGroup, ...]:
    """Head groups of a flat list: heads, kernel_size, dilation of each."""
    return tuple(HeadGroup(*layout[i : i + 3]) for i in range(0, len(layout), 3))
