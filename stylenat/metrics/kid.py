"""Kernel Inception Distance (arXiv 1801.01401): an unbiased squared MMD of features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 0
SETTINGS = {"subsets": SUBSETS, "subset_size": SUBSET_SIZE, "seed": SEED}


def kernel_distance(
    generated_ND: Tensor,
    reference_MD: Tensor,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> float:
    """The mean over random subsets of the squared MMD under `(x . y / D + 1)^3`.

    Each subset holds `min(subset_size, N, M)` features of either side, drawn without repeats. The
    estimator is unbiased, so it can be below 0. It is not multiplied by any factor. Raises
    ValueError for fewer than 2 features on a side.
    """
    size = min(subset_size, len(generated_ND), len(reference_MD))
    if size < 2:
        raise ValueError(f"kid takes at least 2 images of either kind: {size}")
    random = np.random.default_rng(seed)
    total = 0.0
    for _ in range(subsets):
        x_SD = _drawn(reference_MD, size, random)
        y_SD = _drawn(generated_ND, size, random)
        total += unbiased_mmd(x_SD, y_SD)
    return total / subsets


def unbiased_mmd(x_SD: Tensor, y_SD: Tensor) -> float:
    """The squared MMD of two samples of S: means of the kernel over pairs of different features
    within each (equation 4 of arXiv 1801.01401), and over all pairs between them."""
    size = len(x_SD)
    within = sum(_kernel(s, s).fill_diagonal_(0).sum() for s in (x_SD, y_SD))
    between = _kernel(x_SD, y_SD).sum()
    return float(within / (size * (size - 1)) - 2 * between / size**2)


def _kernel(x_SD: Tensor, y_SD: Tensor) -> Tensor:
    return (x_SD @ y_SD.T / x_SD.shape[1] + 1) ** 3


def _drawn(features_ND: Tensor, size: int, random: np.random.Generator) -> Tensor:
    rows = torch.from_numpy(random.choice(len(features_ND), size, replace=False))
    return features_ND[rows.to(features_ND.device)].double()
