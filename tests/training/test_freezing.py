"""Frozen parts keep every bit, and the others train as the config says."""

from __future__ import annotations

import copy

import pytest
import torch

from stylenat.data.plan import BatchPlan
from stylenat.training.checkpoint import checkpoints, load_checkpoint
from stylenat.training.inputs import step_inputs
from stylenat.training.loop import train
from stylenat.training.state import TrainingState, new_state, trained
from stylenat.training.steps import d_step, g_step, penalty_step
from tests.training.test_checkpoint import flat
from tests.training.tiny import tiny

CPU = torch.device("cpu")

# Settings, and the beginnings of the names that they freeze; everything else must move.
CASES = [
    ({"freeze_d": 1}, (), ("from_rgbs.0.", "blocks.0.")),
    ({"freeze_d": 2}, (), ("from_rgbs.", "blocks.")),
    ({"freeze_mapping": True}, ("mapping_network.",), ()),
    ({"freeze_g_low": 1}, ("const", "levels.0."), ()),
    ({"freeze_g_low": 2}, ("const", "levels.0.", "levels.1."), ()),
    ({"freeze_g_high": 1}, ("levels.2.",), ()),
    (
        {"freeze_g_low": 1, "freeze_g_high": 1, "freeze_mapping": True, "freeze_d": 1},
        ("mapping_network.", "const", "levels.0.", "levels.2."),
        ("from_rgbs.0.", "blocks.0."),
    ),
]


def stepped(**settings: object) -> tuple[dict[str, dict[str, torch.Tensor]], TrainingState]:
    """The state dicts before, and the state after, two steps of everything."""
    config = tiny(train=settings)
    state = new_state(config, CPU)
    before = copy.deepcopy({name: getattr(state, name).state_dict() for name in ("G", "D")})
    for step in range(2):
        real = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        inputs = step_inputs(real, BatchPlan(8), seed=0, step=step, z_dim=8)
        for take in (d_step, penalty_step, g_step):
            take(state, inputs, config.train)
    return before, state


@pytest.mark.parametrize(("settings", "of_g", "of_d"), CASES)
def test_frozen_parts_keep_every_bit_and_all_others_move(settings, of_g, of_d):
    before, state = stepped(**settings)
    reference, everything = stepped()
    for network, frozen in (("G", of_g), ("D", of_d)):
        after, free = (getattr(s, network).state_dict() for s in (state, everything))
        seen = set()
        for name, tensor in after.items():
            start = next((prefix for prefix in frozen if name.startswith(prefix)), None)
            seen.add(start)
            if start is not None:
                assert torch.equal(tensor, before[network][name]), name
            elif not torch.equal(free[name], reference[network][name]):
                assert not torch.equal(tensor, before[network][name]), name
        assert seen >= {*frozen}


@pytest.mark.parametrize(("settings", "of_g", "of_d"), CASES)
def test_optimizers_hold_nothing_of_frozen_parts(settings, of_g, of_d):
    _, state = stepped(**settings)
    for network, optimizer, frozen in (
        (state.G, state.optimizer_g, of_g),
        (state.D, state.optimizer_d, of_d),
    ):
        names = {n for n, _ in network.named_parameters() if not n.startswith(frozen or ("-",))}
        moved = {id(parameter) for parameter in trained(optimizer)}
        assert {n for n, p in network.named_parameters() if id(p) in moved} == names
        assert len(optimizer.state) == len(names)


def test_vectors_of_frozen_weights_do_not_step_with_ds_passes():
    state = new_state(tiny(train={"freeze_d": 1}), CPU)
    before = copy.deepcopy(state.D.state_dict())
    state.D(torch.randn(4, 3, 16, 16))
    moved = {n for n, x in state.D.state_dict().items() if not torch.equal(x, before[n])}
    assert moved
    assert not any(name.startswith(("from_rgbs.0.", "blocks.0.")) for name in moved)


def test_freezing_nothing_changes_nothing():
    settings = {"freeze_d": 0, "freeze_g_low": 0, "freeze_g_high": 0, "freeze_mapping": False}
    one, other = stepped()[1], stepped(**settings)[1]
    assert flat(one.state_dict()) == flat(other.state_dict())


def test_a_run_with_frozen_parts_continues_bit_for_bit(tmp_path):
    settings = {"freeze_d": 1, "freeze_g_low": 1, "freeze_mapping": True}
    finals = []
    for name, lengths in (("parts", (0.016, 0.032)), ("whole", (0.032,))):
        for kimg in lengths:
            config = tiny(train={**settings, "total_kimg": kimg})
            assert train(config, tmp_path / name, CPU) is None
        content = load_checkpoint(checkpoints(tmp_path / name / "checkpoints")[0])
        del content["seconds"]
        finals.append(flat(content))
    assert finals[0] == finals[1]
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert log.count("M of them frozen") == 2


def test_a_run_cannot_change_what_is_frozen(tmp_path):
    assert train(tiny(train={"total_kimg": 0.008, "freeze_d": 1}), tmp_path / "run", CPU) is None
    with pytest.raises(ValueError, match=r"train\.freeze_d \(1 there, 2 here\)"):
        train(tiny(train={"total_kimg": 0.016, "freeze_d": 2}), tmp_path / "run", CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_d": -1}, r"train\.freeze_d must be at least 0: -1"),
        ({"freeze_d": 3}, r"^train\.freeze_d must be 0 to 2, the discriminator's levels: 3$"),
        ({"freeze_g_low": -1}, r"train\.freeze_g_low must be at least 0: -1"),
        ({"freeze_g_high": 3}, r"must leave one of the generator's 3 levels to train: 0 and 3$"),
        ({"freeze_g_low": 2, "freeze_g_high": 1}, r"3 levels to train: 2 and 1$"),
        ({"freeze_mapping": 1}, r"train\.freeze_mapping must be true or false: 1"),
    ],
)
def test_what_cannot_be_frozen_is_refused_with_the_range(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(train=settings)
