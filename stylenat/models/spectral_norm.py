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

from ops.operation import operation
from stylenat.models.layers import without_autocast

M = TypeVar("M", bound=nn.Module)

EPS = 1e-12
FIRST_STEPS = 15


@operation("power_iteration")
def power_iteration(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates u [O] and v [rest] of a matrix's singular vectors, one step further.

    To torch.compile it is one node. If it could look inside, it would compute the vectors in the
    buffers themselves, where the next pass changes them before the backward pass has read them.
    """
    v = functional.normalize(matrix.mT @ u, dim=0, eps=EPS)
    return functional.normalize(matrix @ v, dim=0, eps=EPS), v


@torch.library.register_fake(power_iteration)
def _fake(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), u.new_empty(matrix.shape[1])


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
    def _step(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        u, v = power_iteration(matrix, self._u)
        self._u.copy_(u)
        self._v.copy_(v)
        return u, v

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight.device):
            matrix = weight.flatten(1)
            # No buffers: another pass may change them before the backward pass of this one.
            if self.training:
                u, v = self._step(matrix.detach())
            else:
                u, v = self._u.clone(), self._v.clone()
            return weight / torch.dot(u, matrix @ v)


def spectral_norm(module: M) -> M:
    """Register `SpectralNorm` on the module's weight, and return the module."""
    weight = cast(Tensor, module.weight)
    parametrize.register_parametrization(module, "weight", SpectralNorm(weight))
    return module
