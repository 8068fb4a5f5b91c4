"""How long a call takes, and how much of a GPU's memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

WARM_UPS = 2
FEWEST = 3  # runs that count, however long they take
CPU = torch.device("cpu")

# A GPU is timed over several runs in a row, so that each is launched while the one before runs.
CUDA_SPAN = 0.02  # seconds
CUDA_MOST_CALLS = 50


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: median, least and most."""

    median: float
    least: float
    most: float

    @property
    def ms(self) -> float:
        return 1e3 * self.median


def measure(
    run: Callable[[], object],
    *,
    repeats: int,
    device: torch.device = CPU,
    most_seconds: float = 60.0,
) -> Timing:
    """The time of `run`, measured `repeats` times after two runs that do not count.

    On a CPU it is the wall clock's. On a GPU it is measured between two events on the stream, as a
    mean over as many runs as take 20 ms. After `most_seconds`, three measurements are enough.
    """
    for _ in range(WARM_UPS):
        run()
    calls = 1
    if device.type == "cuda":
        calls = min(CUDA_MOST_CALLS, max(1, int(CUDA_SPAN / _seconds(run, 1, device))))
    start = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < repeats:
        seconds.append(_seconds(run, calls, device))
        if len(seconds) >= FEWEST and time.perf_counter() - start > most_seconds:
            break
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def _seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds per run, as a mean over `calls` of them."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / calls
    before = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - before) / calls


def reset_peak_memory(device: torch.device) -> None:
    """Start to measure `peak_memory_mb` anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """The most that tensors on a GPU have held, weights and inputs included; None for the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 1e6
