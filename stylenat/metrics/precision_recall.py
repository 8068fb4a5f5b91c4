"""Improved precision and recall (arXiv 1904.06991) of two sets of features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NEIGHBOURS = 3
SETTINGS = {"k": NEIGHBOURS}
CHUNK = 4096  # rows and columns of distances in memory at a time


def values(ours_ND: Tensor, theirs_ND: Tensor) -> dict[str, float]:
    precision, recall = precision_recall(ours_ND, theirs_ND)
    return {"precision": precision, "recall": recall}


def rank(values: Mapping[str, float]) -> float:
    """Minus the harmonic mean of precision and recall, so that lower is better."""
    precision, recall = values["precision"], values["recall"]
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
    precision = _covered(generated_ND, reference_MD, _radii(reference_MD, k))
    recall = _covered(reference_MD, generated_ND, _radii(generated_ND, k))
    return precision, recall


def _radii(features_ND: Tensor, k: int) -> Tensor:
    """[N]: the distance of each feature to the k-th nearest other one."""
    radii = []
    for start, rows_CD in _chunks(features_ND):
        nearest = None
        for column, others_CD in _chunks(features_ND):
            distances = torch.cdist(rows_CD, others_CD)
            if column == start:
                distances.fill_diagonal_(torch.inf)
            candidates = distances if nearest is None else torch.cat([nearest, distances], dim=1)
            nearest = candidates.topk(min(k, candidates.shape[1]), largest=False).values
        assert nearest is not None
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _covered(points_ND: Tensor, centers_MD: Tensor, radii_M: Tensor) -> float:
    """The share of points that lie in at least one of the balls."""
    covered = 0
    for _, rows_CD in _chunks(points_ND):
        inside_C = torch.zeros(len(rows_CD), dtype=torch.bool, device=rows_CD.device)
        for start, others_CD in _chunks(centers_MD):
            radii_C = radii_M[start : start + len(others_CD)]
            inside_C |= (torch.cdist(rows_CD, others_CD) <= radii_C).any(dim=1)
        covered += int(inside_C.sum())
    return covered / len(points_ND)


def _chunks(features_ND: Tensor) -> list[tuple[int, Tensor]]:
    return [
        (start, features_ND[start : start + CHUNK]) for start in range(0, len(features_ND), CHUNK)
    ]
