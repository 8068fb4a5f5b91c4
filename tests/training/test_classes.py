"""Runs with classes: which labels a step is given, and what a run does with them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.config import load_config
from stylenat.data import Batch, draw_face, open_images
from stylenat.data.plan import BatchPlan
from stylenat.export import save_generator
from stylenat.models import Generator
from stylenat.sampling import contact_sheet, generate, load_generator
from stylenat.training.checkpoint import checkpoints, load_checkpoint
from stylenat.training.classes import (
    class_weight,
    grid_cells,
    grid_rows,
    set_class_weight,
    with_class_names,
)
from stylenat.training.dry_run import describe_run
from stylenat.training.holdout import HeldOut
from stylenat.training.inputs import labels_of, step_inputs
from stylenat.training.loop import train
from stylenat.training.run_folder import RunFolder
from stylenat.training.start import newest_state, open_training_images, read_init_from
from stylenat.training.state import new_state
from stylenat.training.steps import d_step, g_step, penalty_step
from stylenat.training.transfer import plan_transfer
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import TINY, tiny, train_to

CPU = torch.device("cpu")
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """64 images of 16x16, of three classes with names."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(64):
        Image.fromarray(draw_face(index, 16)).save(folder / f"{index:02d}.png")
    pairs = [[f"{index:02d}.png", index % 3] for index in range(64)]
    content = {"labels": pairs, "stylenat": {"class_names": NAMES}}
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def of_classes(path: str, *, model: dict | None = None, **sections: dict):
    return tiny(
        model={**TINY["model"], "classes": 3, **(model or {})},
        data={"path": path, **sections.pop("data", {})},
        **sections,
    )


