"""What `stylenat fid` measures: a run on its own data, by its own settings; images of any sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.config import load_config, save_config
from stylenat.metrics import protocol_of, score
from stylenat.metrics.swd import Patches
from stylenat.training.checkpoint import checkpoints, load_checkpoint
from stylenat.training.loop import train
from tests.metrics.standin import evaluator, images, save_folder
from tests.training.tiny import tiny

CPU = torch.device("cpu")


def trained(folder, **data):
    """A run of a few steps on such data."""
    config = tiny(data=data, train={"total_kimg": 0.016}, metrics={"num": 8, "mode": "clean"})
    assert train(config, folder, CPU) is None
    return folder


def fingerprint_of(run) -> str:
    return load_checkpoint(checkpoints(run / "checkpoints")[0])["data"]["fingerprint"]


def measured(run, **given) -> str:
    """The fingerprint of the data that its scores are measured against."""
    scores = score(str(run), protocol_of(str(run), metrics=["swd"], **given), device=CPU, workers=0)
    return scores.protocol["reference"]["fingerprint"]


@pytest.mark.parametrize(
    "data",
    [
        {"path": "faces:64", "seed": 5},
        {"path": "faces:64", "max_images": 40, "seed": 3},
        {"path": "FOLDER", "max_images": 20},
        {"path": "FOLDER", "resize": "box", "seed": 7, "max_images": 20},
    ],
)
def test_a_run_is_measured_against_the_data_that_it_was_trained_on(tmp_path, data):
    folder = save_folder(tmp_path / "images", 24, seed=0, side=16)
    data = {**data, "path": data["path"].replace("FOLDER", str(folder))}
    run = trained(tmp_path / "run", **data)
    assert measured(run) == fingerprint_of(run)
    assert measured(run, data=data["path"]) == fingerprint_of(run)


@pytest.mark.parametrize("inside", [".", "snapshots/000000016.safetensors", "checkpoints/x.pt"])
def test_a_run_s_protocol_is_its_own_unless_another_is_given(tmp_path, inside):
    run = trained(tmp_path / "run", path="faces:64", seed=5)
    own = protocol_of(str(run / inside))
    assert (own.data, own.data_seed, own.num, own.mode) == ("faces:64", 5, 8, "clean")
    assert own.metrics == ("fid",)
    given = protocol_of(str(run / inside), data="faces:99", num=3, mode="legacy_pytorch")
    assert (given.data, given.data_seed, given.num) == ("faces:99", 5, 3)
    assert given.mode == "legacy_pytorch"
    assert protocol_of(str(run), reference="x.npz").data is None
    assert protocol_of(str(tmp_path / "other.safetensors")).num == 50_000


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (None, "inception.pth"),
        (["pr", "is"], "inception.pth"),  # the same network
        (["fd_effnet_lite0"], None),
        (["pr_vgg"], None),
        (["fid", "pr_vgg"], None),
        (["swd"], None),
    ],
)
def test_a_run_s_weights_are_for_the_network_of_its_own_metrics(tmp_path, metrics, expected):
    run = trained(tmp_path / "run", path="faces:64")
    config = load_config(run / "config.yaml", ["metrics.weights=inception.pth"])
    save_config(config, run / "config.yaml")
    assert protocol_of(str(run), metrics=metrics).weights == expected
    assert protocol_of(str(run), metrics=metrics, weights="given.pth").weights == "given.pth"


def mixed_folder(folder):
    """Images of four sizes, in no order of them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, side in enumerate((24, 40, 24, 24, 64, 40, 31, 31, 24, 64)):
        pixels = random.integers(0, 256, (side, side + index % 2, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_inception_scores_take_images_of_any_sizes_in_any_batch(tmp_path, small, mode):
    folder, other = mixed_folder(tmp_path / "mixed"), save_folder(tmp_path / "b", 10, seed=1)
    found = [
        evaluator(["fid", "kid", "pr"], images(other), small, mode=mode, batch=batch).score_images(
            images(folder)
        )
        for batch in (1, 3, 10)
    ]
    for scores in found[1:]:
        for name, value in found[0].values.items():
            assert scores[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("at", [1, 7, 9])
def test_swd_names_the_first_image_of_another_size(tmp_path, at):
    folder = save_folder(tmp_path / "a", 10, seed=0)
    Image.new("RGB", (32, 48)).save(sorted(folder.iterdir())[at])
    name = sorted(folder.iterdir())[at].name
    whole = save_folder(tmp_path / "b", 10, seed=1)
    sentence = rf"one size, 64x64: {folder}/{name} is 32x48"
    with pytest.raises(ValueError, match=sentence):
        evaluator(["swd"], images(folder), None)
    measure = evaluator(["swd"], images(whole), None)
    with pytest.raises(ValueError, match=sentence):
        measure.score_images(images(folder))


def test_patches_that_overflow_memory_are_the_same(monkeypatch):
    pixels = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    taken = []
    for most in (1, 10**9):
        monkeypatch.setattr("stylenat.metrics.swd.IN_MEMORY_BYTES", most)
        patches = Patches(32, seed=0)
        patches.add(pixels[:4], [0, 1, 2, 3])
        few = patches.first(0, 2)
        patches.add(pixels[4:], [4, 5])
        taken.append([few, patches.first(0, 6), patches.first(1, 6), patches.first(1, 99)])
    assert all(torch.equal(a, b) for a, b in zip(*taken, strict=True))
    assert taken[0][1].shape == (6 * 128, 3, 7, 7)
    assert torch.equal(taken[0][0], taken[0][1][: 2 * 128])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "absent/x.json"], "absent: No such file or directory"),
        (["--out", "."], ".: Is a directory"),
        (["--out", "MODEL"], "must be another file than"),
        (["--out", "link"], "must be another file than"),
        (["--metrics", "fdi"], "unknown metric 'fdi'"),
        (["--seed", str(2**62), "--num", "4"], "the seed is too large for 4 images"),
        (["--seed", "-1"], "the seed must be at least 0: -1"),
        (["--device", "cuda:99"], "there is no device cuda:99"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_is_read(
    tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"no model: to read it would be another error")
    (tmp_path / "link").symlink_to(model)
    arguments = [argument.replace("MODEL", str(model)) for argument in arguments]
    result = CliRunner().invoke(main, ["fid", str(model), "--data", "faces:9", *arguments])
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert model.read_bytes().startswith(b"no model")
