"""Centers of w for multimodal truncation (Self-Distilled StyleGAN, arXiv 2202.12211, section 4).

Truncation towards the mean of w makes all images alike if the data have several kinds of images.
Towards the nearest of many centers, each image becomes typical of its own kind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.extras import require
from stylenat.models import Generator

LATENTS = 20_000
MOST_CENTERS = 1_000


def check_centers(count: int) -> None:
    """Raises ValueError for an impossible number of centers, or if scikit-learn is missing."""
    if not 2 <= count <= MOST_CENTERS:
        raise ValueError(f"--trunc-modes must be 2 to {MOST_CENTERS:,} centers: {count}")
    require("--trunc-modes", "scikit-learn", extra="modes")


@torch.no_grad()
def find_centers(generator: Generator, count: int) -> Tensor:
    """`count` centers of w, [K, S], on the CPU: k-means of 20,000 latents, the same in every call.

    Raises ValueError as `check_centers` does, and for a generator with classes, whose images have
    the means of their classes to go to.
    """
    check_centers(count)
    if generator.config.classes:
        raise ValueError(
            "--trunc-modes is for models without classes: leave it out, and truncation leads to "
            "the mean of the image's class"
        )
    from sklearn.cluster import KMeans

    w_NS = generator.mapping(generator.fixed_latents(LATENTS)).float().cpu()
    # Dimensions that vary much should not decide alone which w are near.
    std_S = w_NS.std(0).clamp(min=1e-8)
    kmeans = KMeans(count, n_init=1, max_iter=50, random_state=0)
    kmeans.fit((w_NS / std_S).numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float() * std_S
