"""A step of training never makes the process wait for the device that computes it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from stylenat.copies import Later, to_device
from stylenat.training import loop
from tests.training.tiny import ROOT, environment, tiny
from tests.training.waits import STEPS, waits_of_a_run


@pytest.mark.parametrize("augment", ["none", "diffaugment"])
def test_an_ordinary_step_waits_for_nothing(tmp_path, augment):
    """Nor does a line of statistics, which each of these steps writes, or the stop signals."""
    assert waits_of_a_run(tmp_path / "run", augment=augment) == {}


def test_a_step_that_asks_is_found(tmp_path, monkeypatch):
    """The check can fail: one more question in every step is seen."""
    g_step = loop.g_step

    def asking(*arguments: object):
        losses = g_step(*arguments)
        assert losses["loss_g"].item() > 0
        return losses

    monkeypatch.setattr(loop, "g_step", asking)
    found = waits_of_a_run(tmp_path / "run")
    assert found == {step: ["_local_scalar_dense"] for step in range(STEPS - 1)}


@pytest.mark.slow
def test_a_step_on_two_ranks_waits_for_nothing_but_the_other_rank(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.waits", tmp_path / "run"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_what_is_read_later_is_what_it_was():
    assert Later(torch.tensor([1.5, 2])).read().tolist() == [1.5, 2]


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_copy_to_the_device_keeps_values_and_converts_if_asked(dtype):
    copied = to_device(torch.tensor([1.5, 2]), torch.device("cpu"), dtype)
    assert copied.dtype == (dtype or torch.float32)
    assert copied.tolist() == [1.5, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ["none", "diffaugment"])
def test_pytorch_finds_no_wait_in_steps_on_a_gpu(tmp_path, monkeypatch, augment):
    """Its own mode for this raises where a call waits, copies to the GPU included."""
    next_batch, steps = loop.Run.next_batch, []

    def guarded(run, batches):
        torch.cuda.set_sync_debug_mode("default")
        steps.append(run.state.step)
        batch = next_batch(run, batches)
        if 1 < len(steps) < STEPS:  # the first step may set up, and the last one saves
            torch.cuda.set_sync_debug_mode("error")
        return batch

    monkeypatch.setattr(loop.Run, "next_batch", guarded)
    settings = {"total_kimg": STEPS * 8 / 1000, "snapshot_every_kimg": 1, "augment": augment}
    try:
        assert loop.train(tiny(train=settings), tmp_path / "run", torch.device("cuda:0")) is None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == STEPS
