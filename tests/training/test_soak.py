"""A run that goes on and on: neither memory nor open files grow.

STYLENAT_SOAK_SECONDS=1800 python -m pytest -s tests/training/test_soak.py    # half an hour
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import pytest

from tests.training.processes import children, lines_of, started, wait_until
from tests.training.tiny import write_tiny

SECONDS = float(os.environ.get("STYLENAT_SOAK_SECONDS", "20"))
GROWTH = 0.02


def resident_mb(pid: int) -> float:
    """The memory of the process and of those that read images for it."""
    pages = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children(pid))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are(tmp_path):
    """Checkpoint, snapshot, samples, curves every five steps, SWD every ten; a log line a step.

    Medians of the last third against those of the third before it: the first is for warming up.
    """
    run = tmp_path / "run"
    settings = (
        "train.total_kimg=1000000",
        "train.snapshot_every_kimg=0.04",
        "metrics.names=[swd]",
        "metrics.num=16",
        "metrics.every_kimg=0.08",
        "data.workers=1",
    )
    samples: list[tuple[float, int]] = []
    with started("train", write_tiny(tmp_path), *settings, "--run-dir", run) as process:
        wait_until(lambda: lines_of(run) > 20, seconds=300)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert process.poll() is None
            samples.append((resident_mb(process.pid), open_files(process.pid)))
            time.sleep(SECONDS / 300)
        process.send_signal(signal.SIGTERM)
        seconds, errors = process.end(seconds=300)
    third = len(samples) // 3
    (before, files_before), (after, files_after) = (
        (statistics.median(mb for mb, _ in part), statistics.median(files for _, files in part))
        for part in (samples[third : 2 * third], samples[2 * third :])
    )
    print(
        f"\n{SECONDS:g} s, {lines_of(run)} lines of statistics: {before:.1f} -> {after:.1f} MB "
        f"({after / before - 1:+.2%}), {files_before:g} -> {files_after:g} open files; "
        f"stopped in {seconds:.1f} s"
    )
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert after / before - 1 < GROWTH, (before, after)
    assert files_after <= files_before
