"""Names for the blocks of a generator: which of its ws a command changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from stylenat.models import Generator, GeneratorConfig
from stylenat.text import shown

# By the side of the level: pose and shape of the whole, its parts, and their colors and textures.
NAMED_SIDES = {"coarse": (0, 8), "middle": (16, 32), "fine": (64, 2**31), "all": (0, 2**31)}


def parse_blocks(text: str, config: GeneratorConfig) -> tuple[int, ...]:
    """`coarse`, `middle`, `fine`, `all`, numbers and ranges, joined by commas -> block numbers.

    Blocks count from 0, level by level from 4x4. Coarse are those of levels up to 8x8, middle those
    of 16x16 and 32x32, fine the rest. Raises ValueError, naming the piece, for anything else, a
    block that the model has not, and a name that no level of the model has.
    """
    chosen: set[int] = set()
    for piece in text.split(","):
        chosen.update(_blocks(piece.strip(), config))
    return tuple(sorted(chosen))


def blocks_text(blocks: Sequence[int]) -> str:
    """Block numbers as `parse_blocks` reads them: 0, 1, 2, 5 -> `0-2,5`."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def named_blocks(name: str, config: GeneratorConfig) -> list[int]:
    """The blocks of one of NAMED_SIDES; empty if the model has no such level."""
    low, high = NAMED_SIDES[name]
    return [block for block, side in enumerate(config.block_resolutions) if low <= side <= high]


def all_blocks(generator: Generator) -> list[Any]:
    """The `Block` modules of a generator, in the order of its ws."""
    return [block for level in generator.levels for block in level.blocks]  # type: ignore[union-attr]


def _blocks(piece: str, config: GeneratorConfig) -> list[int]:
    last_block = config.num_ws - 1
    if piece in NAMED_SIDES:
        if found := named_blocks(piece, config):
            return found
        side = config.resolution
        raise ValueError(
            f"a model for {side}x{side} has no {piece} blocks: choose from 0 to {last_block}"
        )
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", piece)
    if match is None:
        raise ValueError(
            f"blocks must be {', '.join(NAMED_SIDES)}, numbers or ranges such as 0-3: "
            f"{shown(piece)}"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last <= last_block:
        raise ValueError(f"blocks must run upwards from 0 to {last_block}: {piece}")
    return list(range(first, last + 1))
