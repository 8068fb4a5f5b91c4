"""The Inception score (arXiv 1606.03498) of generated images. It looks at no real image.

It rewards images that Inception puts into one class of ImageNet, and a set that fills many classes.
So it means nothing for faces, or for any data of one class.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPLITS = 10
SETTINGS = {"splits": SPLITS, "classes": "1008, without the output bias"}


def inception_score(probabilities_NC: Tensor) -> tuple[float, float]:
    """The mean over 10 parts of `exp(mean KL(p(y|x) || p(y)))`, and its standard deviation.

    Raises ValueError for fewer images than parts.
    """
    if len(probabilities_NC) < SPLITS:
        raise ValueError(f"is takes at least {SPLITS} images: {len(probabilities_NC)}")
    scores = []
    for part_NC in probabilities_NC.double().tensor_split(SPLITS):
        log_ratio_NC = part_NC.clamp(min=1e-300).log() - part_NC.mean(dim=0).clamp(min=1e-300).log()
        scores.append((part_NC * log_ratio_NC).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))
