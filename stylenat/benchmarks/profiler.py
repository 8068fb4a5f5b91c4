"""How long each kernel takes, as a table of text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from stylenat.benchmarks.timing import measure

ROWS = 20
RUNS = 3


def time_by_kernel(run: Callable[[], object], title: str, *, device: torch.device) -> str:
    """A table of the kernels (on a CPU: operators) that `run` spends most time in.

    Times and calls are per run. If the kernels add up to less than the run, the device has waited.
    """
    seconds = measure(run, repeats=RUNS, device=device).median
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(RUNS):
            run()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    kernels = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in profiler.key_averages()
        if event.device_type == kind
    ]
    kernels.sort(key=lambda kernel: -kernel[0])
    total = sum(microseconds for microseconds, _ in kernels) / 1e3 / RUNS
    lines = [
        title,
        f"{1e3 * seconds:.2f} ms a run; in {len(kernels)} kinds of kernels {total:.2f} ms "
        f"({total / 1e3 / seconds:.0%} of it)",
        f"{'share':>6}  {'ms':>9}  {'calls':>6}  kernel",
    ]
    for microseconds, event in kernels[:ROWS]:
        ms = microseconds / 1e3 / RUNS
        share = f"{ms / max(total, 1e-9):.1%}"
        lines.append(f"{share:>6}  {ms:9.3f}  {event.count / RUNS:6.0f}  {event.key[:120]}")
    return "\n".join(lines)
