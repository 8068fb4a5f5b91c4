"""Improved precision and recall (arXiv 1904.06991) of two sets of features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

NEIGHBOURS = 3
CHUNK = 4096  # rows and columns of distances in memory at a time


def rank(precision: float, recall: float) -> float:
    """Minus the harmonic mean of precision and recall, so that lower is better."""
    return -2 * precision * recall / (precision + recall) if precision + recall else 0.0


def precision_recall(
    generated_ND: Tensor, reference_MD: Tensor, *, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """The share of generated features on the reference's manifold, and the other way round, 0..1.

    A set's manifold is the union of the balls around its features that reach to the k-th nearest
    other one (equations 1 to 3). Raises ValueError for k features or fewer on a side.
    """
    fewest = min(len(generated_ND), len(reference_MD))
    if fewest <= k:
        raise ValueError(f"precision and recall take at least {k + 1} images: {fewest}")
    # Distances stay the same, but the products that they are computed from lose fewer digits.
    center_D = reference_MD.mean(dim=0)
    generated_ND, reference_MD = generated_ND - center_D, reference_MD - center_D
    precision = _covered(generated_ND, reference_MD, nearest_others(reference_MD, k))
    recall = _covered(reference_MD, generated_ND, nearest_others(generated_ND, k))
    return precision, recall


def realism(generated_ND: Tensor, reference_MD: Tensor, *, k: int = NEIGHBOURS) -> Tensor:
    """How real each generated image looks, [N] (arXiv 1904.06991, equation 4): 1 and above if it
    lies in the ball of a real one.

    It is the largest ratio of a real image's radius to its distance from the generated one. Real
    images whose radius is above the median are left out. Raises ValueError as `precision_recall`.
    """
    if len(reference_MD) <= k:
        raise ValueError(f"realism takes at least {k + 1} real images: {len(reference_MD)}")
    center_D = reference_MD.mean(dim=0)
    generated_ND, reference_MD = generated_ND - center_D, reference_MD - center_D
    radii_M = nearest_others(reference_MD, k)
    is_dense_M = radii_M <= radii_M.median()
    radii_M, reference_MD = radii_M[is_dense_M], reference_MD[is_dense_M]
    best = generated_ND.new_zeros(len(generated_ND))
    for rows, columns, distances in distances_in_chunks(generated_ND, reference_MD):
        ratios = radii_M[columns] / distances.clamp(min=1e-12)
        best[rows] = torch.maximum(best[rows], ratios.amax(dim=1))
    return best


def nearest_others(features_ND: Tensor, k: int) -> Tensor:
    """[N]: the distance of each feature to the k-th nearest other one."""
    found = []
    for start, rows_CD in _chunks(features_ND):
        nearest = None
        for column, others_CD in _chunks(features_ND):
            distances = torch.cdist(rows_CD, others_CD)
            if column == start:
                distances.fill_diagonal_(torch.inf)
            candidates = distances if nearest is None else torch.cat([nearest, distances], dim=1)
            nearest = candidates.topk(min(k, candidates.shape[1]), largest=False).values
        assert nearest is not None
        found.append(nearest[:, -1])
    return torch.cat(found)


def _covered(points_ND: Tensor, centers_MD: Tensor, radii_M: Tensor) -> float:
    """The share of points that lie in at least one of the balls."""
    inside_N = torch.zeros(len(points_ND), dtype=torch.bool, device=points_ND.device)
    for rows, columns, distances in distances_in_chunks(points_ND, centers_MD):
        inside_N[rows] |= (distances <= radii_M[columns]).any(dim=1)
    return int(inside_N.sum()) / len(points_ND)


def distances_in_chunks(
    points_ND: Tensor, others_MD: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Euclidean distances of some points to some others, with the places of both."""
    for row, rows_CD in _chunks(points_ND):
        for column, columns_CD in _chunks(others_MD):
            rows = slice(row, row + len(rows_CD))
            yield rows, slice(column, column + len(columns_CD)), torch.cdist(rows_CD, columns_CD)


def _chunks(features_ND: Tensor) -> list[tuple[int, Tensor]]:
    return [
        (start, features_ND[start : start + CHUNK]) for start in range(0, len(features_ND), CHUNK)
    ]
