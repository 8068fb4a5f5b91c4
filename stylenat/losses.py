"""Adversarial losses, consistency and gradient penalties: pure functions of logits and images.

Legend: B batch, C channels, H height, W width. Logits are [B, 1], positive if an image seems
real; every loss is a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus


def logistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """D's logistic loss (arXiv 1406.2661, equation 1): softplus(-real) + softplus(fake)."""
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def logistic_g_loss(fake_logits: Tensor) -> Tensor:
    """G's non-saturating loss (arXiv 1406.2661, section 3): softplus(-fake)."""
    return softplus(-fake_logits).mean()


def relativistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """D's relativistic pairing loss (RpGAN, in R3GAN: arXiv 2501.05441): softplus(fake - real)."""
    return softplus(fake_logits - real_logits).mean()


def relativistic_g_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """G's relativistic pairing loss: D's with the two exchanged."""
    return softplus(real_logits - fake_logits).mean()


def consistency_loss(logits: Tensor, augmented_logits: Tensor) -> Tensor:
    """Squared difference between an image's logit and its augmented copy's (arXiv 2002.04724)."""
    return (augmented_logits - logits).square().mean()


def gradient_penalty(D: Callable[[Tensor], Tensor], image_BCHW: Tensor) -> Tensor:
    """Mean over the batch of |dD/dimage|^2, to be differentiated in D's parameters.

    R1 on real images, R2 on generated ones (arXiv 1801.04406, equation 9, without gamma / 2).
    """
    image_BCHW = image_BCHW.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(image_BCHW).sum(), image_BCHW, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
