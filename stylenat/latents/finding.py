"""Directions of w that change images: PCA of w, SeFa, and the Jacobian of the images.

- PCA of w (GANSpace, arXiv 2004.02546): along which w varies most.
- SeFa (arXiv 2007.06600): the directions that the style layers amplify most.
- Jacobian (LowRankGAN, arXiv 2106.04488): those that change a region of the images most, here
  compared with the rest of the images.
- Difference: from some styles to others, such as from those without glasses to those with some.
- Fit: how w differs with each of several labels of styles (`fitting`).

Legend: N latents, S style_dim, R rows of style layers, D directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylenat.choices import DirectionMethod
from stylenat.latents.blocks import all_blocks, blocks_text
from stylenat.latents.directions import Direction, Directions
from stylenat.latents.fitting import Labelled, fitted, remarks_of_labels
from stylenat.latents.jacobian import Region, region_products
from stylenat.latents.loaded import LoadedModel
from stylenat.models import Generator

LATENTS = 10_000
# The 95 % quantile of the Tracy-Widom law for real matrices (Johnstone 2001, table 2).
TRACY_WIDOM_95 = 0.979
# Part of the mean change of an image that is added to the rest's, so that a direction that changes
# nothing anywhere is not taken for one of the region.
RIDGE = 0.1


def find_directions(
    model: LoadedModel,
    method: DirectionMethod,
    *,
    count: int,
    blocks: Sequence[int],
    region: Region | None = None,
    pair: tuple[Tensor, Tensor] | None = None,
    labelled: Labelled | None = None,
) -> Directions:
    """The `count` strongest directions by this method, for these blocks.

    `region`, which the Jacobian alone takes, is the part of the images that shall change; if None,
    the whole. `pair`, which the difference needs, holds the ws [N, num_ws, S] to lead from and to;
    it gives one direction. `labelled`, which the fit needs, gives one for each label, with its
    name. `about` of the result says what the eigenvalues are. Raises ValueError for more directions
    than w has dimensions, for a region that is not in the images, and for settings of another
    method.
    """
    _check_given(method, count, region, pair, labelled)
    generator = model.generator
    style_dim = generator.config.style_dim
    if not 1 <= count <= style_dim:
        raise ValueError(f"--count must be 1 to style_dim, {style_dim}: {count}")
    about: dict[str, Any]
    covariance_SS = w_covariance(generator, model.classes)
    spread = math.sqrt(float(covariance_SS.trace()) / style_dim)
    if not 0 < spread < math.inf:
        raise ValueError(f"w of {model.name} must vary and be finite: its spread is {spread}")
    if method == "pca":
        eigenvalues, vectors_SD = strongest(covariance_SS, count)
        about = {"share_of_variance": (eigenvalues / covariance_SS.trace()).tolist()}
    elif method == "sefa":
        rows_RS = style_rows(generator, blocks)
        eigenvalues, vectors_SD = strongest(rows_RS.mT @ rows_RS, count)
        about = {"eigenvalues": eigenvalues.tolist(), **random_edge(*rows_RS.shape)}
    elif method == "difference":
        assert pair is not None
        vectors_SD, about = _difference(*pair, blocks)
    elif method == "fit":
        assert labelled is not None
        vectors_SD, about = fitted(labelled, blocks)
    else:
        inside_SS, outside_SS = region_products(model, blocks, region, spread=spread)
        vectors_SD = regional(inside_SS, outside_SS, count)
        gains = [(vectors_SD * (A @ vectors_SD)).sum(0) for A in (inside_SS, outside_SS)]
        about = {"share_inside": (gains[0] / (gains[0] + gains[1])).tolist()}
    sigmas = (vectors_SD * (covariance_SS @ vectors_SD)).sum(0).sqrt().tolist()
    names = [f"{method}{number}" for number in range(1, count + 1)]
    found = tuple(
        Direction(name, vector.float(), sigma, tuple(blocks))
        for name, vector, sigma in zip(
            names if labelled is None else labelled.names, vectors_SD.T, sigmas, strict=True
        )
    )
    about["blocks"] = blocks_text(blocks)
    return Directions(method, model.sha256, generator.num_ws, found, about)


def _check_given(
    method: DirectionMethod,
    count: int,
    region: Region | None,
    pair: tuple[Tensor, Tensor] | None,
    labelled: Labelled | None,
) -> None:
    """Raises ValueError for what a method needs and has not got, or got and does not take."""
    if region is not None and method != "jacobian":
        raise ValueError(f"--region is for --method jacobian, and not for {method}")
    if (pair is None) == (method == "difference"):
        raise ValueError("--from and --to are for --method difference, which needs both")
    if (labelled is None) == (method == "fit"):
        raise ValueError("--ws and --labels are for --method fit, which needs both")
    wanted = 1 if labelled is None else len(labelled.names)
    if method in ("difference", "fit") and count != wanted:
        of = "1 direction" if wanted == 1 else f"{wanted} directions"
        raise ValueError(f"--method {method} finds {of}: --count {count}")


@torch.no_grad()
def w_covariance(generator: Generator, classes: Sequence[int] | None = None) -> Tensor:
    """The covariance [S, S] of w, float64 on the CPU, of 10,000 latents, the same in every call.

    With classes, the mean of the covariances within each: how w varies, but for the class.
    """
    z = generator.fixed_latents(LATENTS)
    if classes is None:
        return torch.cov(generator.mapping(z).double().cpu().T)
    labels = (torch.full((len(z),), label, device=z.device) for label in classes)
    of_classes = [torch.cov(generator.mapping(z, label).double().cpu().T) for label in labels]
    return torch.stack(of_classes).mean(0)


def _difference(
    from_NLS: Tensor, to_NLS: Tensor, blocks: Sequence[int]
) -> tuple[Tensor, dict[str, Any]]:
    """The unit vector [S, 1] from the mean of some ws to that of others.

    And how far apart they are, in standard deviations along it within each of the two.
    """
    first_NS, second_NS = (ws[:, list(blocks)].double().mean(1) for ws in (from_NLS, to_NLS))
    step_S = second_NS.mean(0) - first_NS.mean(0)
    if not 0 < float(step_S.norm()) < math.inf:
        raise ValueError("--from and --to must be different styles: the means of their w are equal")
    vector_S = step_S / step_S.norm()
    around = [ws @ vector_S - (ws.mean(0) @ vector_S) for ws in (first_NS, second_NS)]
    variance = float(torch.cat(around).square().mean())
    apart = float(step_S.norm()) / math.sqrt(variance) if variance else math.inf
    about = {"styles": [len(first_NS), len(second_NS)], "apart": apart}
    return vector_S[:, None], about


def strongest(matrix_SS: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues [D] of a symmetric matrix and their unit vectors [S, D].

    The largest component of each vector is positive, so that the sign is the same everywhere.
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix_SS.double())
    eigenvalues, vectors = eigenvalues[-count:].flip(0), vectors[:, -count:].flip(1)
    return eigenvalues, with_sign(vectors)


def with_sign(vectors_SD: Tensor) -> Tensor:
    """The vectors, each turned so that its largest component is positive."""
    largest = vectors_SD.gather(0, vectors_SD.abs().argmax(0, keepdim=True))
    return vectors_SD * torch.where(largest < 0, -1.0, 1.0)


@torch.no_grad()
def style_rows(generator: Generator, blocks: Sequence[int]) -> Tensor:
    """The rows of these blocks' style layers, gamma and beta, each of length 1: [R, S], float64."""
    every = all_blocks(generator)
    weights = [norm.style.weight for i in blocks for norm in (every[i].norm1, every[i].norm2)]
    rows_RS = torch.cat(weights).double().cpu()
    return rows_RS / rows_RS.norm(dim=1, keepdim=True).clamp(min=1e-12)


