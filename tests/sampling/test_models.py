"""What `load_model` takes: exports, runs, published checkpoints; and what it says of the rest."""

import errno
import os
import re

import pytest
import torch

from stylenat.export import load_generator, save_generator
from stylenat.sampling import is_model, load_model, model_file
from tests.legacy.test_convert import official_weights, save
from tests.sampling.tiny import tiny_generator


def run_folder(tmp_path, *names):
    """A run whose snapshots are generators of different seeds."""
    folder = tmp_path / "00003-faces"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    for seed, name in enumerate(names):
        save_generator(tiny_generator(seed), folder / "snapshots" / f"{name}.safetensors")
    return folder


def test_best_of_a_run_is_taken_unless_the_last_is_asked_for(tmp_path):
    folder = run_folder(tmp_path, "000000100", "best", "000012000", "000000900")
    assert model_file(folder).name == "best.safetensors"
    assert model_file(folder, which="last").name == "000012000.safetensors"
    assert torch.equal(load_model(folder).const, tiny_generator(1).const)
    assert torch.equal(load_model(folder, which="last").const, tiny_generator(2).const)


def test_last_of_a_run_stands_in_for_a_best_that_is_not_there_yet(tmp_path):
    folder = run_folder(tmp_path, "000000100", "000000200")
    assert model_file(folder, which="best").name == "000000200.safetensors"


def test_export_is_recognised_whatever_its_name(tmp_path):
    path = tmp_path / "model"
    save_generator(tiny_generator(), path)
    assert torch.equal(load_model(path).const, tiny_generator().const)


def test_official_checkpoint_gets_its_w_avg(tmp_path):
    generator = load_model(save(tmp_path, official_weights()))
    assert int(generator.w_avg_samples) > 0
    assert not generator.training


def test_half_precision_export_is_sampled_in_float32(tmp_path):
    save_generator(tiny_generator().bfloat16(), tmp_path / "model.safetensors")
    assert load_generator(tmp_path / "model.safetensors").const.dtype == torch.bfloat16
    assert load_model(tmp_path / "model.safetensors").const.dtype == torch.float32


def test_models_are_told_from_images(tmp_path):
    run = run_folder(tmp_path)
    (tmp_path / "images").mkdir()
    assert is_model(run)
    assert is_model("some.safetensors")
    assert is_model("FFHQ256.PT")
    for images in (tmp_path / "images", "ffhq.zip", "faces:200", "cifar-10-python.tar.gz"):
        assert not is_model(images)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path / "absent.pt", os.strerror(errno.ENOENT)),
        (lambda path: path, "is a folder, but no run: it holds no config.yaml"),
        (lambda path: run_folder(path), "is a run without a model yet: no "),
        (lambda path: run_folder(path, "latest"), "is a run without a model yet: no "),
    ],
)
def test_missing_model_is_one_sentence_with_its_path(tmp_path, make, sentence):
    path = make(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(str(path))) as refusal:
        load_model(path)
    assert sentence in str(refusal.value)


def test_snapshot_that_is_no_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of best, last: first"):
        load_model(tmp_path, which="first")
