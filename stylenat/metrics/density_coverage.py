"""Density and coverage (arXiv 2002.09797) of two sets of features.

They answer the questions of precision and recall, and one real image that is far from all others
changes them less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.metrics.precision_recall import distances_in_chunks, nearest_others

NEIGHBOURS = 5


def density_coverage(
    generated_ND: Tensor, reference_MD: Tensor, *, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """How many real balls a generated feature lies in, over k; and the share of real features whose
    ball holds a generated one (equations 3 and 4). Both are near 1 for two samples of one set.

    A ball reaches to the k-th nearest other real feature, which is not in it. Raises ValueError for
    k real features or fewer.
    """
    if len(reference_MD) <= k:
        raise ValueError(f"density takes at least {k + 1} real images: {len(reference_MD)}")
    center_D = reference_MD.mean(dim=0)
    generated_ND, reference_MD = generated_ND - center_D, reference_MD - center_D
    radii_M = nearest_others(reference_MD, k)
    inside = 0
    is_covered_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=reference_MD.device)
    for _, columns, distances in distances_in_chunks(generated_ND, reference_MD):
        is_inside = distances < radii_M[columns]
        inside += int(is_inside.sum())
        is_covered_M[columns] |= is_inside.any(dim=0)
    return inside / (k * len(generated_ND)), int(is_covered_M.sum()) / len(reference_MD)
