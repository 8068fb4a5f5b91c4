"""What one step does: gradients, accumulation, penalties, rates, averages, random numbers."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stylenat.config import TrainConfig
from stylenat.data.plan import BatchPlan
from stylenat.precision import kept_tf32, without_tf32
from stylenat.training.gradients import trainable
from stylenat.training.inputs import step_inputs
from stylenat.training.start import prepare_torch
from stylenat.training.state import (
    TrainingState,
    lr_scale,
    new_state,
    regularized_adam,
    set_learning_rates,
    update_average,
)
from stylenat.training.steps import d_step, g_step, penalty_step
from tests.training.tiny import tiny

CPU = torch.device("cpu")
CUDNN: Any = torch.backends.cudnn


def state_and_inputs(batch: int = 8, **train: object) -> tuple:
    config = tiny(train={"batch": batch, **train})
    state = new_state(config, CPU)
    real = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    return state, step_inputs(real, BatchPlan(len(real)), seed=0, step=0, z_dim=8), config.train


def without_spectral_norm(state: TrainingState) -> TrainingState:
    """D's power iteration stops, which else steps with every pass over a part of the batch."""
    for module in state.D.modules():
        if type(module).__name__ == "SpectralNorm":
            module.eval()
    return state


def moved(before: torch.nn.Module, after: torch.nn.Module) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("step", [d_step, penalty_step])
def test_ds_steps_move_d_alone_and_gs_step_g_alone(step):
    state, batch, config = state_and_inputs()
    before = copy.deepcopy(state)
    step(state, batch, config)
    assert moved(before.D, state.D) > 0
    assert moved(before.G, state.G) == 0
    middle = copy.deepcopy(state.D)
    g_step(state, batch, config)
    assert moved(middle, state.D) == 0
    assert moved(before.G, state.G) > 0
    assert moved(before.G_ema, state.G_ema) == 0


def test_gradients_are_gone_after_a_step():
    state, batch, config = state_and_inputs()
    for step in (d_step, penalty_step, g_step):
        step(state, batch, config)
    for network in (state.G, state.D):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
@pytest.mark.parametrize("r1_every", [1, 2])
def test_accumulated_parts_step_as_the_whole_batch(loss, r1_every):
    """Strided parts keep the minibatch standard deviation over the same groups of images."""
    settings = {"loss": loss, "r1_every": r1_every, "r2_gamma": 1.0}
    state, batch, config = state_and_inputs(16, **settings)
    whole, parts = without_spectral_norm(state), copy.deepcopy(state)
    batch_in_parts = dataclasses.replace(batch, passes=4)
    for step in (d_step, penalty_step, g_step):
        losses, part_losses = step(whole, batch, config), step(parts, batch_in_parts, config)
        assert losses.keys() == part_losses.keys()
        for name in losses:
            assert part_losses[name].item() == pytest.approx(losses[name].item(), rel=1e-4), name


def test_penalty_of_every_step_joins_ds_step():
    state, batch, config = state_and_inputs(r1_every=1)
    assert "r1" in d_step(state, batch, config)
    assert regularized_adam(config) == (config.lr_d, (config.beta1, config.beta2))


def test_lazy_penalty_weighs_as_many_steps_as_it_stands_for():
    """From the same state, twice the interval gives twice the gradient."""
    norms = []
    for r1_every in (2, 4):
        state, batch, config = state_and_inputs(r1_every=r1_every)
        gradients = []
        state.optimizer_d.step = lambda g=gradients, D=state.D: g.extend(
            p.grad.norm().item() for p in D.parameters()
        )
        penalty_step(state, batch, config)
        norms.append(torch.tensor(gradients))
    assert norms[0].max() > 0
    assert torch.allclose(norms[1], 2 * norms[0], rtol=1e-4)


