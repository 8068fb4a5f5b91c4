"""Joining other ranks, and leaving them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LEAVES = """
import os, torch
from stylenat.distributed import barrier, process_group

def threads():
    names = (open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task"))
    return [name for name in names if "gloo" in name]

with process_group(torch.device("cpu")):
    import torch._dynamo
    barrier()
    print(len(threads()))
print(len(threads()))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at Linux's list of threads")
def test_leaving_ends_the_threads_that_wait_for_other_ranks():
    """One that is still busy when Python ends aborts the process, after all its work is done."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LEAVES],
        cwd=ROOT,
        env=os.environ | alone,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    inside, after = map(int, done.stdout.split())
    assert inside > 0
    assert after == 0
