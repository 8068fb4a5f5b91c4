"""What `load_model` takes: exports, runs, published checkpoints; and what it says of the rest."""

import errno
import os
import re

import pytest
import torch
from click.testing import CliRunner

import stylenat
from stylenat.cli import main
from stylenat.config import ModelConfig, RunConfig, load_config, save_config
from stylenat.export import (
    load_discriminator,
    load_generator,
    save_discriminator,
    save_generator,
)
from stylenat.legacy import convert_checkpoint
from stylenat.models import Discriminator, DiscriminatorConfig, DiscriminatorLevel
from stylenat.sampling import is_model, load_model, model_file
from stylenat.training.checkpoint import save_checkpoint
from stylenat.training.state import new_state
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


# One loader for all


@pytest.fixture
def run(tmp_path):
    """A run with a training state at 64 images, and a snapshot of other weights."""
    folder = run_folder(tmp_path, "000000032")
    config = RunConfig(ModelConfig(tiny_generator().config, DISCRIMINATOR))
    save_config(config, folder / "config.yaml")
    state = new_state(config, torch.device("cpu"))
    with torch.no_grad():
        state.G_ema.const.fill_(0.5)
    state.nimg = 64
    (folder / "checkpoints").mkdir()
    save_checkpoint(folder / "checkpoints", state.state_dict(), keep=1)
    return folder


DISCRIMINATOR = DiscriminatorConfig((DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 8)))


def test_the_package_s_loader_takes_whatever_the_command_takes(run, tmp_path):
    official = save(tmp_path, official_weights())
    export = run / "snapshots" / "000000032.safetensors"
    state = run / "checkpoints" / "000000064.pt"
    z = torch.zeros(1, 8)
    for path in (run, export, state, str(run), official):
        generator = stylenat.load_generator(path)
        assert not generator.training
        assert int(generator.w_avg_samples) > 0
        expected = load_model(path)
        assert all(
            torch.equal(x, expected.state_dict()[name])
            for name, x in generator.state_dict().items()
        )
        if path != official:
            assert generator(z, truncation_psi=0.5).shape == (1, 3, 16, 16)
    assert torch.equal(stylenat.load_generator(run, which="last").const, tiny_generator(0).const)


def test_a_training_state_is_its_averaged_generator(run):
    generator = stylenat.load_generator(run / "checkpoints" / "000000064.pt")
    assert torch.equal(generator.const, torch.full_like(generator.const, 0.5))
    out = run / "ema.safetensors"
    result = CliRunner().invoke(main, ["convert", str(run / "checkpoints/000000064.pt"), str(out)])
    assert result.exit_code == 0, result.output
    assert torch.equal(load_generator(out).const, generator.const)
    for which in ("g", "d"):
        arguments = ["convert", f"--which={which}", str(run / "checkpoints/000000064.pt"), str(out)]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert load_discriminator(out).config == DISCRIMINATOR


def test_a_training_state_alone_needs_a_config(run, tmp_path):
    alone = tmp_path / "000000064.pt"
    (run / "checkpoints" / "000000064.pt").rename(alone)
    for load in (stylenat.load_generator, load_model, convert_checkpoint):
        with pytest.raises(ValueError, match=r"64\.pt is a training state, .* RUN/config\.yaml"):
            load(alone)
    config = load_config(run / "config.yaml")
    assert convert_checkpoint(alone, config=config).config == config.model.generator


def test_a_training_state_of_another_format_or_network_is_one_sentence(run):
    path = run / "checkpoints" / "000000064.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format": 2}, path)
    with pytest.raises(ValueError, match=r"64\.pt has checkpoint format 2, and this StyleNAT"):
        load_model(path)
    content["G_ema"].pop("const")
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"64\.pt, G_ema: its tensors .* 1 missing \(const"):
        load_model(path)
    torch.save(content | {"G_ema": {"const": 3}}, path)
    with pytest.raises(ValueError, match=r"G_ema: const is no plain tensor"):
        load_model(path)


def discriminator_export(run):
    save_discriminator(Discriminator(DISCRIMINATOR), run / "d.safetensors")
    return run / "d.safetensors"


def saved(content):
    def make(run):
        torch.save(content, run / "x.pt")
        return run / "x.pt"

    return make


def written(name, content):
    def make(run):
        (run / name).write_bytes(content)
        return run / name

    return make


OTHERS = {
    "snapshots": (lambda run: run / "snapshots", "is a part of a run: give one of its files, or t"),
    "checkpoints": (lambda run: run / "checkpoints", "is a part of a run: give one of its files"),
    "config": (
        lambda run: run / "config.yaml",
        "is a configuration, not a model: give the run's",
    ),
    "empty": (written("x.pt", b""), "is empty"),
    "empty export": (written("x.safetensors", b""), "is damaged, or no safetensors file"),
    "text": (written("x.txt", b"hello, world\n"), "is no model: neither a safetensors file nor a"),
    "text named as a model": (
        written("x.pt", b"hello, world\n"),
        "is no model: neither a safet",
    ),
    "picture": (
        written("x.png", b"\x89PNG\r\n\x1a\n" + bytes(40)),
        "is no model: neither a safet",
    ),
    "discriminator": (discriminator_export, "holds a discriminator, not a generator"),
    "optimizer": (saved({"state": {}, "param_groups": []}), "it holds none of g_ema, g and d"),
    "optimizer alone": (saved({"optimizer_g": {"state": {}}}), "it holds none of g_ema, g and d"),
    "tensors alone": (
        lambda run: saved(tiny_generator().state_dict())(run),
        "holds a generator's tensors without its configuration: write it with stylenat.save_gen",
    ),
    "renamed": (written("x.safetensors", b"PK\x03\x04"), "is a PyTorch file: rename it to x.pt"),
    "old format": (written("x.pt", b"\x80\x02}q\x00."), "older formats run code on loading"),
}


@pytest.mark.parametrize("load", [stylenat.load_generator, load_model])
@pytest.mark.parametrize("case", OTHERS)
def test_whatever_else_is_given_is_one_sentence_that_names_it(run, case, load):
    make, sentence = OTHERS[case]
    path = make(run)
    with pytest.raises(ValueError, match=re.escape(str(path))) as refusal:
        load(path)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_parts_of_a_run_are_for_the_loader_and_not_images(run):
    assert is_model(run / "snapshots")
    assert is_model(run / "checkpoints")