def random_edge(rows: int, style_dim: int) -> dict[str, float]:
    """How large eigenvalues get without any structure: for random unit rows [R, S].

    `random_edge` is the upper edge of the Marchenko-Pastur law, where the largest one lies for
    large matrices; `random_edge_95` is what it stays below in 95 of 100 random matrices of this
    size (Johnstone, Annals of Statistics 29, 2001).
    """
    root_sum = math.sqrt(rows) + math.sqrt(style_dim)
    spread = root_sum * (1 / math.sqrt(rows) + 1 / math.sqrt(style_dim)) ** (1 / 3)
    return {
        "random_edge": root_sum**2 / style_dim,
        "random_edge_95": (root_sum**2 + TRACY_WIDOM_95 * spread) / style_dim,
    }


def regional(inside_SS: Tensor, outside_SS: Tensor, count: int) -> Tensor:
    """Unit vectors [S, D] that change the inside most for how much they change the outside.

    They are the strongest generalised eigenvectors of J^T J inside against J^T J outside, to which
    a part of the mean change is added. Without an outside they are the eigenvectors of J^T J.
    """
    style_dim = len(inside_SS)
    ridge = RIDGE * float((inside_SS + outside_SS).trace()) / style_dim
    if ridge == 0:
        raise ValueError("no direction of w changes the images: the model does not depend on w")
    against = outside_SS + ridge * torch.eye(style_dim, dtype=torch.float64)
    if not outside_SS.any():
        return strongest(inside_SS, count)[1]
    inverse_root = torch.linalg.inv(torch.linalg.cholesky(against))
    _, vectors = strongest(inverse_root @ inside_SS @ inverse_root.mT, count)
    vectors_SD = inverse_root.mT @ vectors
    return with_sign(vectors_SD / vectors_SD.norm(dim=0, keepdim=True))


def remarks(directions: Directions) -> list[str]:
    """What a user should know of these directions, one sentence each."""
    about: dict[str, Any] = directions.about
    if directions.method == "pca":
        share = sum(about["share_of_variance"])
        return [f"they hold {share:.0%} of the variance of w"]
    if directions.method == "jacobian":
        share = sum(about["share_inside"]) / len(about["share_inside"])
        return [f"on average, {share:.0%} of what they change lies in the region"]
    if directions.method == "fit":
        return remarks_of_labels(about)
    if directions.method == "difference":
        first, second = about["styles"]
        return [f"from {first} styles to {second}, which lie {about['apart']:.1f} sigma apart"]
    edge, edge_95 = about["random_edge"], about["random_edge_95"]
    above = sum(value > edge_95 for value in about["eigenvalues"])
    first = (
        f"eigenvalues {about['eigenvalues'][0]:.2f} to {about['eigenvalues'][-1]:.2f}; a random "
        f"matrix has its edge at {edge:.2f}, and in 95 of 100 cases none above {edge_95:.2f}"
    )
    if above:
        return [first, f"{above} of them stand above that; the others may be chance"]
    return [first, "none of them stands above that: they may be chance, so --method pca is better"]
