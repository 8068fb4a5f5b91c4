"""Samples of a model with classes: one class, all of them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.export import load_generator, save_generator
from stylenat.sampling import (
    Styles,
    blend,
    chosen_classes,
    compile_synthesis,
    default_sheet,
    generate,
)
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


def test_all_classes_get_a_row_each_even_in_a_sheet_that_is_too_wide(model, tmp_path):
    result = sample(
        model, "--seeds", "5,9", "--class", "all", "--grid", "7x2", "--outdir", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    files = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {f"class{label}-seed{seed:04d}.png" for label in range(3) for seed in (5, 9)}
    assert files == {*drawn, "grid.png"}
    assert "6 images" in result.output
    sheet = pixels(tmp_path / "out" / "grid.png")
    assert sheet.shape == (32, 32, 3)
    for row in range(2):
        for column, seed in enumerate((5, 9)):
            cell = sheet[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            image = pixels(tmp_path / "out" / f"class{row}-seed{seed:04d}.png")
            assert np.array_equal(cell, image)


def test_a_class_by_name_is_that_of_its_number(model, tmp_path):
    for text, folder in (("dog", "name"), ("1", "number")):
        assert (
            sample(model, "--seeds", "3", "--class", text, "--outdir", tmp_path / folder).exit_code
            == 0
        )
    (expected,) = generate(generator_of_classes(), [3], [1])
    for folder in ("name", "number"):
        image = pixels(tmp_path / folder / "class1-seed0003.png")
        assert np.array_equal(image, expected[0].numpy())


def test_truncation_leads_to_the_mean_of_the_class():
    generator = generator_of_classes()
    for label in range(3):
        styles = Styles(generator, [1, 2], [label], truncation_psi=0.0).all(batch=2)
        assert torch.allclose(styles.ws, generator.w_avg[label].expand_as(styles.ws), atol=1e-6)
    assert not torch.allclose(generator.w_avg[0], generator.w_avg[1], atol=1e-3)


def test_saved_ws_of_classes_come_back_and_go_to_the_mean_of_all(model, tmp_path):
    assert (
        sample(
            model, "--seeds", "3", "--class", "great owl", "--save-w", "--outdir", tmp_path / "a"
        ).exit_code
        == 0
    )
    ws_file = str(tmp_path / "a" / "ws.safetensors")
    assert sample(model, "--ws", ws_file, "--outdir", tmp_path / "b").exit_code == 0
    name = "class2-seed0003.png"
    assert np.array_equal(pixels(tmp_path / "a" / name), pixels(tmp_path / "b" / name))
    assert sample(model, "--ws", ws_file, "--trunc", "0", "--outdir", tmp_path / "c").exit_code == 0
    generator = generator_of_classes()
    ws = generator.w_avg.mean(0).expand(1, generator.num_ws, -1)
    with torch.no_grad():
        expected = generator.to_uint8(generator.synthesis(ws))[0]
    assert np.array_equal(pixels(tmp_path / "c" / name), expected.numpy())


def test_a_sweep_goes_through_the_mean_of_the_class(model, tmp_path):
    options = ("--seeds", "3", "--class", "great owl", "--trunc-sweep", "0:1:2")
    result = sample(model, *options, "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    sheet = pixels(tmp_path / "out" / "sweep.png")
    for column, psi in enumerate((0.0, 1.0)):
        (expected,) = generate(generator_of_classes(), [3], [2], truncation_psi=psi)
        cell = sheet[:, 16 * column : 16 * column + 16].astype(int)
        assert abs(cell - expected[0].numpy()).max() <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--seeds", "0"), "give --class NAME, --class NUMBER or --class all"),
        (("--seeds", "0", "--class", "car"), "there is no class 'car': this model has the classes"),
        (("--seeds", "0", "--class", "3"), "there is no class '3'"),
        (("--ws", "none.safetensors", "--class", "0"), "--class is for seeds, and there are none"),
        (
            ("--seeds", "0", "--class", "0", "--trunc-modes", "4", "--trunc", "0.5"),
            "--trunc-modes is for models without classes",
        ),
    ],
)
def test_what_makes_no_image_is_refused_in_a_sentence(model, tmp_path, options, sentence):
    result = sample(model, *options, "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    assert sentence in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("mix", "--rows", "1,2", "--cols", "3", "--out", "out.png"),
        ("film", "--seeds", "1,2", "--frames", "2", "--out", "out.webp"),
        ("directions", "--count", "2", "--strip-seeds", "1", "--out", "out.json"),
        (
            "directions",
            "--method",
            "jacobian",
            "--count",
            "2",
            "--strip-seeds",
            "1",
            "--out",
            "out.json",
        ),
        ("attention", "--seeds", "1", "--out", "out"),
    ],
)
def test_what_is_done_with_seeds_is_done_with_those_of_a_class(model, tmp_path, command):
    name, *options = command
    options = [str(tmp_path / text) if text.startswith("out") else text for text in options]
    refused = CliRunner().invoke(main, [name, str(model), *options])
    assert refused.exit_code == 1
    assert "give --class NAME" in refused.output
    result = CliRunner().invoke(main, [name, str(model), "--class", "great owl", *options])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob("out*"))