def inputs_of(config, *, step: int = 0, plan: BatchPlan | None = None):
    """The inputs of a step on random images, with the classes that the data have."""
    plan = plan or BatchPlan(8)
    labels_N = torch.from_numpy(open_training_images(config).labels_N)
    real = plan.own_share(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    batch = Batch(real, plan.own_share(labels_N[:8]))
    labels = labels_of(batch, labels_N)
    return step_inputs(real, plan, labels, seed=0, step=step, z_dim=8)


# What a step is given


def test_generated_images_have_the_classes_of_random_training_images(data):
    config = of_classes(data)
    labels_N = torch.arange(3).repeat_interleave(torch.tensor([10, 30, 60]))
    batch = Batch(torch.zeros(4000, 3, 2, 2), labels_N[:1].expand(4000))
    labels = labels_of(batch, labels_N)
    inputs = step_inputs(batch[0], BatchPlan(4000), labels, seed=0, step=0, z_dim=1)
    for drawn in (inputs.labels_d, inputs.labels_g):
        shares = torch.bincount(drawn, minlength=3) / 4000
        assert (shares - torch.tensor([0.1, 0.3, 0.6])).abs().max() < 4 * 0.5 / 4000**0.5
    assert not torch.equal(inputs.labels_d, inputs.labels_g)
    assert torch.equal(inputs.real_labels, labels_N[:1].expand(4000))
    assert not torch.equal(inputs_of(config).labels_d, inputs_of(config, step=1).labels_d)


def test_ranks_and_passes_share_the_labels_of_one_step(data):
    config = of_classes(data)
    whole = inputs_of(config)
    for rank in range(2):
        share = inputs_of(config, plan=BatchPlan(8, rank=rank, world_size=2))
        for name in ("real_labels", "labels_d", "labels_g"):
            assert torch.equal(getattr(share, name), getattr(whole, name)[rank::2])
    parts = list(inputs_of(config, plan=BatchPlan(8, 2)).parts())
    assert [part.labels_d.tolist() for part in parts] == [
        whole.labels_d[index::4].tolist() for index in range(4)
    ]


def test_classes_change_no_other_random_number(data):
    real = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = step_inputs(real, BatchPlan(8), seed=0, step=0, z_dim=8)
    for name, value in vars(inputs_of(of_classes(data))).items():
        if isinstance(value, torch.Tensor) and "label" not in name:
            assert torch.equal(value, getattr(plain, name)), name
    assert plain.real_labels is plain.labels_d is plain.labels_g is None


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
@pytest.mark.parametrize("augment", ["none", "ada"])
def test_every_pass_gets_the_labels_of_its_images(data, monkeypatch, loss, augment):
    settings = {"loss": loss, "augment": augment, "r2_gamma": 1.0}
    config = of_classes(data, train=settings)
    state, inputs = new_state(config, CPU), inputs_of(config)
    seen: dict[str, list] = {"G": [], "D": []}
    for name in seen:
        network = getattr(state, name)
        monkeypatch.setattr(network, "forward", _noting(network.forward, seen[name]))
    d_step(state, inputs, config.train)
    real, of_d, of_g = inputs.real_labels, inputs.labels_d, inputs.labels_g
    assert same(seen["D"], [of_d, real, of_d, real])  # fake, real, and both augmented once more
    penalty_step(state, inputs, config.train)
    assert same(seen["D"][4:], [real, of_d])
    g_step(state, inputs, config.train)
    assert same(seen["D"][6:], [of_g] if loss == "logistic" else [of_g, real])
    assert same(seen["G"], [of_d, of_d, of_g])


def _noting(function, labels: list):
    return lambda x, labels_B: labels.append(labels_B) or function(x, labels_B)


def same(found: list, expected: list) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_embeddings_of_both_networks_learn(data):
    config = of_classes(data)
    state = new_state(config, CPU)
    before = {name: x.clone() for name, x in embeddings(state)}
    d_step(state, inputs_of(config), config.train)
    g_step(state, inputs_of(config), config.train)
    assert len(before) == 3
    for name, x in embeddings(state):
        assert not torch.equal(x, before[name]), name


def embeddings(state):
    for network in (state.G, state.D):
        for name, x in network.named_parameters():
            if "embedding" in name:
                yield f"{type(network).__name__}.{name}", x


# Runs


@pytest.mark.parametrize("extra", [{}, {"augment": "ada", "freeze_d": 1, "freeze_mapping": True}])
def test_a_run_continues_bit_for_bit(data, tmp_path, extra):
    settings = {**extra, "decay_from_kimg": 0.03, "class_transition_kimg": [0.01, 0.03]}
    config = of_classes(data, train=settings)
    parts = train_to(config, tmp_path / "parts", 0.016, 0.04)
    whole = train_to(config, tmp_path / "whole", 0.04)
    assert statistics(parts) == statistics(whole)
    assert final_state(parts) == final_state(whole)


@pytest.mark.slow
def test_on_two_ranks_a_run_continues_too_and_has_one_ranks_losses(data, tmp_path):
    config = of_classes(data, data={"workers": 1})
    parts = train_to(config, tmp_path / "parts", 0.016, 0.04, ranks=2)
    whole = train_to(config, tmp_path / "whole", 0.04, ranks=2)
    one = train_to(config, tmp_path / "one", 0.04)
    assert statistics(parts) == statistics(whole)
    assert final_state(parts) == final_state(whole)
    for line, other in zip(statistics(one), statistics(whole), strict=True):
        for name, value in line.items():
            assert other[name] == pytest.approx(value, abs=1e-5, rel=1e-5), (name, line["nimg"])


def test_a_run_keeps_the_names_of_its_classes_and_its_models_know_them(data, tmp_path):
    run = tmp_path / "run"
    train(of_classes(data, train={"total_kimg": 0.016}), run, CPU)
    assert load_config(run / "config.yaml").model.class_names == tuple(NAMES)
    newest = checkpoints(run / "checkpoints")[0]
    for file in (run / "snapshots" / "000000016.safetensors", newest):
        assert load_generator(file).config.class_names == tuple(NAMES)
    assert load_generator(run).w_avg.shape == (3, 8)


def test_metrics_are_of_images_of_all_classes(data, tmp_path):
    metrics = {"names": ["swd"], "num": 8}
    train(of_classes(data, train={"total_kimg": 0.016}, metrics=metrics), tmp_path / "run", CPU)
    lines = map(json.loads, (tmp_path / "run" / "stats.jsonl").read_text().splitlines())
    (scores,) = [line for line in lines if "metrics" in line]
    assert scores["protocol"]["images"]["classes"] == "as in the data"


def test_held_out_images_are_judged_as_those_of_their_classes(data):
    config = of_classes(data, data={"holdout": 0.25})
    images = open_training_images(config)
    held_out = HeldOut(images.trained, images.held_out, BatchPlan(8), classes=3)
    source = open_images(data)
    named = {source.name(index): index % 3 for index in range(64)}
    expected = [named[images.held_out.name(index)] for index in range(16)]
    assert held_out.labels["held"].tolist() == expected
    assert torch.equal(held_out.labels["generated"], held_out.labels["trained"])
    state = new_state(config, CPU)
    before = held_out.logits(state, config.train)
    held_out.labels["held"] = (held_out.labels["held"] + 1) % 3
    after = held_out.logits(state, config.train)
    assert [name for name in before if before[name] != after[name]] == ["held_logits"]


def test_a_dry_run_names_the_classes_that_the_data_have(data):
    assert "class_names: [cat, dog, owl]" in describe_run(of_classes(data))


# Grids


def test_a_grid_has_a_row_for_each_class_and_then_goes_round():
    assert grid_rows(2, 3) == 3
    assert grid_rows(8, 3) == 8
    assert grid_rows(2, 1000) == 32
    assert list(grid_cells(2, 5, 3)) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (0, 2), (0, 3), (1, 2), (1, 3),
    ]  # fmt: skip


