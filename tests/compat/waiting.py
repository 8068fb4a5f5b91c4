"""Weights that wait, on one small problem: what the tests of deferred weights share."""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.compat import functional

SHAPE = (2, 3, 7, 9, 4)
WINDOW = (3, 2)
EXACT = {"atol": 1e-6, "rtol": 1e-5}  # float32 sums in another order


def draw(*, grad: bool = False) -> list[Tensor]:
    """Query, key, value and bias, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    shapes = [SHAPE] * 3 + [(3, 5, 5)]
    return [torch.randn(s, generator=generator).requires_grad_(grad) for s in shapes]


def logits(q: Tensor, k: Tensor, rpb: Tensor | None = None) -> Tensor:
    return functional.na2d_qk(q, k, *WINDOW, rpb=rpb)


def attend(weights: Tensor, v: Tensor) -> Tensor:
    return functional.na2d_av(weights, v, *WINDOW)
