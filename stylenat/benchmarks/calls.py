"""One call of the attention operation: its tensors, its cost, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.backends import Backend
from ops.neighborhood.problem import describe
from stylenat.benchmarks.timing import Timing, measure, peak_memory_mb, reset_peak_memory

HEAD_DIM = 32

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """q, k and v [B, H, W, N, D], as views of one tensor, and a bias table for each group."""

    side: int
    groups: tuple[HeadGroup, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    rpb: list[Tensor]

    @classmethod
    def draw(
        cls,
        side: int,
        groups: tuple[HeadGroup, ...],
        *,
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Call:
        heads = sum(group.heads for group in groups)
        # Views of one tensor, as the qkv projection of a network gives them.
        qkv = torch.randn(batch, side, side, 3, heads, HEAD_DIM, device=device).to(dtype)
        rpb = [torch.randn(group.rpb_shape, device=device, requires_grad=True) for group in groups]
        q, k, v = qkv.unbind(3)
        return cls(side, groups, q, k, v, rpb)

    def __str__(self) -> str:
        return shape_name(self.side, self.groups)

    @property
    def flop(self) -> int:
        """The two products of the forward pass."""
        keys = sum(group.heads * group.kernel_size**2 for group in self.groups)
        return 4 * len(self.q) * self.side**2 * HEAD_DIM * keys

    @property
    def bytes(self) -> int:
        """What a forward pass has to move: it reads q, k and v and writes the output, once each."""
        return 4 * self.q.numel() * self.q.element_size()

    def attend(self, backend: str, *, bias: bool = True) -> Attend:
        tables = self.rpb if bias else None
        return lambda q, k, v: neighborhood_attention_2d(
            q, k, v, self.groups, tables, backend=backend
        )

    def unsupported(self, backend: Backend, *, bias: bool = True) -> str | None:
        problem = describe(self.q, self.k, self.v, self.groups, self.rpb if bias else None)
        return backend.unsupported(problem)


def shape_name(side: int, groups: Sequence[HeadGroup]) -> str:
    """A map and its head groups, as tables write them: 16x16 8h k7 d1 + 8h k7 d2."""
    dealt = " + ".join(f"{g.heads}h k{g.kernel_size} d{g.dilation}" for g in groups)
    return f"{side}x{side} {dealt}"


def time_call(
    device: torch.device,
    call: Call,
    attend: Attend,
    learned: Sequence[Tensor],
    *,
    repeats: int,
    backward: bool = True,
) -> tuple[Timing, Timing | None, float | None]:
    """The time of a forward pass, of forward plus backward, and a GPU's peak memory in MB.

    The backward pass computes the gradients of q, k, v and `learned` from one of ones.
    """
    reset_peak_memory(device)
    q, k, v = call.q, call.k, call.v
    with torch.no_grad():
        forward = measure(lambda: attend(q, k, v), repeats=repeats, device=device)
    if not backward:
        return forward, None, peak_memory_mb(device)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    dout = torch.ones_like(q)
    both = measure(
        lambda: torch.autograd.grad(attend(*leaves), [*leaves, *learned], dout),
        repeats=repeats,
        device=device,
    )
    return forward, both, peak_memory_mb(device)