def test_sample_grids_have_a_row_per_class(data, tmp_path):
    run = tmp_path / "run"
    train(of_classes(data, train={"total_kimg": 0.016}), run, CPU)
    generator = load_generator(run)
    images = torch.cat([*generate(generator, [0, 1] * 3, [0, 0, 1, 1, 2, 2])])
    with Image.open(run / "samples" / "000000016.png") as image:
        found = np.array(image)
    assert np.array_equal(found, contact_sheet(images, 2, 3).numpy())
    with Image.open(run / "samples" / "reals.png") as image:
        reals = np.array(image).reshape(3, 16, 2, 16, 3).transpose(0, 2, 1, 3, 4)
    source = open_images(data)
    known = {source.read(index).tobytes(): index % 3 for index in range(64)}
    assert [known[cell.tobytes()] for row in reals for cell in row] == [0, 0, 1, 1, 2, 2]


# The transition


def test_the_weight_of_classes_rises_linearly_within_the_transition(data):
    train_config = of_classes(data, train={"class_transition_kimg": [1, 3]}).train
    weights = [class_weight(train_config, nimg) for nimg in (0, 1000, 1500, 2000, 3000, 9000)]
    assert weights == [0, 0, 0.25, 0.5, 1, 1]
    assert class_weight(of_classes(data).train, 0) == 1


def test_before_the_transition_classes_change_nothing(data):
    config = of_classes(data, train={"class_transition_kimg": [1, 3]})
    assert config.model.discriminator.unconditional_logit
    state = new_state(config, CPU)
    z, x, labels = torch.randn(4, 8), torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    for nimg, is_same in ((0, True), (2000, False)):
        state.nimg = nimg
        set_class_weight(state, config.train)
        state.D.eval()
        for network, inputs in ((state.G, z), (state.G_ema, z), (state.D, x)):
            one, other = network(inputs, labels), network(inputs, (labels + 1) % 3)
            assert torch.allclose(one, other, atol=1e-6) == is_same


def test_a_model_exported_within_the_transition_makes_the_run_s_images(data, tmp_path):
    settings = {"total_kimg": 0.016, "class_transition_kimg": [0, 0.032]}
    train(of_classes(data, train=settings), tmp_path / "run", CPU)
    loaded = load_generator(tmp_path / "run")
    content = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[0])
    weight = content["G_ema"]["mapping_network.class_weight"]
    assert float(weight) == float(loaded.mapping_network.class_weight) == 0.25  # of the last step


