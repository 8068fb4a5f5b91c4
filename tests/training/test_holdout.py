"""Images held out of training: no step sees them, and asking D about them changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from stylenat.data import draw_face
from stylenat.data.plan import BatchPlan
from stylenat.data.prepare import Settings, prepare
from stylenat.training.holdout import MOST_IMAGES, HeldOut
from stylenat.training.loop import train
from stylenat.training.start import described, open_training_images
from stylenat.training.state import new_state
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import TINY, tiny, train_to

CPU = torch.device("cpu")
QUARTER = {"data": {"holdout": 0.25}}


def names_of(source) -> set[str]:
    return {source.name(index) for index in range(len(source))}


def test_every_image_is_either_trained_on_or_held_out():
    images = open_training_images(tiny(**QUARTER))
    trained, held_out = names_of(images.trained), names_of(images.held_out)
    assert (len(trained), len(held_out)) == (48, 16)
    assert trained | held_out == names_of(images.all)
    again = open_training_images(tiny(**QUARTER))
    assert names_of(again.held_out) == held_out
    other = open_training_images(tiny(data={"holdout": 0.25, "seed": 1}))
    assert {other.held_out.indices.tobytes()} != {images.held_out.indices.tobytes()}


def test_a_random_part_of_the_data_is_split_anew():
    """With one permutation for both, the images held out would be the first of those taken."""
    config = tiny(data={"holdout": 0.5, "max_images": 32})
    images = open_training_images(config)
    assert len(names_of(images.trained) | names_of(images.held_out)) == 32
    whole = open_training_images(tiny(data={"holdout": 0.25}))  # the same number, without taking
    assert names_of(images.held_out) != names_of(whole.held_out)


def test_without_a_share_nothing_is_held_out():
    images = open_training_images(tiny())
    assert images.held_out is None
    assert images.trained is images.all


def test_the_data_are_described_in_two_sentences():
    sentences = list(described(open_training_images(tiny(**QUARTER))))
    assert sentences == [
        "faces:64: 48 of 64 images, 16x16",
        "faces:64: 16 of 64 images, 16x16 are held out of training",
    ]


def test_a_holdout_that_leaves_too_few_images_is_refused():
    with pytest.raises(ValueError, match=r"3 images without those of data\.holdout are fewer"):
        open_training_images(tiny(data={"holdout": 0.95}))


@pytest.mark.parametrize("share", [1, -0.1, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"data\.holdout.*at least 0 and below 1"):
        tiny(data={"holdout": share})


@pytest.mark.parametrize("augment", ["none", "diffaugment", "ada"])
def test_asking_d_changes_nothing_in_it(augment):
    config = tiny(**QUARTER, train={"augment": augment, "consistency": None})
    state = new_state(config, CPU)
    frozen = next(module for name, module in state.D.named_modules() if name.endswith(".0"))
    frozen.eval()
    before = {name: tensor.clone() for name, tensor in state.D.state_dict().items()}
    modes = [module.training for module in state.D.modules()]
    _, trained, held_out, _ = open_training_images(config)
    asked = HeldOut(trained, held_out, BatchPlan(8))
    first = asked.logits(state, config.train)
    assert asked.logits(state, config.train) == first
    assert len({x.item() for x in first.values()}) == 3
    assert all(torch.equal(before[name], x) for name, x in state.D.state_dict().items())
    assert [module.training for module in state.D.modules()] == modes


def test_the_logits_are_those_of_each_kind_of_images():
    config = tiny(**QUARTER)
    state = new_state(config, CPU)
    _, trained, held_out, _ = open_training_images(config)
    found = HeldOut(trained, held_out, BatchPlan(16)).logits(state, config.train)
    assert list(found) == ["trained_logits", "held_logits", "generated_logits"]
    state.D.eval()
    for source, step, name in ((trained, 3, "trained"), (held_out, 1, "held")):
        pixels = torch.stack([torch.from_numpy(source.read(i * step)) for i in range(16)])
        with torch.no_grad():
            expected = state.D(state.G.from_uint8(pixels)).mean()
        assert torch.allclose(found[f"{name}_logits"], expected, atol=1e-6)


def test_an_image_that_d_has_learned_by_heart_shows():
    """D steps on the training images alone, as it would late in a run on a small data set."""
    config = tiny(**QUARTER)
    state = new_state(config, CPU)
    _, trained, held_out, _ = open_training_images(config)
    asked = HeldOut(trained, held_out, BatchPlan(16))
    pixels, others = asked.pixels["trained"], asked.pixels["held"]
    optimizer = torch.optim.Adam(state.D.requires_grad_(True).parameters(), lr=3e-3)
    for _ in range(60):
        gap = state.D(state.G.from_uint8(others)) - state.D(state.G.from_uint8(pixels))
        optimizer.zero_grad()
        torch.nn.functional.softplus(gap).mean().backward()
        optimizer.step()
    found = asked.logits(state, config.train)
    assert found["trained_logits"] > found["held_logits"] + 1


@pytest.mark.parametrize(("batch", "count"), [(8, 16), (16, 16), (32, 32), (24, 24)])
def test_whole_batches_are_taken_of_any_number_of_images(batch, count):
    _, trained, held_out, _ = open_training_images(tiny(**QUARTER))
    assert len(held_out) == 16
    asked = HeldOut(trained, held_out, BatchPlan(batch))
    assert [len(pixels) for pixels in asked.pixels.values()] == [count, count]
    assert asked.count == count <= MOST_IMAGES


def test_two_ranks_share_them_and_find_the_same_mean():
    config = tiny(**QUARTER)
    state = new_state(config, CPU)
    _, trained, held_out, _ = open_training_images(config)
    whole = HeldOut(trained, held_out, BatchPlan(8)).logits(state, config.train)
    shares = [
        HeldOut(trained, held_out, BatchPlan(8, rank=rank, world_size=2)).logits(
            state, config.train
        )
        for rank in range(2)
    ]
    for name, mean in whole.items():
        assert torch.allclose(torch.stack([of[name] for of in shares]).mean(), mean, atol=1e-5)


def test_a_run_writes_the_logits_and_trains_as_it_would_without_asking(tmp_path):
    """The same 48 images, from the split alone: asking D must not move a bit of the run."""
    config = tiny(**QUARTER, train={"total_kimg": 0.064, "augment": "ada", "consistency": None})
    train(config, tmp_path / "asked", CPU)
    entries = [line for line in statistics(tmp_path / "asked") if "loss_d" in line]
    assert all("held_logits" in entry for entry in entries)
    seldom = tiny(
        **QUARTER,
        train={
            "total_kimg": 0.064,
            "augment": "ada",
            "consistency": None,
            "log_every_nimg": 64,
            "snapshot_every_kimg": 0.064,
        },
    )
    train(seldom, tmp_path / "seldom", CPU)
    assert final_state(tmp_path / "asked") == final_state(tmp_path / "seldom")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stopped_run_writes_the_same_logits(tmp_path, ranks):
    train_to(tiny(**QUARTER), tmp_path / "whole", 0.064, ranks=ranks)
    train_to(tiny(**QUARTER), tmp_path / "stopped", 0.032, 0.064, ranks=ranks)
    whole, stopped = (
        [
            line["held_logits"]
            for line in map(json.loads, (tmp_path / name / "stats.jsonl").read_text().splitlines())
            if "held_logits" in line
        ]
        for name in ("whole", "stopped")
    )
    assert len(whole) == 8
    assert whole == stopped


def test_with_classes_d_is_told_which_class_an_image_has(tmp_path):
    """Two folders, a class each: without the labels the projection could not be computed."""
    for number in range(24):
        folder = tmp_path / "data" / f"kind{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_face(number, 16)).save(folder / f"{number}.png")
    prepare(str(tmp_path / "data"), tmp_path / "data.zip", Settings(16), labels_from_folders=True)
    config = tiny(
        model={**TINY["model"], "classes": 2},
        data={"path": str(tmp_path / "data.zip"), "holdout": 0.3},
    )
    state = new_state(config, CPU)
    _, trained, held_out, _ = open_training_images(config)
    asked = HeldOut(trained, held_out, BatchPlan(8), classes=2)
    found = asked.logits(state, config.train)
    state.D.eval()
    labels = torch.tensor([held_out.label(i * len(held_out) // 8) for i in range(8)])
    with torch.no_grad():
        expected = state.D(state.G.from_uint8(asked.pixels["held"]), labels).mean()
        others = state.D(state.G.from_uint8(asked.pixels["held"]), 1 - labels).mean()
    assert torch.allclose(found["held_logits"], expected, atol=1e-6)
    assert not torch.allclose(others, expected, atol=1e-4)
