"""Two generators of one architecture -> one: low levels of the first, high levels of the second.

As layer swapping does (Pinkney and Adler, arXiv 2010.05334): if B was fine-tuned from A, the blend
has A's shapes and poses with B's textures, or the other way round.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from stylenat.config import to_dict
from stylenat.models import Generator
from stylenat.text import listed, shortened


def blend(A: Generator, B: Generator, *, from_level: int) -> Generator:
    """A new generator: A's, but its levels from `from_level` (a resolution) up are B's.

    The mapping network, the mean of w and the learned constant are A's. A level is its blocks, its
    step up to the next level and the RGB output after that step. Raises ValueError, one sentence,
    if the two have not one architecture, dtype and device, and if they have no such level.
    """
    _check_one_architecture(A, B)
    sides = [level.resolution for level in A.config.levels]
    if from_level not in sides:
        raise ValueError(
            f"--from-level must be a level of the generators, {', '.join(map(str, sides))}: "
            f"{from_level}"
        )
    blended = copy.deepcopy(A)
    high = [f"levels.{index}." for index in range(sides.index(from_level), len(sides))]
    theirs = {n: x for n, x in B.state_dict().items() if n.startswith(tuple(high))}
    blended.load_state_dict({**A.state_dict(), **theirs})
    return blended


def _check_one_architecture(A: Generator, B: Generator) -> None:
    if A.resolution != B.resolution:
        raise ValueError(
            "only generators of one resolution can be blended: "
            f"{A.resolution}x{A.resolution} and {B.resolution}x{B.resolution}"
        )
    one, other = _settings(A), _settings(B)
    odd = [
        f"{key} ({shortened(str(one[key]))} and {shortened(str(other[key]))})"
        for key in one
        if one[key] != other[key]
    ]
    if odd:
        raise ValueError(
            f"only generators of one architecture can be blended; these differ in {listed(odd)}"
        )


def _settings(generator: Generator) -> dict[str, Any]:
    """What decides on the images: all but how they are computed."""
    config = replace(generator.config, attention_backend="auto", activation_checkpointing=False)
    weight = generator.const
    settings: dict[str, Any] = to_dict(config)
    levels = {f"levels[{i}]": level for i, level in enumerate(settings.pop("levels"))}
    return {**settings, **levels, "dtype": str(weight.dtype), "device": str(weight.device)}
