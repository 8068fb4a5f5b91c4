"""What makes a step faster changes no number: one call for the average, fused steps, compiling."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.data.plan import BatchPlan
from stylenat.models import Generator
from stylenat.training.dry_run import activation_bytes, fake_state, recomputed_bytes
from stylenat.training.inputs import step_inputs
from stylenat.training.start import prepare_torch
from stylenat.training.state import new_state, state_of, update_average
from stylenat.training.steps import d_step, g_step, penalty_step
from tests.training.tiny import TINY, tiny

CPU = torch.device("cpu")


def test_the_average_moves_as_parameter_by_parameter_to_the_last_bit():
    config = tiny()
    state = new_state(config, CPU)
    for parameter in state.G.parameters():
        parameter.add_(torch.randn_like(parameter))
    expected = copy.deepcopy(state.G_ema)
    update_average(state, config.train, 8)
    beta = 0.5 ** (8 / config.train.ema_halflife_nimg)
    for average, parameter in zip(expected.parameters(), state.G.parameters(), strict=True):
        average.lerp_(parameter, 1 - beta)
    for name, average in state.G_ema.named_parameters():
        assert torch.equal(average, expected.get_parameter(name)), name


def test_optimizers_are_fused_where_the_networks_are_on_a_gpu(monkeypatch):
    state = new_state(tiny(), CPU)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    adam = torch.optim.Adam
    flags: list[bool] = []

    def record(parameters, **settings):
        flags.append(settings.pop("fused"))
        return adam(parameters, **settings)

    monkeypatch.setattr(torch.optim, "Adam", record)
    state_of(state.G, state.D, state.G_ema, tiny().train)
    assert flags == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "graphs"),
    [
        ("cpu", False),
        pytest.param("cuda", False, marks=pytest.mark.gpu),
        pytest.param("cuda", True, marks=pytest.mark.gpu),
    ],
)
def test_compiled_networks_take_the_steps_of_eager_ones(device, graphs):
    """D is passed four times before its backward pass, each stepping its spectral norm."""
    train = {"loss": "logistic", "r1_every": 2}
    states = []
    for compiled in (False, True):
        config = tiny(train={**train, "compile": compiled, "cuda_graphs": compiled and graphs})
        state = new_state(config, torch.device(device))
        prepare_torch(config, state)
        real = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5)).to(device)
        losses = []
        for step in range(2):
            inputs = step_inputs(real, BatchPlan(8), seed=0, step=step, z_dim=8)
            losses.append(d_step(state, inputs, config.train))
            penalty_step(state, inputs, config.train)
            losses[-1] |= g_step(state, inputs, config.train)
        states.append((state, losses))
    (eager, expected), (fast, found) = states
    # Adam's first step has one size for all gradients, so those near 0 turn their rounding, which
    # a compiler changes, into a step to the other side.
    for step, tolerances in enumerate(({"rtol": 1e-4, "atol": 1e-5}, {"rtol": 0.02, "atol": 1e-3})):
        for name, loss in expected[step].items():
            torch.testing.assert_close(found[step][name], loss, **tolerances)
    for network in ("G", "D"):
        buffers = getattr(eager, network).state_dict()
        for name, value in getattr(fast, network).state_dict().items():
            if name.endswith(("_u", "_v")):
                torch.testing.assert_close(value, buffers[name], rtol=0.01, atol=0.01)
    torch._dynamo.reset()


# Memory


def needed(checkpointing: bool) -> tuple[int, int]:
    """Bytes of activations, and those of one block run again."""
    generator = {**TINY["model"]["generator"], "activation_checkpointing": checkpointing}
    generator["levels"] = [{**level, "channels": 32, "blocks": 4} for level in generator["levels"]]
    config = tiny(model={**TINY["model"], "generator": generator})
    with FakeTensorMode():
        state = fake_state(config)
        whole = activation_bytes(state, config.train, 8)
        state.G.requires_grad_(True)
        return whole, recomputed_bytes(state.G, config.train, 8)


def test_checkpointing_needs_the_largest_block_s_activations_again():
    (whole, none), (kept, again) = needed(False), needed(True)
    assert none == 0
    assert 0 < again < kept < whole
    # x, two normalised copies, q, k and v, the output: at least seven maps of the last level.
    assert again > 7 * 8 * 16 * 16 * 32 * 4


def test_a_block_s_bytes_grow_with_the_batch():
    config = tiny(
        model={
            **TINY["model"],
            "generator": {**TINY["model"]["generator"], "activation_checkpointing": True},
        }
    )
    with FakeTensorMode():
        G = Generator(config.model.generator)
        one, two = (recomputed_bytes(G, config.train, batch) for batch in (4, 8))
    assert 1.9 * one < two < 2.0 * one + 1
