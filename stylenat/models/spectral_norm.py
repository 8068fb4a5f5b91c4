"""Spectral norm, its power iteration in the order of the published models.

`torch.nn.utils.parametrizations.spectral_norm` steps u before v. The spectral norm that the
published discriminators were trained with (`torch.nn.utils.spectral_norm`, now deprecated) steps v
before u. Both converge to the same vectors. But from the vectors of a checkpoint, only the second
continues the published training.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from stylenat.models.layers import without_autocast

M = TypeVar("M", bound=nn.Module)

EPS = 1e-12
FIRST_STEPS = 15


class SpectralNorm(nn.Module):
    """Weight [O, ...] -> weight / sigma, sigma its largest singular value as an [O, rest] matrix.

    sigma is `u . W v`, u [O] and v [rest] being estimates of the singular vectors, which every
    forward pass in training takes one power-iteration step further (arXiv 1802.05957, algorithm 1).
    The buffers are named as in PyTorch's own parametrization. Autocast does not reach sigma.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("_u", functional.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("_v", functional.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(FIRST_STEPS):
            self._step(matrix)

    @torch.no_grad()
    def _step(self, matrix: Tensor) -> None:
        self._v.copy_(functional.normalize(matrix.mT @ self._u, dim=0, eps=EPS))
        self._u.copy_(functional.normalize(matrix @ self._v, dim=0, eps=EPS))

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight.device):
            matrix = weight.flatten(1)
            if self.training:
                self._step(matrix.detach())
            # Copies: the next forward pass may change the buffers before this one's backward pass.
            u, v = self._u.clone(), self._v.clone()
            return weight / torch.dot(u, matrix @ v)


def spectral_norm(module: M) -> M:
    """Register `SpectralNorm` on the module's weight, and return the module."""
    weight = cast(Tensor, module.weight)
    parametrize.register_parametrization(module, "weight", SpectralNorm(weight))
    return module
