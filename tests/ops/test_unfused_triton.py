"""The unfused Triton kernels where no GPU is: interpreted, and compiled ahead of time."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_neighborhood_triton import elsewhere

COMPILE = """
from tools.compile_triton import compile_unfused_kernels
import torch
for architecture in (80, 90):
    for kernel in compile_unfused_kernels(architecture, torch.bfloat16, 32, 7):
        print(kernel.kernel, kernel.registers, kernel.spilled_bytes, kernel.shared_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the grid runs the compiled kernels")
def test_the_unfused_kernels_interpreted():
    result = elsewhere(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        "tests/ops/unfused_triton_interpreted.py",
        TRITON_INTERPRET="1",
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.slow
def test_the_unfused_kernels_compile_for_ampere_and_hopper_without_spilling():
    result = elsewhere("-c", COMPILE)
    assert result.returncode == 0, result.stderr[-4000:]
    rows = [line.split() for line in result.stdout.splitlines()]
    names = ["query_key", "gather", "scatter", "bias_gradient"]
    assert [row[0] for row in rows] == names * 2
    for kernel, registers, spilled_bytes, shared_bytes in rows:
        assert int(spilled_bytes) == 0, kernel
        assert 0 < int(registers) <= 255, kernel
        assert int(shared_bytes) <= 99 * 1024, kernel  # what the smallest GPUs of that age have
