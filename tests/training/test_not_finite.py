"""NaN and infinity in a loss or a gradient: no rank takes the step, and it is written down."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylenat.data import open_images
from stylenat.data.loader import training_samples
from stylenat.training import steps
from stylenat.training.checkpoint import checkpoints, load_checkpoint
from stylenat.training.gradients import Gradients
from stylenat.training.loop import train
from stylenat.training.report import Averages
from stylenat.training.steps import d_step, g_step, penalty_step
from tests.training.spoil import LOSSES, check_unchanged, spoiled_gradient, spoiled_loss
from tests.training.test_loop import statistics
from tests.training.test_steps import moved, state_and_inputs
from tests.training.tiny import ROOT, environment, tiny

CPU = torch.device("cpu")
STEPS = {"d": d_step, "penalty": penalty_step, "g": g_step}


@pytest.fixture(params=[False, True], ids=["plain Adam", "fused Adam"])
def trained(request: pytest.FixtureRequest) -> tuple:
    """A state after one whole step; fused Adam is what GPUs use, and reads the flag itself."""
    state, batch, config = state_and_inputs()
    for optimizer in (state.optimizer_g, state.optimizer_d):
        optimizer.defaults["fused"] = request.param
        optimizer.param_groups[0]["fused"] = request.param
    for step in STEPS.values():
        step(state, batch, config)
    return state, batch, config


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30], ids=str)
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_not_finite_changes_nothing(trained, monkeypatch, name, where, value):
    """Nor does a gradient whose square is infinite: it would freeze Adam's second moment."""
    state, batch, config = trained
    before = copy.deepcopy(state.state_dict())
    with monkeypatch.context() as patch:
        if where == "gradient":
            patch.setattr(Gradients, "average", spoiled_gradient(value))
        else:
            loss = spoiled_loss(getattr(steps, LOSSES[name]), value * 1e30)
            patch.setattr(steps, LOSSES[name], loss)
        losses = STEPS[name](state, batch, config)
    assert not losses[f"grad_norm_{name}"].isfinite()
    check_unchanged(before, state.state_dict())
    # The next step is taken.
    middle = copy.deepcopy(state)
    assert STEPS[name](state, batch, config)[f"grad_norm_{name}"].isfinite()
    network = "G" if name == "g" else "D"
    assert moved(getattr(middle, network), getattr(state, network)) > 0


def test_fused_and_plain_adam_agree_on_a_finite_step(monkeypatch):
    """The flag that is handed over changes nothing where it is not set."""
    states = []
    for fused in (False, True):
        state, batch, config = state_and_inputs()
        state.optimizer_g.defaults["fused"] = state.optimizer_g.param_groups[0]["fused"] = fused
        g_step(state, batch, config)
        states.append(state.G)
        assert not hasattr(state.optimizer_g, "found_inf")
    assert moved(*states) < 1e-7


def test_spectral_norm_vectors_follow_the_weights_alone():
    """Images that are NaN leave them as images that are not do."""
    states = []
    for value in (0.0, math.nan):
        state, batch, config = state_and_inputs()
        batch.real.fill_(value)
        d_step(state, batch, config)
        states.append(state.D.state_dict())
    vectors = [key for key in states[0] if key.endswith(("._u", "._v"))]
    assert vectors
    for key in vectors:
        assert torch.equal(states[0][key], states[1][key]), key


def test_averages_leave_out_what_is_not_finite():
    averages = Averages()
    for value in (1.0, math.nan, 3.0):
        averages.add({"a": torch.tensor(value), "b": torch.tensor(math.inf)})
    assert averages.take().read() == {"a": 2.0}


# In a run


def spoil(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """The steps in `bad` have a NaN in D's loss."""
    losses = steps.d_losses

    def d_losses(state, *arguments: object):
        spoiled = spoiled_loss(losses, math.nan) if state.step in bad else losses
        return spoiled(state, *arguments)

    monkeypatch.setattr(steps, "d_losses", d_losses)


def faults(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "faults.jsonl").read_text().splitlines()]


def test_the_images_and_seed_of_a_step_that_was_not_taken_are_written_down(tmp_path, monkeypatch):
    spoil(monkeypatch, {2})
    run = tmp_path / "run"
    assert train(tiny(), run, CPU) is None
    (fault,) = faults(run)
    assert (fault["step"], fault["nimg"], fault["seed"], fault["in_a_row"]) == (2, 16, 0, 1)
    assert fault["not_finite"] == ["loss_d", "grad_norm_d"]
    assert fault["losses"]["loss_d"] == ["nan"]
    assert math.isfinite(fault["losses"]["loss_g"][0])
    source = open_images("faces:64", resolution=16)
    samples = training_samples(range(16, 24), 0, 64, mirror=True)
    assert fault["images"] == [[index, source.name(index)] for index, _ in samples]
    assert fault["mirrored"] == [flipped for _, flipped in samples]
    assert "step 2 was not taken: loss_d, grad_norm_d not finite" in (run / "log.txt").read_text()
    lines = statistics(run)
    assert [line["nimg"] for line in lines] == [8, 16, 24, 32, 40]
    assert [("loss_d" in line) for line in lines] == [True, True, False, True, True]
    content = load_checkpoint(checkpoints(run / "checkpoints")[0])
    assert (content["step"], content["nimg"]) == (5, 40)
    # Two steps of the penalty are Adam's too; of five steps of D one was not taken.
    assert int(content["optimizer_d"]["state"][0]["step"]) == 5 - 1 + 3
    assert int(content["optimizer_g"]["state"][0]["step"]) == 5


def test_ten_in_a_row_end_the_run_with_its_last_good_checkpoint(tmp_path, monkeypatch):
    spoil(monkeypatch, {3, *range(5, 1000)})
    run = tmp_path / "run"
    settings = {"total_kimg": 1, "snapshot_every_kimg": 0.032}
    with pytest.raises(ValueError, match="10 steps in a row had a loss or gradient that is not"):
        train(tiny(train=settings), run, CPU)
    assert [fault["step"] for fault in faults(run)] == [3, *range(5, 15)]
    assert [fault["in_a_row"] for fault in faults(run)] == [1, *range(1, 11)]
    newest = load_checkpoint(checkpoints(run / "checkpoints")[0])
    assert newest["nimg"] == 96
    assert all(x.isfinite().all() for name in ("G", "D", "G_ema") for x in newest[name].values())


def test_nine_in_a_row_do_not_end_the_run(tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(1, 10)))
    assert train(tiny(train={"total_kimg": 0.088}), tmp_path / "run", CPU) is None
    assert len(faults(tmp_path / "run")) == 9


@pytest.mark.slow
def test_one_ranks_nan_keeps_both_ranks_from_the_step(tmp_path):
    """Rank 1 alone has a NaN in D's loss, and an infinite number in G's gradient."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.spoil", tmp_path / "run"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (fault,) = faults(tmp_path / "run")
    assert fault["step"] == 3
    of_rank_0, of_rank_1 = fault["losses"]["loss_d"]
    assert math.isfinite(of_rank_0)
    assert of_rank_1 == "nan"
    assert fault["not_finite"] == ["loss_d", "grad_norm_d", "grad_norm_g"]
