"""Perceptual path length (PPL; StyleGAN, arXiv 1812.04948, section 4.1) in w.

How much an image changes, for eyes, when its w takes a tiny step towards another w. It looks at no
real image. Small values mean that w is smooth, not that images are good.

Legend: B pairs in a batch, N pairs, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.choices import ProjectionLoss
from stylenat.distributed import all_gather, all_reduce_sum_, interleaved, own_share
from stylenat.latents.perceptual import perceptual_distance
from stylenat.metrics.collect import Stopped
from stylenat.models import Generator
from stylenat.models.pixels import to_rgb
from stylenat.sampling import seed_ws

STEP = 1e-4
# Seeds of the w that a step goes towards begin here. PyTorch's generator uses 32 bits of a seed.
OTHER_SEEDS = 2**31
LARGEST = 256  # larger images are averaged down to this side
PERCENTILES = (1, 99)
SETTINGS = {
    "space": "w",
    "step": STEP,
    "at": "the beginning of the path",
    "percentiles": list(PERCENTILES),
    "largest_side": LARGEST,
    "dtype": "float64",
}


@dataclass(frozen=True)
class Walk:
    """Which steps to take: `num` of them, from the seeds `first_seed` on, of these classes."""

    generator: Generator
    num: int
    first_seed: int
    labels: Sequence[int] | None
    truncation_psi: float
    batch: int
    bar: Callable[[int], AbstractContextManager[Callable[[int], None]]]
    stopped: Callable[[], bool]


def path_length(walk: Walk, *, loss: ProjectionLoss) -> float:
    """The mean of `distance(image(w), image(w + 1e-4 (w' - w))) / 1e-8` over pairs w, w'.

    Values below the 1st and above the 99th percentile are left out. All is in float64, since the
    two images differ by little more than float32's rounding. Called by all ranks. Raises Stopped,
    on all of them, if `stopped` was true on one; ValueError as `perceptual_distance` does.
    """
    device = walk.generator.const.device
    distance = perceptual_distance(loss, device)
    assert distance is not None
    judge = copy.deepcopy(distance).double()  # type: ignore[attr-defined]
    generator = copy.deepcopy(walk.generator).double()
    positions, found, is_stopped = own_share(range(walk.num)), [], False
    with walk.bar(len(positions)) as advance:
        for start in range(0, len(positions), walk.batch):
            chosen = positions[start : start + walk.batch]
            found.append(_lengths(generator, judge, walk, chosen))
            advance(len(chosen))
            if is_stopped := walk.stopped():
                break
    if int(all_reduce_sum_(torch.tensor(int(is_stopped), device=device))):
        raise Stopped
    empty = torch.empty(0, 1, dtype=torch.float64, device=device)
    lengths_N = interleaved(all_gather(torch.cat([empty, *found])))[:, 0]
    low, high = (
        torch.quantile(lengths_N, percent / 100, interpolation=side)
        for percent, side in zip(PERCENTILES, ("lower", "higher"), strict=True)
    )
    return float(lengths_N[(lengths_N >= low) & (lengths_N <= high)].mean())


@torch.no_grad()
def _lengths(generator: Generator, judge: Any, walk: Walk, positions: Sequence[int]) -> Tensor:
    """[B, 1] of the pairs at these positions."""
    labels = None if walk.labels is None else [walk.labels[position] for position in positions]
    ws_of = partial(seed_ws, generator, labels=labels, truncation_psi=walk.truncation_psi)
    ws_BLS, others_BLS = (
        ws_of([first + walk.first_seed + position for position in positions])
        for first in (0, OTHER_SEEDS)
    )
    images = (generator.synthesis(ws) for ws in (ws_BLS, torch.lerp(ws_BLS, others_BLS, STEP)))
    features = [judge.features(_as_judged(generator, image_B3HW)) for image_B3HW in images]
    return judge.between(*features)[:, None] / STEP**2


def _as_judged(generator: Generator, image_B3HW: Tensor) -> Tensor:
    """RGB from -1 to 1, not rounded, at most 256 pixels wide."""
    image_B3HW = to_rgb(image_B3HW, generator.config.pixel_space)
    factor = max(image_B3HW.shape[-1] // LARGEST, 1)
    return F.avg_pool2d(image_B3HW, factor) if factor > 1 else image_B3HW