def test_ds_gradient_is_clipped_to_its_limit_and_reported_before():
    state, batch, config = state_and_inputs(grad_clip_d=1e-3)
    norms = []
    state.optimizer_d.step = lambda: norms.append(
        torch.stack([p.grad.norm() for p in state.D.parameters()]).norm().item()
    )
    reported = d_step(state, batch, config)["grad_norm_d"].item()
    assert reported > 1e-2
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_bfloat16_step_is_near_the_float32_step():
    results = []
    for precision in ("float32", "bfloat16"):
        state, batch, config = state_and_inputs(precision=precision)
        losses = d_step(state, batch, config) | penalty_step(state, batch, config)
        losses |= g_step(state, batch, config)
        results.append({name: loss.item() for name, loss in losses.items()})
    assert results[0] != results[1]
    for name in ("loss_d", "loss_g"):
        assert results[1][name] == pytest.approx(results[0][name], rel=2e-2), name


def test_parameters_take_gradients_only_within_the_block():
    module = torch.nn.Linear(1, 1).requires_grad_(False)
    with trainable(module.parameters()):
        assert module.weight.requires_grad
    assert not module.weight.requires_grad


# Random numbers


def test_latents_depend_on_seed_and_step_alone():
    real = torch.zeros(4, 3, 16, 16)
    first = step_inputs(real, BatchPlan(len(real)), seed=0, step=3, z_dim=8)
    torch.manual_seed(99)
    again = step_inputs(real, BatchPlan(len(real)), seed=0, step=3, z_dim=8)
    assert torch.equal(first.z_d, again.z_d)
    assert torch.equal(first.real_draws, again.real_draws)
    for other in (
        step_inputs(real, BatchPlan(len(real)), seed=0, step=4, z_dim=8),
        step_inputs(real, BatchPlan(len(real)), seed=1, step=3, z_dim=8),
    ):
        assert not torch.equal(first.z_g, other.z_g)
    assert not torch.equal(first.z_d, first.z_g)
    assert not torch.equal(first.real_draws, first.fake_draws)


def test_ranks_share_the_latents_of_one_batch():
    one = step_inputs(torch.zeros(8, 3, 16, 16), BatchPlan(8), seed=0, step=3, z_dim=8)
    for rank in range(2):
        plan = BatchPlan(8, rank=rank, world_size=2)
        share = step_inputs(torch.zeros(4, 3, 16, 16), plan, seed=0, step=3, z_dim=8)
        assert torch.equal(share.z_g, one.z_g[rank::2])
        assert torch.equal(share.fake_draws, one.fake_draws[rank::2])


def test_parts_hold_every_image_once():
    real = torch.arange(12.0).view(12, 1, 1, 1)
    batch = step_inputs(real, BatchPlan(12, batch_gpu=4), seed=0, step=0, z_dim=8)
    parts = list(batch.parts())
    assert [len(part.real) for part in parts] == [4, 4, 4]
    assert sorted(torch.cat([part.real for part in parts]).flatten().tolist()) == list(range(12))


# Schedules


def test_rates_fall_linearly_to_zero_over_the_last_images():
    config = TrainConfig(total_kimg=32_000, decay_from_kimg=24_800)
    scales = [lr_scale(config, nimg * 1000) for nimg in (0, 24_800, 28_400, 32_000)]
    assert scales == pytest.approx([1, 1, 0.5, 0])


def test_decay_keeps_ds_lazy_correction():
    state, _, config = state_and_inputs(total_kimg=1.0, decay_from_kimg=0.0, r1_every=16)
    state.nimg = 250
    set_learning_rates(state, config)
    assert state.optimizer_g.param_groups[0]["lr"] == pytest.approx(0.75 * config.lr_g)
    assert state.optimizer_d.param_groups[0]["lr"] == pytest.approx(0.75 * config.lr_d * 16 / 17)


def test_the_average_forgets_half_in_its_halflife():
    state, _, config = state_and_inputs(ema_halflife_nimg=32)
    with torch.no_grad():
        for average, parameter in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
            average.fill_(1)
            parameter.fill_(0)
    for _ in range(4):
        update_average(state, config, 8)
    assert state.G_ema.const.flatten()[0].item() == pytest.approx(0.5)


