"""The speed of the attention operation, by every backend that runs here, at FFHQ's levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ops.neighborhood import BACKENDS, HeadGroup
from stylenat.benchmarks.calls import Attend, Call, time_call
from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.rivals import compiled_flex, dense_attention
from stylenat.precision import TRAINED, name_of

# FFHQ-256's levels; all with head_dim 32.
LEVELS: tuple[tuple[int, tuple[HeadGroup, ...]], ...] = (
    (256, (HeadGroup(2, 7, 1), HeadGroup(2, 7, 32))),
    (128, (HeadGroup(4, 7, 1), HeadGroup(4, 7, 16))),
    (64, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 8))),
    (32, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 4))),
    (16, (HeadGroup(8, 7, 1), HeadGroup(8, 7, 2))),
)
# For a CPU. Of the first, results/README.md has the times of other implementations.
SHAPES = (
    (64, (HeadGroup(16, 7, 8),)),
    (256, (HeadGroup(4, 7, 1),)),
    (256, (HeadGroup(4, 7, 32),)),
    *LEVELS,
)
REFERENCE_SIDE = 64
SLOW_REPEATS = 3
# The largest map for a dense mask, which has side**4 values per head: 34 MB for 16 heads at 32x32
# in bfloat16.
DENSE_SIDE = {"cpu": 32, "cuda": 64}
# The largest map for FlexAttention on a CPU: on larger ones it takes seconds, and many minutes to
# build its mask.
FLEX_SIDE = 64

COLUMNS = (
    "shape",
    "batch",
    "dtype",
    "backend",
    "bias",
    "forward_ms",
    "least_ms",
    "most_ms",
    "with_backward_ms",
    "with_backward_least_ms",
    "with_backward_most_ms",
    "gflops",
    "of_product_ceiling",
    "gbytes",
    "of_copy_ceiling",
    "memory_mb",
)


def bench_op(
    *, device: torch.device, batches: Sequence[int], repeats: int, max_side: int = 1024
) -> Report:
    """The time of forward, and of forward plus backward, of every backend and of its rivals.

    FLOP are those of the forward pass's two products, bytes those of q, k, v and the output.
    `memory_mb` is the peak of forward plus backward on a GPU. `natten` is also measured without a
    bias, since it is made for that.
    """
    report = Report(
        "op", "Neighborhood attention, head_dim 32", COLUMNS, measure_ceilings(device), device
    )
    with report.until_interrupted():
        for side, groups in SHAPES if device.type == "cpu" else LEVELS:
            for batch in batches if side <= max_side else ():
                for dtype in TRAINED:
                    call = Call.draw(side, groups, batch=batch, dtype=dtype, device=device)
                    _bench_backends(report, call, repeats)
                    _bench_rivals(report, call, repeats)
    report.notes += [*_natten_notes(report.rows), *_flex_notes(report.rows)]
    return report


def _bench_backends(report: Report, call: Call, repeats: int) -> None:
    for backend in BACKENDS:
        is_slow = backend.name == "reference"
        if is_slow and (call.side > REFERENCE_SIDE or call.q.dtype != torch.float32):
            continue
        for bias in (True, False) if backend.name == "natten" else (True,):
            if call.unsupported(backend, bias=bias) is None:
                count = min(SLOW_REPEATS, repeats) if is_slow else repeats
                attend = call.attend(backend.name, bias=bias)
                _bench(report, call, backend.name, attend, count, bias=bias)


def _bench_rivals(report: Report, call: Call, repeats: int) -> None:
    """Measure PyTorch's attention with a dense mask, and on a CPU its FlexAttention."""
    q, k, v = (x.flatten(1, 2).transpose(1, 2).contiguous() for x in (call.q, call.k, call.v))
    swapped = Call(call.side, call.groups, q, k, v, call.rpb)
    rpb = [table.detach() for table in call.rpb]
    count = min(SLOW_REPEATS, repeats)
    if call.side <= DENSE_SIDE[report.device.type]:
        dense = dense_attention(call.side, call.groups, rpb, call.q.dtype)
        _bench(report, swapped, "dense mask", dense, count, of=call, tables=False)
    is_first = len(call.groups) == 1 and call.side <= FLEX_SIDE and len(call.q) == 1
    if report.device.type == "cpu" and is_first and call.q.dtype == torch.float32:
        flex = compiled_flex(call.side, call.groups[0], rpb[0])
        _bench(report, swapped, "flex", flex, count, of=call, backward=False)


def _bench(
    report: Report,
    call: Call,
    name: str,
    attend: Attend,
    repeats: int,
    *,
    bias: bool = True,
    tables: bool = True,
    backward: bool = True,
    of: Call | None = None,
) -> None:
    """Add a row of `attend` on the call's tensors. With `tables` the biases get gradients too."""
    call_of_row = call if of is None else of
    learned = call.rpb if bias and tables else []
    try:
        forward, both, memory = time_call(
            report.device, call, attend, learned, repeats=repeats, backward=backward
        )
    except Exception as error:  # if one backend fails, the others still get their rows
        reason = str(error).strip().splitlines() or [type(error).__name__]
        report.notes.append(f"{name} failed at {call_of_row}, {call.q.dtype}: {reason[0]}")
        return
    ceilings = report.ceilings
    flops, moved = call_of_row.flop / forward.median, call_of_row.bytes / forward.median
    report.add(
        shape=str(call_of_row),
        batch=len(call.q),
        dtype=name_of(call.q.dtype),
        backend=name,
        bias=bias,
        forward_ms=forward.ms,
        least_ms=1e3 * forward.least,
        most_ms=1e3 * forward.most,
        with_backward_ms=None if both is None else both.ms,
        with_backward_least_ms=None if both is None else 1e3 * both.least,
        with_backward_most_ms=None if both is None else 1e3 * both.most,
        gflops=flops / 1e9,
        of_product_ceiling=flops / ceilings.flops(call.q.dtype),
        gbytes=moved / 1e9,
        of_copy_ceiling=moved / ceilings.copied_bytes,
        memory_mb=memory,
    )


# Comparisons


def triton_over_natten(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int, str, str], float]:
    """How many times as long `triton` with bias takes as `natten` without it.

    Only of calls that both can run; by shape, batch, dtype, and `forward` or `with_backward`.
    """
    ours: dict[tuple[str, int, str, str], float] = {}
    theirs: dict[tuple[str, int, str, str], float] = {}
    for row in rows:
        for part in ("forward", "with_backward"):
            key = (row["shape"], row["batch"], row["dtype"], part)
            if row["backend"] == "triton" and row["bias"]:
                ours[key] = row[f"{part}_ms"]
            elif row["backend"] == "natten" and not row["bias"]:
                theirs[key] = row[f"{part}_ms"]
    return {key: ours[key] / theirs[key] for key in ours if key in theirs}


def _natten_notes(rows: Iterable[dict[str, Any]]) -> list[str]:
    ratios = triton_over_natten(rows)
    return [
        f"triton with bias takes {ratio:.2f} times as long as natten without, "
        f"{part.replace('_', ' ')}: {shape}, batch {batch}, {dtype}."
        for (shape, batch, dtype, part), ratio in ratios.items()
    ]


def _flex_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    first = {row["backend"]: row["forward_ms"] for row in rows if row["shape"] == rows[0]["shape"]}
    if "flex" not in first or "cpu" not in first:
        return []
    ratio = first["flex"] / first["cpu"]
    return [f"cpu against compiled FlexAttention, first shape: {ratio:.0f} times."]
