"""Times other settings of the kernels on this machine's GPU, at the levels of FFHQ.

`python -m tools.tune_triton [FILE.json]` prints, for each kernel and level, the milliseconds of
every setting that runs. The fastest comes first, and a mark shows that of launch.TUNING. It changes
nothing: what wins goes into TUNING by hand.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ops.neighborhood.problem import HeadGroup

KERNELS = ("forward", "backward_queries", "backward_keys")
SETTINGS = tuple(product((32, 64), (4, 8), (1, 2, 3)))  # BLOCK_N, num_warps, num_stages
# (side, heads of each of two groups, dilation of the second), head_dim 32
LEVELS = ((256, 2, 32), (128, 4, 16), (64, 8, 8), (32, 8, 4))


def tune(
    dtype: torch.dtype = torch.bfloat16, *, batch: int = 8, repeats: int = 20
) -> Iterator[dict[str, Any]]:
    """One row per level, kernel and setting: milliseconds of the kernel's whole pass."""
    from ops.neighborhood.impl.triton import launch

    for side, heads, dilation in LEVELS:
        groups = (HeadGroup(heads, 7), HeadGroup(heads, 7, dilation))
        q, k, v = torch.randn(
            batch, side, side, 3, 2 * heads, 32, dtype=dtype, device="cuda"
        ).unbind(3)
        rpb = [torch.randn(group.rpb_shape, device="cuda", requires_grad=True) for group in groups]
        q.requires_grad_()
        out = launch.attention(q, k, v, groups, rpb, 0.2)

        def forward() -> None:
            with torch.no_grad():
                launch.attention(q, k, v, groups, rpb, 0.2)  # noqa: B023

        def backward() -> None:
            torch.autograd.grad(out, [q, *rpb], out, retain_graph=True)  # noqa: B023

        for kernel in KERNELS:
            run = forward if kernel == "forward" else backward
            shipped = launch.tuning_of(dtype, 32)[kernel]
            for setting in SETTINGS:
                with _setting(launch.tuning_of(dtype, 32), kernel, setting):
                    milliseconds = _time(run, repeats)
                yield {
                    "side": side,
                    "kernel": kernel,
                    "setting": setting,
                    "ms": milliseconds,
                    "is_shipped": setting == shipped,
                }


@contextmanager
def _setting(
    row: dict[str, tuple[int, int, int]], kernel: str, setting: tuple[int, int, int]
) -> Iterator[None]:
    before = row[kernel]
    row[kernel] = setting
    try:
        yield
    finally:
        row[kernel] = before


def _time(run: Callable[[], None], repeats: int) -> float | None:
    """Median milliseconds; None where the setting asks for more than the GPU has."""
    from triton.runtime.errors import OutOfResources

    try:
        for _ in range(3):
            run()
    except OutOfResources:
        return None
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    """See the head of this file."""
    if not torch.cuda.is_available():
        raise SystemExit("tuning times the kernels on an NVIDIA GPU, and PyTorch sees none here")
    rows = [row for row in tune() if row["ms"] is not None]
    rows.sort(key=lambda row: (row["kernel"], row["side"], row["ms"]))
    for row in rows:
        mark = "  <- TUNING" if row["is_shipped"] else ""
        sys.stdout.write(
            f"{row['kernel']:17} {row['side']:4} {row['setting']} {row['ms']:.3f} ms{mark}\n"
        )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
