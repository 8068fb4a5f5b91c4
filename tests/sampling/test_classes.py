"""Images of a model with classes: which files there are, what the sheet shows, truncation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.export import save_generator
from stylenat.models import Generator
from stylenat.sampling import Styles, generate
from tests.sampling.tiny import CONFIG

NAMES = ("animal", "flag", "food")


def conditional() -> Generator:
    torch.manual_seed(0)
    generator = Generator(replace(CONFIG, classes=3, class_names=NAMES)).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "to_rgb" in name and parameter.ndim > 1:
                parameter.mul_(150)
    generator.store_w_avg()
    return generator


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_generator(conditional(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def sample(model: Path, outdir: Path, *options: str):
    return CliRunner().invoke(main, ["sample", str(model), "--outdir", str(outdir), *options])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_all_classes_get_a_row_each_even_in_a_sheet_that_is_too_wide(model, tmp_path):
    result = sample(model, tmp_path / "out", "--seeds", "5,9", "--class", "all", "--grid", "7x2")
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
    for text, folder in (("flag", "name"), ("1", "number")):
        assert sample(model, tmp_path / folder, "--seeds", "3", "--class", text).exit_code == 0
    (expected,) = generate(conditional(), [3], [1])
    for folder in ("name", "number"):
        image = pixels(tmp_path / folder / "class1-seed0003.png")
        assert np.array_equal(image, expected[0].numpy())


def test_truncation_leads_to_the_mean_of_the_class():
    generator = conditional()
    for label in range(3):
        styles = Styles(generator, [1, 2], [label], truncation_psi=0.0).all(batch=2)
        assert torch.allclose(styles.ws, generator.w_avg[label].expand_as(styles.ws), atol=1e-6)
    assert not torch.allclose(generator.w_avg[0], generator.w_avg[1], atol=1e-3)


def test_saved_ws_of_classes_come_back_and_go_to_the_mean_of_all(model, tmp_path):
    assert (
        sample(model, tmp_path / "a", "--seeds", "3", "--class", "food", "--save-w").exit_code == 0
    )
    ws_file = str(tmp_path / "a" / "ws.safetensors")
    assert sample(model, tmp_path / "b", "--ws", ws_file).exit_code == 0
    name = "class2-seed0003.png"
    assert np.array_equal(pixels(tmp_path / "a" / name), pixels(tmp_path / "b" / name))
    assert sample(model, tmp_path / "c", "--ws", ws_file, "--trunc", "0").exit_code == 0
    generator = conditional()
    ws = generator.w_avg.mean(0).expand(1, generator.num_ws, -1)
    with torch.no_grad():
        expected = generator.to_uint8(generator.synthesis(ws))[0]
    assert np.array_equal(pixels(tmp_path / "c" / name), expected.numpy())


def test_a_sweep_goes_through_the_mean_of_the_class(model, tmp_path):
    options = ("--seeds", "3", "--class", "food", "--trunc-sweep", "0:1:2")
    result = sample(model, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    sheet = pixels(tmp_path / "out" / "sweep.png")
    for column, psi in enumerate((0.0, 1.0)):
        (expected,) = generate(conditional(), [3], [2], truncation_psi=psi)
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
    result = sample(model, tmp_path / "out", *options)
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
    result = CliRunner().invoke(main, [name, str(model), "--class", "food", *options])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob("out*"))
