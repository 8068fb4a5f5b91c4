"""What the attention operation costs per token, from 64x64 to 1024x1024 tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ops.neighborhood import HeadGroup
from ops.neighborhood.backends import choose
from ops.neighborhood.problem import describe
from stylenat.benchmarks.calls import Call, time_call
from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.report import Report
from stylenat.precision import TRAINED, name_of

SIDES = (64, 128, 256, 512, 1024)
COLUMNS = (
    "side",
    "batch",
    "dilation",
    "dtype",
    "backend",
    "forward_ms",
    "forward_least_ms",
    "forward_most_ms",
    "forward_ns_per_token",
    "with_backward_ms",
    "with_backward_least_ms",
    "with_backward_most_ms",
    "with_backward_ns_per_token",
    "memory_mb",
)


def bench_tokens(*, device: torch.device, repeats: int, max_side: int = SIDES[-1]) -> Report:
    """Nanoseconds per token of four heads, two with dilation 1, two spread over 7/8 of the map.

    It has a bias, and runs by the backend that `auto` takes. Each map is measured with one image,
    and with as many as have the largest map's number of tokens, so that only the side differs.
    """
    report = Report(
        "tokens",
        "Neighborhood attention with bias a token, 2 + 2 heads of 32, kernel 7, dilations 1 and "
        "side/8",
        COLUMNS,
        measure_ceilings(device),
        device,
    )
    sides = [side for side in SIDES if side <= max_side]
    with report.until_interrupted():
        for dtype in TRAINED:
            for side in sides:
                for batch in sorted({1, (sides[-1] // side) ** 2}):
                    _bench(report, side, batch, dtype, repeats)
    report.notes += flatness(report.rows)
    return report


def _bench(report: Report, side: int, batch: int, dtype: torch.dtype, repeats: int) -> None:
    groups = (HeadGroup(2, 7, 1), HeadGroup(2, 7, side // 8))
    call = Call.draw(side, groups, batch=batch, dtype=dtype, device=report.device)
    backend = choose(describe(call.q, call.k, call.v, groups, call.rpb), "auto").name
    forward, both, memory = time_call(
        report.device, call, call.attend(backend), call.rpb, repeats=repeats
    )
    assert both is not None
    tokens = batch * side**2
    report.add(
        side=side,
        batch=batch,
        dilation=side // 8,
        dtype=name_of(dtype),
        backend=backend,
        forward_ms=forward.ms,
        forward_least_ms=1e3 * forward.least,
        forward_most_ms=1e3 * forward.most,
        forward_ns_per_token=1e9 * forward.median / tokens,
        with_backward_ms=both.ms,
        with_backward_least_ms=1e3 * both.least,
        with_backward_most_ms=1e3 * both.most,
        with_backward_ns_per_token=1e9 * both.median / tokens,
        memory_mb=memory,
    )


def flatness(rows: Sequence[dict[str, Any]]) -> list[str]:
    """For each dtype and kind of batch, a sentence: the cheapest and the dearest token."""
    constant = max((row["batch"] * row["side"] ** 2 for row in rows), default=0)
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "one image": lambda row: row["batch"] == 1,
        f"{constant:,} tokens": lambda row: row["batch"] * row["side"] ** 2 == constant,
    }
    sentences = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for kind, belongs in kinds.items():
            chosen = [row for row in rows if row["dtype"] == dtype and belongs(row)]
            if not chosen:
                continue
            parts = [
                f"{part.replace('_', ' ')} {_range([r[f'{part}_ns_per_token'] for r in chosen])}"
                for part in ("forward", "with_backward")
            ]
            sides = f"{chosen[0]['side']} to {chosen[-1]['side']}"
            sentences.append(f"{dtype}, {kind}, {sides}: {', '.join(parts)}.")
    return sentences


def _range(values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    return f"{least:.3g} to {most:.3g} ns a token ({most / least - 1:.0%} apart)"