def test_ramp_up_shortens_the_halflife_at_the_start():
    state, _, config = state_and_inputs(ema_halflife_nimg=1000, ema_rampup=0.5)
    state.nimg = 16
    with torch.no_grad():
        state.G_ema.const.fill_(1)
        state.G.const.fill_(0)
    update_average(state, config, 8)
    assert state.G_ema.const.flatten()[0].item() == pytest.approx(0.5)


# Switches


@pytest.mark.parametrize(("tf32", "precision"), [(True, "tf32"), (False, "ieee")])
def test_tf32_is_what_the_config_says(tf32, precision):
    """And the program can still export networks: torch.export reads PyTorch's older switches."""
    switches = (torch.backends.cuda.matmul, CUDNN.conv, CUDNN.rnn)
    before = [switch.fp32_precision for switch in switches]
    config = tiny(train={"tf32": tf32})
    with kept_tf32():
        prepare_torch(config, new_state(config, CPU))
        assert [switch.fp32_precision for switch in switches] == [precision] * 3
        with without_tf32():
            assert [switch.fp32_precision for switch in switches] == ["ieee"] * 3
        assert [switch.fp32_precision for switch in switches] == [precision] * 3
        torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    assert [switch.fp32_precision for switch in switches] == before


@pytest.mark.parametrize(
    ("device", "augment", "expected"),
    [("cpu", "none", "as before"), ("cuda", "none", True), ("cuda", "ada", False)],
)
def test_cudnn_measures_its_algorithms_on_a_gpu_with_fixed_shapes(
    monkeypatch, device, augment, expected
):
    """A program on a CPU keeps its own setting; ADA's shapes differ from step to step."""
    stand_in = SimpleNamespace(conv=CUDNN.conv, rnn=CUDNN.rnn, benchmark="as before")
    monkeypatch.setattr(torch.backends, "cudnn", stand_in)
    state = SimpleNamespace(G=SimpleNamespace(const=SimpleNamespace(device=torch.device(device))))
    with kept_tf32():
        prepare_torch(tiny(train={"augment": augment}), state)
    assert torch.backends.cudnn.benchmark == expected


def test_networks_become_cuda_graphs_only_if_asked(monkeypatch):
    """Each step tells them first that the one before has been read."""
    modes, told = [], []
    monkeypatch.setattr(torch, "compile", lambda f, mode, **_: modes.append(mode) or f)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: told.append(True))
    for graphs in (False, True):
        config = tiny(train={"compile": True, "cuda_graphs": graphs})
        state = new_state(config, CPU)
        prepare_torch(config, state)
        inputs = step_inputs(torch.zeros(8, 3, 16, 16), BatchPlan(8), seed=0, step=0, z_dim=8)
        for step in (d_step, penalty_step, g_step):
            step(state, inputs, config.train)
        assert len(told) == 3 * graphs
    assert modes == [None, None, "reduce-overhead", "reduce-overhead"]


def test_compiled_networks_leave_the_penalty_to_eager_mode(monkeypatch):
    """torch.compile has no second derivative; a stand-in counts which passes go through it."""
    compiled = []

    def counting(function, **_: object):
        return lambda *args: compiled.append(args) or function(*args)

    monkeypatch.setattr(torch, "compile", counting)
    config = tiny(train={"compile": True})
    state = new_state(config, CPU)
    prepare_torch(config, state)
    real = torch.zeros(8, 3, 16, 16)
    batch = step_inputs(real, BatchPlan(len(real)), seed=0, step=0, z_dim=8)
    d_step(state, batch, config.train)
    assert len(compiled) == 5  # G, then D of fake, real, T(fake), T(real)
    penalty_step(state, batch, config.train)
    assert len(compiled) == 5
