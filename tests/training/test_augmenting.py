"""Training with `train.augment`: what D sees, how p adapts, and that runs continue exactly."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from stylenat.augment.adaptation import AdaptiveState
from stylenat.config import TrainConfig
from stylenat.config.sections import AdaConfig
from stylenat.data.plan import BatchPlan
from stylenat.models.pixels import IMAGENET, from_rgb, from_uint8, to_rgb
from stylenat.training import steps
from stylenat.training.augmenting import adapt, record_signs, seen_by_d, settings_of, sum_of_signs
from stylenat.training.inputs import step_inputs
from stylenat.training.state import new_state
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import tiny, train_to

CPU = torch.device("cpu")
ADA = {
    "augment": "ada",
    # D is always too sure, so that p moves by 0.16 every four steps, up to 0.4.
    "ada": {"transforms": "bgc", "target": -1.0, "speed_kimg": 0.2, "p_max": 0.4},
}


def a_step(**train: object) -> tuple:
    config = tiny(train={"r2_gamma": 1.0, **ADA, **train})
    state = new_state(config, CPU)
    real = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    inputs = step_inputs(real, BatchPlan(8), seed=0, step=0, z_dim=8)
    return state, inputs, config.train


def test_pixels_reach_from_minus_1_to_1_and_come_back():
    pixels = torch.tensor([0, 255, 128], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    image = from_uint8(pixels.contiguous(), IMAGENET)
    rgb = to_rgb(image, IMAGENET)
    assert torch.allclose(rgb[0, :, 0], torch.tensor([-1.0, 1, 256 / 255 - 1]), atol=1e-6)
    assert torch.allclose(from_rgb(rgb, IMAGENET), image, atol=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
def test_every_image_that_d_sees_is_augmented(loss, monkeypatch):
    state, inputs, config = a_step(loss=loss)
    monkeypatch.setattr(steps, "seen_by_d", lambda image, *_: image * 0 + 7)
    seen = []
    forward = state.D.forward
    state.D.forward = lambda image, labels: seen.append(image.detach()) or forward(image, labels)
    # The consistency loss compares with images that are changed once more.
    config = dataclasses.replace(config, consistency=None)
    for step in (steps.d_step, steps.penalty_step, steps.g_step):
        step(state, inputs, config)
    assert len(seen) == 2 + 2 + (1 if loss == "logistic" else 2)
    assert all((image == 7).all() for image in seen)


@pytest.mark.parametrize("augment", ["ada", "diffaugment"])
def test_images_of_one_step_are_changed_each_in_its_own_way(augment):
    state, inputs, config = a_step(augment=augment)
    if augment == "ada":
        state.ada = AdaptiveState(p=0.8)
    image = inputs.real[:1].expand(8, -1, -1, -1)
    seen = [seen_by_d(image, inputs.draws_of(name), state, config) for name in ("real", "fake_d")]
    different = torch.cat(seen).flatten(1).unique(dim=0)
    assert len(different) >= 15  # an image may be left as it is, by more than one


def test_diffaugment_flips_nothing():
    state, _, config = a_step(augment="diffaugment")
    draws = torch.full((1, 42), 0.5)
    draws[0, 0] = 0.1
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    seen = seen_by_d(ramp, draws, state, config)
    assert torch.allclose(seen[..., :4, :], ramp[..., :4, :], atol=1e-5)  # above the cutout


def test_without_augmentation_images_are_passed_on():
    state, inputs, config = a_step(augment="none")
    assert seen_by_d(inputs.real, None, state, config) is inputs.real
    assert "ada" not in state.state_dict()


def test_signs_are_counted_and_not_a_number_counts_as_0():
    assert sum_of_signs(torch.tensor([0.5, -2, float("nan"), 3, 0])).item() == 1


def test_d_s_step_counts_the_signs_of_all_its_passes():
    state, inputs, config = a_step()
    steps.d_step(state, dataclasses.replace(inputs, passes=2), config)
    ((step, count, signs),) = state.pending_signs
    assert (step, count) == (1, 8)
    assert abs(int(signs.read())) <= 8
    assert int(signs.read()) % 2 == 0  # eight signs, none of them 0


def test_the_ceiling_is_warned_of_once(caplog):
    state, _, config = a_step()
    with caplog.at_level(logging.WARNING):
        for step in range(1, 21):
            record_signs(state, config, torch.tensor(8), 8)
            state.step = step
            adapt(state, config)
    assert state.ada.p == 0.4
    assert [record.getMessage()[:43] for record in caplog.records] == [
        "ADA has reached train.ada.p_max, 0.4: D kno"
    ]


def test_a_checkpoint_without_the_state_of_ada_is_refused():
    state, *_ = a_step()
    saved = state.state_dict()
    del saved["ada"]
    with pytest.raises(ValueError, match="the checkpoint has no ada"):
        state.load_state_dict(saved)


@pytest.mark.slow
def test_a_run_with_ada_continues_bit_for_bit_on_any_number_of_ranks(tmp_path):
    """Stopped after 2 and 6 steps, between adjustments of p; 12 in all."""
    found = []
    for ranks, stops in ((1, (0.016, 0.048)), (2, (0.048,))):
        parts, whole = tmp_path / f"parts{ranks}", tmp_path / f"whole{ranks}"
        train_to(tiny(train=ADA), parts, *stops, 0.096, ranks=ranks)
        train_to(tiny(train=ADA), whole, 0.096, ranks=ranks)
        assert statistics(parts) == statistics(whole)
        assert final_state(parts) == final_state(whole)
        found.append(statistics(whole))
    assert [line["ada_p"] for line in found[0]] == [0] * 3 + [0.16] * 4 + [0.32] * 4 + [0.4]
    for one, two in zip(*found, strict=True):
        assert one["ada_p"] == two["ada_p"]
        assert one["loss_d"] == pytest.approx(two["loss_d"], abs=1e-3)


def test_p_moves_faster_in_a_run_that_begins_with_a_model():
    own, fresh = TrainConfig(augment="ada"), AdaConfig(speed_kimg=7.0)
    speeds = [
        settings_of(dataclasses.replace(own, init_from=model)).speed_kimg
        for model in (None, "m.pt")
    ]
    assert speeds == [500, 100]
    assert settings_of(dataclasses.replace(own, init_from="m.pt", ada=fresh)).speed_kimg == 7
