"""Which random numbers each transformation of ADA takes, and what they decide.

Legend: B batch, N = ADA_DRAWS.

Every image has one row of N uniform numbers, whichever transformations are on, so that turning one
on or off changes nothing for the others. They stay on the CPU: they decide the shapes of what is
computed on the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# How many numbers a transformation takes. The first decides whether it happens; the others are its
# parameters. `rotate` has two such pairs, `imgfilter` one for each of its four bands; the last
# number of `noise` seeds its map. The order is that of the columns, and never changes: what a run
# draws depends on it.
COUNTS = {
    "xflip": 2,
    "rotate90": 2,
    "xint": 3,
    "scale": 2,
    "rotate": 4,
    "aniso": 2,
    "xfrac": 3,
    "brightness": 2,
    "contrast": 2,
    "lumaflip": 2,
    "hue": 2,
    "saturation": 2,
    "imgfilter": 8,
    "noise": 3,
    "cutout": 3,
}
ADA_DRAWS = sum(COUNTS.values())
FIRST = {name: sum(list(COUNTS.values())[:index]) for index, name in enumerate(COUNTS)}
TURN_AFTER = 3  # the column of `rotate` that holds the angle of its second rotation

# The sets of the paper: pixel blitting, geometry, colour, filter, noise and cutout.
BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
SETS = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOM,
    "bgc": BLIT + GEOM + COLOR,
    "bgcf": (*BLIT, *GEOM, *COLOR, "imgfilter"),
    "bgcfn": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise"),
    "bgcfnc": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise", "cutout"),
}

Transforms = str | Iterable[str] | Mapping[str, float]

# A normal number of the paper has its standard deviation times sqrt(2) erfinv(2 u - 1). The
# official preview by percentile leaves out the sqrt(2).
SQRT2 = math.sqrt(2)
LEAST = 2.0**-25  # half of the step between the uniform numbers: no normal number is infinite
MOST = 1 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True)
class Draws:
    """One row of uniform numbers for each image, and the probability of each transformation.

    `normal_scale` multiplies erfinv(2 u - 1) in `normal`. Everything is a CPU tensor [B].
    """

    values_BN: Tensor  # float32
    probabilities: Mapping[str, float]
    normal_scale: float = SQRT2

    def applies(self, name: str, column: int = 0) -> Tensor:
        """For which images the transformation, or one of its pairs of numbers, is decided."""
        return self.uniform(name, column) < self.probabilities.get(name, 0.0)

    def uniform(self, name: str, column: int) -> Tensor:
        """float32, in [0, 1)."""
        assert 0 <= column < COUNTS[name]
        return self.values_BN[:, FIRST[name] + column]

    def symmetric(self, name: str, column: int) -> Tensor:
        """Uniform in [-1, 1); float32."""
        return self.uniform(name, column) * 2 - 1

    def choice(self, name: str, column: int, count: int) -> Tensor:
        """0, 1, ... count - 1 with equal probability."""
        return (self.uniform(name, column) * count).floor()

    def normal(self, name: str, column: int) -> Tensor:
        """Normal with mean 0 and standard deviation 1."""
        uniform = self.uniform(name, column).clamp(min=LEAST)
        return torch.erfinv(2 * uniform - 1) * self.normal_scale

    def half_normal(self, name: str, column: int) -> Tensor:
        """The absolute value of a normal number; it grows with the uniform one."""
        return torch.erfinv(self.uniform(name, column)) * self.normal_scale


def random_draws(draws_BN: Tensor, count: int, p: float, transforms: Transforms) -> Draws:
    """The draws of `count` images, of which each transformation happens with p times its
    multiplier. Raises ValueError for another shape, numbers outside [0, 1) and a bad p.
    """
    if draws_BN.shape != (count, ADA_DRAWS) or not draws_BN.is_floating_point():
        raise ValueError(
            f"draws must be floating [B, {ADA_DRAWS}] for B = {count} images: "
            f"{tuple(draws_BN.shape)}, {draws_BN.dtype}"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability and must be from 0 to 1: {p}")
    given = draws_BN.detach().cpu()
    if not ((given >= 0) & (given < 1)).all():
        raise ValueError(f"draws must be in [0, 1): {given.min():g} to {given.max():g}")
    values = given.to(torch.float32).clamp(max=MOST)
    multipliers = multipliers_of(transforms)
    return Draws(values, {name: p * multiplier for name, multiplier in multipliers.items()})


def draws_at(percentile: float, count: int, transforms: Transforms) -> Draws:
    """Draws with which every transformation happens, and which are all equal to the percentile.

    The second rotation is by 0, as in the official preview. Raises ValueError for a percentile
    outside [0, 1).
    """
    if not 0 <= percentile < 1:
        raise ValueError(f"the percentile must be at least 0 and below 1: {percentile}")
    values = torch.full((count, ADA_DRAWS), min(percentile, MOST), dtype=torch.float32)
    values[:, FIRST["rotate"] + TURN_AFTER] = 0.5
    return Draws(values, dict.fromkeys(multipliers_of(transforms), 1.0), normal_scale=1.0)


def multipliers_of(transforms: Transforms) -> dict[str, float]:
    """The multiplier of each transformation that is on: 1, unless a mapping gives another.

    `transforms` is the name of a set (SETS), or names of transformations, or a mapping from such
    names to multipliers. Raises ValueError for an unknown name and for a multiplier that is
    negative or not finite.
    """
    if isinstance(transforms, str):
        if transforms not in SETS:
            raise ValueError(
                f"the set of transformations must be one of {', '.join(SETS)}: {transforms}"
            )
        transforms = SETS[transforms]
    given = transforms if isinstance(transforms, Mapping) else dict.fromkeys(transforms, 1.0)
    for name, multiplier in given.items():
        if name not in COUNTS:
            raise ValueError(f"a transformation must be one of {', '.join(COUNTS)}: {name}")
        if not (math.isfinite(multiplier) and multiplier >= 0):
            raise ValueError(f"the multiplier of {name} must be at least 0: {multiplier}")
    return dict(given)
