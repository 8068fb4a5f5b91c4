"""The attention operation by itself: every backend that runs here, at the levels of FFHQ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.neighborhood import BACKENDS, HeadGroup, neighborhood_attention_2d
from ops.neighborhood.problem import describe
from stylenat.benchmarks.flex import compiled_flex
from stylenat.benchmarks.report import Report, Timing, measure, measure_ceilings

# (side, groups); all with head_dim 32 and one image.
SHAPES = (
    (64, (HeadGroup(16, 7, 8),)),
    (64, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 8))),
    (256, (HeadGroup(4, 7, 1),)),
    (256, (HeadGroup(4, 7, 32),)),
    (256, (HeadGroup(2, 7, 1), HeadGroup(2, 7, 32))),
    (128, (HeadGroup(4, 7, 1), HeadGroup(4, 7, 16))),
    (32, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 4))),
    (16, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 2))),
)
HEAD_DIM = 32
FLEX_SIDE = 64  # FlexAttention on the CPU takes seconds above, and many minutes to build its mask
REFERENCE_SIDE = 64


def bench_op(*, repeats: int) -> Report:
    """Forward and forward plus backward of every backend, with bias, on the CPU.

    FLOP count the two products of the forward pass: 4 * pixels * heads * kernel_size**2 * head_dim.
    """
    report = Report(
        "op-cpu",
        "Neighborhood attention with bias, head_dim 32, one image, CPU",
        ("shape", "dtype", "backend", "forward_ms", "least_ms", "with_backward_ms", "gflops"),
        measure_ceilings(),
    )
    for side, groups in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            _bench_shape(report, side, groups, dtype, repeats)
    first = {row["backend"]: row["forward_ms"] for row in report.rows[:3]}
    if "flex" in first and "cpu" in first:
        ratio = first["flex"] / first["cpu"]
        report.notes.append(f"cpu against compiled FlexAttention, first shape: {ratio:.0f} times.")
    return report


def _bench_shape(
    report: Report, side: int, groups: Sequence[HeadGroup], dtype: torch.dtype, repeats: int
) -> None:
    heads = sum(group.heads for group in groups)
    # Views of one tensor, as the qkv projection of a network gives them.
    q, k, v = torch.randn(1, side, side, 3, heads, HEAD_DIM).to(dtype).unbind(3)
    rpb = [torch.randn(group.rpb_shape, requires_grad=True) for group in groups]
    flop = 4 * side**2 * HEAD_DIM * sum(group.heads * group.kernel_size**2 for group in groups)
    shape = f"{side}x{side} " + " + ".join(
        f"{group.heads}h k{group.kernel_size} d{group.dilation}" for group in groups
    )

    def add(backend: str, forward: Timing, both: Timing | None) -> None:
        report.add(
            shape=shape,
            dtype=str(dtype).removeprefix("torch."),
            backend=backend,
            forward_ms=forward.ms,
            least_ms=1e3 * forward.least,
            with_backward_ms=None if both is None else both.ms,
            gflops=flop / forward.median / 1e9,
        )

    problem = describe(q, k, v, groups, rpb)
    for backend in BACKENDS:
        if backend.unsupported(problem) is not None:
            continue
        slow = backend.name == "reference"
        if slow and (side > REFERENCE_SIDE or dtype != torch.float32):
            continue
        forward, both = _time(q, k, v, groups, rpb, backend.name, 3 if slow else repeats)
        add(backend.name, forward, both)
    if side <= FLEX_SIDE and len(groups) == 1 and dtype == torch.float32:
        call = compiled_flex(side, groups[0], rpb[0].detach())
        heads_first = [x.flatten(1, 2).transpose(1, 2).contiguous() for x in (q, k, v)]
        with torch.no_grad():
            add("flex", measure(lambda: call(*heads_first), repeats=3), None)


def _time(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor],
    backend: str,
    repeats: int,
) -> tuple[Timing, Timing]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return neighborhood_attention_2d(q, k, v, groups, rpb, backend=backend)

    with torch.no_grad():
        forward = measure(lambda: attend(q, k, v), repeats=repeats)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    dout = torch.ones(q.shape, dtype=q.dtype)
    both = measure(
        lambda: torch.autograd.grad(attend(*leaves), [*leaves, *rpb], dout), repeats=repeats
    )
    return forward, both
