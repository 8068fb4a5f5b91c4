"""Copies are found, the sheet shows them first, and images are ranked by realism."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.export import save_generator
from stylenat.metrics.nearest import nearest, share_among_data
from tests.metrics.standin import save_folder
from tests.sampling.tiny import tiny_generator

OURS = {"--space": "inception", "--mode": "clean", "--workers": "0"}


@pytest.fixture
def folders(tmp_path):
    """Training images, and others of which four are copies of them with a few bits changed."""
    train = save_folder(tmp_path / "train", 24, seed=0, side=16)
    made = save_folder(tmp_path / "made", 8, seed=1, side=16)
    for index in range(4):
        pixels = np.array(Image.open(train / f"{index + 10:03}.png"))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(made / f"copy{index}.png")
    return train, made


def run(command, *arguments, **options):
    pairs = [part for pair in options.items() for part in pair]
    return CliRunner().invoke(main, [command, *map(str, arguments), *pairs])


# the numbers


@pytest.mark.parametrize("chunk", [4096, 5])
def test_nearest_images_and_their_surroundings_are_those_of_all_distances(monkeypatch, chunk):
    monkeypatch.setattr("stylenat.metrics.precision_recall.CHUNK", chunk)
    images, data = torch.randn(13, 4).double(), torch.randn(11, 4).double()
    found = nearest(images, data)
    distances, own = torch.cdist(images, data), torch.cdist(data, data).fill_diagonal_(torch.inf)
    assert found.indices_N.tolist() == distances.argmin(dim=1).tolist()
    torch.testing.assert_close(found.distances_N, distances.amin(dim=1))
    others = own.amin(dim=1)[distances.argmin(dim=1)]
    torch.testing.assert_close(found.others_N, others)
    assert found.share == float((distances.amin(dim=1) < others).double().mean())
    ratios = (found.distances_N / found.others_N)[found.order]
    assert torch.equal(ratios, ratios.sort().values)


def test_copies_have_share_one_and_what_is_apart_has_none():
    data = torch.randn(50, 6)
    assert nearest(data + 1e-3, data).share == 1
    assert nearest(data + 100, data).share == 0
    assert 0.2 < share_among_data(torch.randn(400, 6)) < 0.8  # as new images of the same kind
    with pytest.raises(ValueError, match="at least 4 images of the data: 3"):
        share_among_data(data[:3])
    with pytest.raises(ValueError, match="at least 2 images of the data: 1"):
        nearest(data, data[:1])


# the command


def test_copies_come_first_beside_what_they_copy(folders, small, tmp_path):
    train, made = folders
    sheet, out = tmp_path / "sheet.png", tmp_path / "numbers.json"
    result = run("nearest", made, "--trust", "--data", train, "--weights", small, "--sheet", sheet,
                 "--pairs", 4, "--out", out, **OURS)  # fmt: skip
    assert result.exit_code == 0, result.output
    numbers = json.loads(out.read_text())
    assert numbers["share"] >= 4 / 12
    assert numbers["protocol"]["data"]["num"] == 24
    assert f"{numbers['share']:.1%} of 12 images" in result.output
    pixels = np.asarray(Image.open(sheet)).astype(int)
    assert pixels.shape == (16, 8 * 16, 3)
    for pair in range(4):
        left, right = (
            pixels[:, 32 * pair : 32 * pair + 16],
            pixels[:, 32 * pair + 16 : 32 * pair + 32],
        )
        assert np.abs(left - right).sum() <= 3
        assert np.abs(left - right).sum() > 0


def test_a_model_is_looked_at_and_a_run_s_own_data_are_the_default(small, folders, tmp_path):
    model = tmp_path / "model.safetensors"
    save_generator(tiny_generator(), model)
    sheet = tmp_path / "sheet.png"
    arguments = (model, "--trust", "--weights", small, "--sheet", sheet, "--num", 6)
    result = run("nearest", *arguments, "--data", folders[0], **OURS)
    assert result.exit_code == 0, result.output
    assert Image.open(sheet).size == (8 * 16, 2 * 16)  # six pairs, four in a row
    result = run("nearest", *arguments, **OURS)
    assert result.exit_code == 1
    assert result.stderr == "Error: --data must name the images to look beside\n"


def test_what_cannot_be_shown_or_written_is_refused_first(small, folders, tmp_path):
    train, made = folders
    large = save_folder(tmp_path / "large", 5, seed=3, side=32)
    rest = ("--trust", "--weights", small)
    result = run("nearest", large, "--data", train, *rest, "--sheet", tmp_path / "s.png", **OURS)
    assert result.exit_code == 1
    assert "images must have the data's size, 16x16, to stand beside them: 32x32" in result.stderr
    result = run("nearest", made, "--data", train, "--sheet", tmp_path / "s.jpg", **OURS)
    assert "must end in .png" in result.stderr
    assert not (tmp_path / "s.png").exists()


def test_a_ranking_shows_training_images_before_white_ones(folders, small, tmp_path):
    train, _ = folders
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(240, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(mixed / f"a{index}.png")  # nearly white
        shutil.copy(train / f"{index:03}.png", mixed / f"b{index}.png")
    sheet = tmp_path / "ranked.png"
    options = {"--mode": "clean", "--workers": "0"}
    arguments = (mixed, "--trust", "--data", train, "--weights", small, "--rank", sheet)
    result = run("fid", *arguments, "--metrics", "kid", **options)
    assert result.exit_code == 0, result.output
    assert "6 images, from" in result.stdout
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (16, 6 * 16, 3)
    noises = [np.asarray(Image.open(mixed / f"a{index}.png")) for index in range(3)]
    last = [pixels[:, 16 * i : 16 * i + 16] for i in (3, 4, 5)]
    assert all(any(np.array_equal(x, noise) for noise in noises) for x in last)
    result = run("fid", *arguments[:-4], "--metrics", "swd", "--rank", sheet, **options)
    assert result.exit_code == 1
    assert "a ranking needs a score that compares features" in result.stderr
