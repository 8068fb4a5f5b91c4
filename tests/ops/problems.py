"""The grid of problems that every backend answers, and what `reference` says of them in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ops.neighborhood import HeadGroup, backends, neighborhood_attention_2d

NAMES = ("out", "dq", "dk", "dv", "drpb")


@dataclass(frozen=True)
class Case:
    """`B x H x W`, head_dim, and (heads, kernel_size, dilation) of each group."""

    size: tuple[int, int, int]
    head_dim: int
    groups: tuple[tuple[int, int, int], ...]
    rpb: bool = True
    scale: float | None = None

    def __str__(self) -> str:
        groups = "+".join("h{}k{}d{}".format(*group) for group in self.groups)
        extra = ("" if self.rpb else "-norpb") + ("" if self.scale is None else "-scaled")
        return f"{'x'.join(map(str, self.size))}-{self.head_dim}-{groups}{extra}"


GRID = (
    # sizes: as large as the window, not square, not divisible by the dilation, wide, one vector + 1
    Case((1, 3, 3), 8, ((1, 3, 1),)),
    Case((2, 7, 9), 8, ((3, 7, 1),)),
    Case((1, 13, 11), 16, ((2, 3, 3),)),
    Case((1, 23, 37), 16, ((2, 7, 3),)),
    Case((1, 7, 130), 8, ((1, 7, 1),)),
    Case((1, 70, 7), 8, ((1, 7, 1),)),
    Case((1, 17, 17), 8, ((2, 5, 1),)),
    # dilations: powers of two with 8 positions left, odd ones, one position of room
    Case((1, 16, 16), 32, ((4, 7, 2),)),
    Case((1, 32, 32), 32, ((2, 7, 4),)),
    Case((1, 56, 64), 8, ((1, 7, 8),)),
    Case((1, 29, 31), 8, ((2, 5, 5),)),
    Case((1, 15, 22), 8, ((17, 3, 2),)),
    # several tiles in both directions, which share keys
    Case((1, 140, 150), 32, ((1, 7, 1),)),
    Case((1, 150, 140), 32, ((1, 7, 2),)),
    # kernels 3 to 13 and beyond
    Case((2, 12, 14), 8, ((2, 9, 1),)),
    Case((1, 23, 24), 16, ((2, 11, 2),)),
    Case((1, 40, 28), 16, ((2, 13, 2),)),
    Case((1, 30, 33), 8, ((1, 13, 1),)),
    Case((1, 34, 33), 4, ((1, 31, 1),)),
    # head dims: small, odd, beyond a vector, large
    Case((1, 9, 10), 4, ((2, 3, 1),)),
    Case((1, 9, 10), 5, ((2, 3, 1),)),
    Case((1, 9, 10), 24, ((2, 5, 1),)),
    Case((2, 9, 10), 64, ((2, 5, 1),)),
    Case((1, 15, 16), 128, ((1, 7, 2),)),
    # groups: uneven heads, several kernels and dilations, one head each
    Case((2, 16, 14), 8, ((1, 3, 1), (3, 7, 2), (2, 5, 1))),
    Case((1, 32, 24), 16, ((3, 7, 1), (3, 7, 2), (4, 7, 3))),
    Case((1, 13, 13), 8, ((1, 3, 1), (1, 3, 2), (1, 3, 3), (1, 3, 4))),
    # no bias; a scale of one's own
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), rpb=False),
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), scale=0.7),
)


@dataclass(frozen=True)
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor
    groups: tuple[HeadGroup, ...]
    rpb: list[Tensor] | None
    dout: Tensor
    scale: float | None


def lift_limits(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Lets a backend take any device, dtype and head_dim, and asks for no software."""
    limits = {
        "checked_by": None,
        "device_type": None,
        "dtypes": None,
        "max_head_dim": None,
        "max_kernel_size": None,
    }
    rows = [
        dataclasses.replace(row, **limits) if row.name == name else row for row in backends.BACKENDS
    ]
    monkeypatch.setattr(backends, "BACKENDS", tuple(rows))


def draw(
    case: Case, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
) -> Inputs:
    """Random tensors of a case: exact in `dtype`, so that every precision sees the same numbers,
    and the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    groups = tuple(HeadGroup(*group) for group in case.groups)
    shape = (*case.size, sum(group.heads for group in groups), case.head_dim)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    q, k, v, dout = (randn(*shape) for _ in range(4))
    rpb = [randn(*group.rpb_shape) for group in groups] if case.rpb else None
    return Inputs(q, k, v, groups, rpb, dout, case.scale)


def run(inputs: Inputs, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and every gradient of one call in `dtype`, as float64. rpb stays float32 or better."""
    bias_dtype = torch.promote_types(dtype, torch.float32)
    qkv = [x.to(dtype).requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
    rpb = [table.to(bias_dtype).requires_grad_() for table in inputs.rpb or ()]
    out = neighborhood_attention_2d(
        *qkv, inputs.groups, rpb or None, scale=inputs.scale, backend=backend
    )
    grads = torch.autograd.grad(out, [*qkv, *rpb], inputs.dout.to(dtype))
    values = dict(zip(NAMES, (out, *grads[:3]), strict=False))
    if rpb:
        values["drpb"] = torch.cat([grad.flatten() for grad in grads[3:]])
    return {name: value.detach().double() for name, value in values.items()}


def run_forward(inputs: Inputs, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output of one call in `dtype`, as `run` gives it."""
    bias_dtype = torch.promote_types(dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in (inputs.q, inputs.k, inputs.v))
    rpb = [table.to(bias_dtype) for table in inputs.rpb or ()]
    out = neighborhood_attention_2d(
        q, k, v, inputs.groups, rpb or None, scale=inputs.scale, backend=backend
    )
    return {"out": out.double()}


def errors(
    case: Case, backend: str, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, tuple[float, float]]:
    """For output and gradients: the backend's largest error, and twice the reference's own.

    Both are measured in `dtype` against the reference in float64. The largest of few errors is
    itself noisy, so the second is at least two units in the last place of the largest value, which
    is what rounding a value, and the sum it comes from, once each may cost.
    """
    inputs = draw(case, dtype, device=device)
    exact = run(inputs, "reference", torch.float64)
    has_gradient = next(row for row in backends.BACKENDS if row.name == backend).has_gradient
    forward_or_both = run if has_gradient else run_forward
    got, plain = forward_or_both(inputs, backend, dtype), run(inputs, "reference", dtype)
    result = {}
    for name in got:
        truth = exact[name]
        floor = 2 * torch.finfo(dtype).eps * truth.abs().max().item()
        allowed = max(2 * (plain[name] - truth).abs().max().item(), floor)
        result[name] = ((got[name] - truth).abs().max().item(), allowed)
    return result
