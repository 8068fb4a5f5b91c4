"""Seeds: from text to numbers, and from numbers to latents.

Each seed has a random generator of its own, on the CPU. So it gives the same latent in any batch
and on any device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ops.checks import check_whole, kind
from stylenat.choices import SEED_SCHEMES
from stylenat.models import Generator
from stylenat.models.classes import class_index, classes_in_words
from stylenat.text import shown

MOST_SEEDS = 10_000_000
SEED_LIMIT = {"torch": 2**63, "stylegan": 2**32}


def parse_seeds(text: str) -> list[int]:
    """StyleGAN's syntax: `0-63,100,4-6` -> 0 to 63, 100, 4 to 6, in this order, repeats kept.

    Raises ValueError, naming the piece, for anything but numbers and ranges upwards, a seed from
    2**63 up, no seeds, or more than ten million.
    """
    if not isinstance(text, str):
        raise ValueError(f"seeds as text must look like '0-63,100', not {kind(text)}: {text!r}")
    if not text.strip():
        raise ValueError("there must be at least one seed: the list of seeds is empty")
    seeds: list[int] = []
    for piece in text.split(","):
        first, last = _bounds(piece)
        if len(seeds) + last - first + 1 > MOST_SEEDS:
            raise ValueError(
                f"seeds must be at most {MOST_SEEDS:,}: with {shown(piece.strip())} there are more"
            )
        seeds.extend(range(first, last + 1))
    return seeds


def _bounds(piece: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19}))?\s*", piece)
    if match is None:
        raise ValueError(
            f"seeds must be numbers from 0 up or ranges such as 0-63: {shown(piece.strip())}"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"a range of seeds must not run backwards: {piece.strip()}")
    if last >= SEED_LIMIT["torch"]:
        raise ValueError(f"seeds must be below 2**63: {piece.strip()}")
    return first, last


def latents(seeds: Sequence[int], z_dim: int, *, scheme: str = "torch") -> Tensor:
    """Standard normal latents [B, z_dim], float32, on the CPU; row i depends on `seeds[i]` alone.

    Scheme `torch` draws as StyleNAT's published code does after `torch.manual_seed(seed)`, scheme
    `stylegan` as StyleGAN's does, from numpy's RandomState. Raises ValueError for another scheme,
    or a seed that it does not take.
    """
    check_seeds(seeds, scheme)
    check_whole("z_dim", z_dim)
    z = torch.empty(len(seeds), z_dim)
    for row, seed in zip(z, map(int, seeds), strict=True):
        if scheme == "torch":
            row.copy_(torch.randn(1, z_dim, generator=torch.Generator().manual_seed(seed))[0])
        else:
            row.copy_(torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim))[0])
    return z


def chosen_classes(generator: Generator, text: str | None) -> list[int] | None:
    """The classes that `--class` names: one by name or number, or `all`; None without classes.

    Raises ValueError for a class that the generator does not have, for a class of a generator
    without classes, and for no class of one with classes.
    """
    config = generator.config
    if not config.classes:
        if text is not None:
            raise ValueError(f"this model has no classes: leave out --class {shown(text)}")
        return None
    if text is None:
        have = classes_in_words(config.classes, config.class_names)
        raise ValueError(f"{have}; give --class NAME, --class NUMBER or --class all")
    if text == "all":
        return list(range(config.classes))
    return [class_index(text, classes=config.classes, names=config.class_names)]


def check_seeds(seeds: Sequence[int], scheme: str = "torch") -> None:
    """Raises ValueError for an unknown scheme, or for a seed that the scheme does not take."""
    if scheme not in SEED_SCHEMES:
        raise ValueError(f"the seed scheme must be one of {', '.join(SEED_SCHEMES)}: {scheme}")
    if not hasattr(seeds, "__len__") or isinstance(seeds, (str, Tensor)):
        raise ValueError(f"seeds must be a list of whole numbers, not {kind(seeds)}: {seeds!r}")
    for seed in seeds:
        check_whole("a seed", seed)
        if not 0 <= seed < SEED_LIMIT[scheme]:
            raise ValueError(
                f"seeds of scheme {scheme} must be from 0 to {SEED_LIMIT[scheme] - 1}: {seed}"
            )
