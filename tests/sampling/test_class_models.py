"""Samples of a model with classes: one class, all of them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.export import load_generator, save_generator
from stylenat.sampling import blend, chosen_classes, compile_synthesis, default_sheet, generate
from tests.sampling.tiny import CLASS_NAMES as NAMES
from tests.sampling.tiny import generator_of_classes, tiny_generator


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_generator(generator_of_classes(), path)
    return path


def sample(*arguments):
    return CliRunner().invoke(main, ["sample", *(str(argument) for argument in arguments)])


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def expected(labels, seeds, **settings):
    return torch.cat([*generate(generator_of_classes(), seeds, labels, **settings)]).numpy()


def near(one, other) -> bool:
    return np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_an_export_keeps_its_classes_and_their_names(model):
    loaded = load_generator(model)
    assert loaded.config.class_names == NAMES
    assert loaded.w_avg.shape == (3, 8)
    z, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    assert torch.equal(loaded(z, labels), generator_of_classes()(z, labels))


@pytest.mark.parametrize("chosen", ["great owl", "2"])
def test_one_class_by_its_name_or_number(model, tmp_path, chosen):
    out = tmp_path / "out"
    done = sample(model, "--seeds", "0-2", "--class", chosen, "--trunc", "0.5", "--outdir", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"3 images of {model} in {out}, contact sheet {out / 'grid.png'}\n"
    found = np.stack([pixels(out / f"class2-seed000{seed}.png") for seed in range(3)])
    assert near(found, expected([2, 2, 2], [0, 1, 2], truncation_psi=0.5))
    assert len(list(out.iterdir())) == 4


def test_all_classes_have_a_row_each(model, tmp_path):
    out = tmp_path / "out"
    done = sample(model, "--seeds", "5-8", "--class", "all", "--outdir", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("12 images of")
    assert len(list(out.iterdir())) == 13
    sheet = pixels(out / "grid.png").reshape(3, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4)
    for label in range(3):
        assert near(sheet[label], expected([label] * 4, [5, 6, 7, 8]))
        assert np.array_equal(sheet[label, 1], pixels(out / f"class{label}-seed0006.png"))


def test_a_smaller_sheet_shows_the_first_seeds_of_the_first_classes(model, tmp_path):
    out = tmp_path / "out"
    arguments = ["--class", "all", "--grid", "2x2", "--batch", "5", "--outdir", out]
    assert sample(model, "--seeds", "0-3", *arguments).exit_code == 0
    sheet = pixels(out / "grid.png").reshape(2, 16, 2, 16, 3).transpose(0, 2, 1, 3, 4)
    assert len(list(out.iterdir())) == 13
    for label in range(2):
        assert near(sheet[label], expected([label] * 2, [0, 1]))


def test_the_sheet_of_classes_has_ten_seeds_and_a_hundred_classes_at_most():
    assert default_sheet(4, 3) == (4, 3)
    assert default_sheet(64, 1000) == (10, 100)
    assert default_sheet(64, 1) == default_sheet(64)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "this model has the classes 0 to 2: 0 cat, 1 dog, 2 great owl; give --class NAME"),
        (["--class", "owl"], "there is no class 'owl': this model has the classes 0 to 2: 0 cat"),
        (["--class", "3"], "there is no class '3': this model has the classes 0 to 2: 0 cat"),
    ],
)
def test_a_class_must_be_one_of_the_model(model, tmp_path, arguments, sentence):
    done = sample(model, "--seeds", "0", *arguments, "--outdir", tmp_path / "out")
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_without_classes_takes_no_class(tmp_path):
    save_generator(tiny_generator(), tmp_path / "plain.safetensors")
    arguments = ["--seeds", "0", "--class", "cat", "--outdir", tmp_path / "out"]
    done = sample(tmp_path / "plain.safetensors", *arguments)
    assert done.exit_code == 1
    assert "this model has no classes: leave out --class 'cat'" in done.stderr
    assert chosen_classes(tiny_generator(), None) is None


def test_generate_refuses_labels_that_do_not_fit():
    for labels in (None, [0], [0, 3], [0.0, 1.0]):
        with pytest.raises(ValueError, match="labels"):
            next(generate(generator_of_classes(), [0, 1], labels))
    with pytest.raises(ValueError, match="has no classes"):
        next(generate(tiny_generator(), [0, 1], [0, 1]))


def test_a_compiled_synthesis_makes_the_images_of_classes(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: real(f, backend="aot_eager"))
    generator = generator_of_classes()
    compile_synthesis(generator)
    (images,) = generate(generator, [0, 1], [2, 0])
    assert near(images.numpy(), expected([2, 0], [0, 1]))


def test_models_of_other_classes_are_not_blended():
    plain, named = tiny_generator(), generator_of_classes()
    with pytest.raises(ValueError, match=r"one architecture can be blended; .*classes \(0 and 3\)"):
        blend(plain, named, from_level=8)
    other = generator_of_classes()
    other.config = replace(other.config, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="these differ in class_names"):
        blend(named, other, from_level=8)
    blended = blend(named, generator_of_classes(), from_level=8)
    assert torch.equal(blended.w_avg, named.w_avg)
