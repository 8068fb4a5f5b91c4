"""CMMD (arXiv 2401.09603): a squared maximum mean discrepancy between CLIP's embeddings.

It needs far fewer images than a Fréchet distance, since it estimates no covariance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 10.0
SCALE = 1000
CHUNK = 4096
SETTINGS = {"kernel": "exp(-|x - y|^2 / 2 sigma^2)", "sigma": SIGMA, "times": SCALE}


def cmmd(generated_ND: Tensor, reference_MD: Tensor) -> float:
    """1000 times the squared MMD of embeddings at unit length, under a Gaussian kernel.

    Means include the pairs of an embedding with itself, as the published code's do, so the value is
    never negative and a little biased.
    """
    x_ND, y_MD = (F.normalize(x.double(), dim=1) for x in (generated_ND, reference_MD))
    return SCALE * float(_mean(x_ND, x_ND) + _mean(y_MD, y_MD) - 2 * _mean(x_ND, y_MD))


def _mean(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """The mean of the kernel over all pairs; squared distances of unit vectors are 2 - 2 x . y."""
    total = torch.zeros((), dtype=torch.float64, device=x_ND.device)
    for rows_CD in x_ND.split(CHUNK):
        for columns_CD in y_MD.split(CHUNK):
            total += ((rows_CD @ columns_CD.T - 1) / SIGMA**2).exp().sum()
    return total / (len(x_ND) * len(y_MD))
