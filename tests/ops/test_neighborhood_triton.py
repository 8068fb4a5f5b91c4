"""The Triton backend where no GPU is: its plan, its kernels interpreted, and compiled ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.neighborhood import HeadGroup
from ops.neighborhood.impl.triton.plan import (
    COLUMNS,
    TILE,
    plan_columns,
    plan_tiles,
    reached_keys,
    reaching_queries,
)
from ops.neighborhood.window import window_indices

ROOT = Path(__file__).parents[2]
GROUPS = (HeadGroup(1, 3), HeadGroup(2, 7, 2), HeadGroup(1, 5, 3))
COMPILE = """
from tools.compile_triton import compile_kernels
import torch
for architecture in (80, 90):
    for kernel in compile_kernels(architecture, torch.bfloat16, 32, 7):
        print(kernel.kernel, kernel.registers, kernel.spilled_bytes, kernel.shared_bytes)
"""


def elsewhere(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def tiles_of(plan, tiles_a_program):
    """(head, row, column, dilation) of every tile's first pixel, as kernels.py finds them."""
    rows = [plan.layout[i : i + COLUMNS] for i in range(0, len(plan.layout), COLUMNS)]
    for program in range(plan.programs):
        row = max((row for row in rows if row[0] <= program), key=lambda row: row[0])
        first, first_head, heads, _, dilation, tiles_y, tiles_x, _, _ = row
        head, rest = (program - first) % heads, (program - first) // heads
        shift_x, rest = rest % dilation, rest // dilation
        tile_x, chunk = rest % tiles_x, rest // tiles_x
        begin = chunk * tiles_a_program
        for tile in range(begin, min(begin + tiles_a_program, tiles_y * dilation)):
            shift_y, tile_y = tile % dilation, tile // dilation
            yield (
                first_head + head,
                shift_y + tile_y * TILE * dilation,
                shift_x + tile_x * TILE * dilation,
                dilation,
            )


@pytest.mark.parametrize("batch", [None, 1, 4000])
def test_every_pixel_of_every_head_belongs_to_one_tile(batch):
    height, width = 23, 41
    if batch is None:
        plan = plan_tiles(GROUPS, height, width)
    else:
        plan = plan_columns(GROUPS, height, width, batch)
        assert plan.tiles_a_program == (1 if batch == 1 else 16)
    seen = torch.zeros(4, height, width, dtype=torch.int64)
    for head, y, x, dilation in tiles_of(plan, plan.tiles_a_program):
        reach = TILE * dilation
        seen[head, y : y + reach : dilation, x : x + reach : dilation] += 1
    assert seen.unique().tolist() == [1]


@pytest.mark.parametrize("kernel_size", [3, 7, 13])
@pytest.mark.parametrize("length", [13, 14, 21, 40])
def test_a_tiles_halo_is_what_its_windows_hold_and_nothing_less(length, kernel_size):
    keys, _ = window_indices(length, kernel_size, 1, torch.device("cpu"))
    for first in range(0, length, TILE):
        last = min(first + TILE, length) - 1
        held = keys[first : last + 1]
        low, high = reached_keys(first, last, length, kernel_size)
        assert (low, high) == (held.min().item(), held.max().item() + 1)
        holds = ((keys >= first) & (keys <= last)).any(dim=1).nonzero()
        low, high = reaching_queries(first, last, length, kernel_size)
        assert (low, high) == (holds.min().item(), holds.max().item() + 1)


def test_halos_are_swept_in_the_columns_that_they_need():
    ffhq = (HeadGroup(2, 7), HeadGroup(2, 7, 8))
    assert plan_tiles(ffhq, 64, 64).halo_widths == (16, 8)
    assert plan_tiles(ffhq[:1], 64, 64).halo_widths == (16, 16)
    assert plan_tiles((HeadGroup(1, 13),), 64, 64).halo_widths == (32, 32)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the grid runs the compiled kernels")
def test_the_kernels_interpreted():
    result = elsewhere(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/triton_interpreted.py"),
        TRITON_INTERPRET="1",
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.slow
def test_kernels_of_the_published_models_compile_for_ampere_and_hopper_without_spilling():
    result = elsewhere("-c", COMPILE)
    assert result.returncode == 0, result.stderr[-4000:]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["forward", "backward_queries", "backward_keys"] * 2
    for kernel, registers, spilled_bytes, shared_bytes in rows:
        assert int(spilled_bytes) == 0, kernel
        assert 0 < int(registers) <= 255, kernel
        assert int(shared_bytes) <= 99 * 1024, kernel  # what the smallest GPUs of that age have


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it tunes")
def test_tuning_asks_for_a_gpu():
    result = elsewhere("-m", "tools.tune_triton")
    assert result.returncode == 1
    assert "PyTorch sees none here" in result.stderr


def test_the_interpreter_and_the_compiler_are_not_mixed_up():
    result = elsewhere("-m", "tools.compile_triton", TRITON_INTERPRET="1")
    assert result.returncode == 1
    assert "unset it to compile them" in result.stderr