@pytest.mark.parametrize("wrong", [[3, 1], [1, 1], [-1, 2]])
def test_a_transition_must_rise(data, wrong):
    sentence = r"train\.class_transition_kimg must be null, or two lengths from 0 up"
    with pytest.raises(ValueError, match=sentence):
        of_classes(data, train={"class_transition_kimg": wrong})


def test_without_classes_there_is_no_transition():
    with pytest.raises(ValueError, match=r"must be null without classes: \[1\.0, 2\.0\]; set"):
        tiny(train={"class_transition_kimg": [1, 2]})


# From a model


def test_a_run_with_classes_begins_with_the_images_of_a_model_without(data, tmp_path):
    train(tiny(train={"total_kimg": 0.016}), tmp_path / "old", CPU)
    old = load_generator(tmp_path / "old")
    config = of_classes(data, train={"init_from": str(tmp_path / "old")})
    run = RunFolder(tmp_path / "new")
    transfer = read_init_from(config, run)
    state = newest_state(config, run, CPU, transfer).state
    z = torch.randn(4, 8)
    for label in range(3):
        labels = torch.full((4,), label)
        torch.testing.assert_close(state.G_ema(z, labels), old(z))
    report = "\n".join(transfer.report)
    assert "copied for z, 0 for the class: mapping_network.layers.0.weight" in report
    assert "mapping_network.class_embedding (2 tensors)" in report
    content = load_checkpoint(checkpoints(tmp_path / "old" / "checkpoints")[0])
    assert torch.equal(state.D.hidden_bias, content["D"]["hidden_bias"])


def test_a_model_of_other_classes_gives_all_but_their_embedding(data, tmp_path):
    train(of_classes(data, train={"total_kimg": 0.016}), tmp_path / "old", CPU)
    config = of_classes(data, model={"classes": 5}, train={"init_from": str(tmp_path / "old")})
    report = "\n".join(read_init_from(config, RunFolder(tmp_path / "new")).report)
    assert "mapping_network.class_embedding.linear.weight [8, 3] there, [8, 5] here" in report
    assert "class_names" in report


# What is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"classes": 2}}, "must be from 0 to 1, since the model has 2 classes: 2"),
        ({"model": {"classes": 4}}, "names 3 classes, and the model has 4: set model.classes=3"),
        ({"data": {"path": "faces:64"}}, "faces:64 has no labels, and a model of 3 classes needs"),
        ({"model": {"class_names": ["a", "b", "c"]}}, "model.class_names must be those of"),
    ],
)
def test_data_of_other_classes_are_refused_before_the_run_is_made(
    data, tmp_path, changes, sentence
):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        train(of_classes(data, **changes), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_a_class_without_images_is_a_warning(tmp_path):
    for index in range(8):
        Image.fromarray(draw_face(index, 16)).save(tmp_path / f"{index}.png")
    pairs = [[f"{index}.png", 2 * (index % 2)] for index in range(8)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    run = tmp_path.parent / f"{tmp_path.name}-run"
    train(of_classes(str(tmp_path), model={"classes": 4}, train={"total_kimg": 0.008}), run, CPU)
    assert "data: no training image is of class 1, 3" in (run / "log.txt").read_text()


def test_names_may_come_from_the_configuration(data):
    config = of_classes(data, model={"class_names": NAMES})
    assert with_class_names(config, open_images(data)) == config
    assert with_class_names(config, open_images("faces:3", resolution=16)) == config


def test_a_frozen_mapping_network_cannot_learn_classes(tmp_path):
    save_generator(Generator(tiny().model.generator), tmp_path / "model.safetensors")
    config = tiny(
        model={**TINY["model"], "classes": 2},
        train={"init_from": str(tmp_path / "model.safetensors"), "freeze_mapping": True},
    )
    with pytest.raises(ValueError, match="would never learn those of"):
        plan_transfer(config)
