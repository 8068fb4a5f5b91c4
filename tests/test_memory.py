"""Freed memory stays in the process where it was asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, torch
from stylenat.memory import keep_freed_memory
kept = KEEP and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(24 * 2**20)  # 96 MiB: 24,576 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(15):
    last = faults()
print(kept, last)
"""


def faults_of_a_tensor(keep: bool) -> tuple[str, int]:
    result = subprocess.run(
        [sys.executable, "-c", FAULTS.replace("KEEP", str(keep))],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = result.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_large_tensors_in_kept_memory_come_to_cost_no_page_faults():
    kept, faults = faults_of_a_tensor(keep=True)
    if kept != "True":
        pytest.skip("this C library has no mallopt")
    assert faults < 100
    assert faults_of_a_tensor(keep=False)[1] > 10 * max(faults, 1)
