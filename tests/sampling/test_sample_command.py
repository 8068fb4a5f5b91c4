"""`stylenat sample`: the files it leaves, alone and by two processes, and how it fails."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.data import open_images
from stylenat.export import save_generator
from stylenat.sampling import generate
from tests.sampling.tiny import tiny_generator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_generator(tiny_generator(), path)
    return path


def sample(*arguments):
    return CliRunner().invoke(main, ["sample", *(str(argument) for argument in arguments)])


def pixels(path):
    with Image.open(path) as image:
        return np.array(image).astype(int)


def test_a_png_a_seed_and_a_sheet_of_them(model, tmp_path):
    out = tmp_path / "new" / "out"
    result = sample(model, "--seeds", "0-2,100,12345", "--trunc", "0.7", "--outdir", out)
    assert result.exit_code == 0, result.output
    names = ["grid.png", *(f"seed{seed}.png" for seed in ("0000", "0001", "0002", "0100", "12345"))]
    assert sorted(path.name for path in out.iterdir()) == names
    assert result.stdout == f"5 images of {model} in {out}, contact sheet {out / 'grid.png'}\n"
    (expected,) = generate(tiny_generator(), [0, 1, 2, 100, 12345], truncation_psi=0.7)
    found = np.stack([pixels(out / name) for name in names[1:]])
    assert np.abs(found - expected.numpy()).max() <= 1
    sheet = pixels(out / "grid.png")
    assert sheet.shape == (32, 48, 3)
    assert np.array_equal(sheet[:16, 16:32], found[1])
    assert np.array_equal(sheet[16:, :16], found[3])
    assert not sheet[16:, 32:].any()


def test_what_it_leaves_is_a_data_set_of_the_images_alone(model, tmp_path):
    out = tmp_path / "out"
    assert sample(model, "--seeds=0-4", "--outdir", out).exit_code == 0
    images = open_images(str(out), resolution=16)
    assert [images.name(i) for i in range(len(images))] == [f"seed{i:04d}.png" for i in range(5)]
    assert images.remarks == ("left out 1 contact sheet: grid.png",)


def test_sheet_is_of_the_first_seeds_and_can_be_left_out(model, tmp_path):
    out = tmp_path / "out"
    assert sample(model, "--seeds=0-4", "--outdir", out, "--grid=3x1", "--batch=2").exit_code == 0
    sheet = pixels(out / "grid.png")
    assert np.array_equal(sheet[:, 32:], pixels(out / "seed0002.png"))
    result = sample(model, "--seeds=8", "--outdir", tmp_path / "none", "--grid=none")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["seed0008.png"]
    assert "contact sheet" not in result.stdout


def test_two_processes_write_what_one_does(model, tmp_path):
    options = ["--seeds=0-6", "--grid=4x2", "--batch=2", "--device=cpu", "--outdir"]
    assert sample(model, *options, tmp_path / "one").exit_code == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "stylenat", "sample", model, *options, tmp_path / "two"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("7 images of") == 1
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        one, two = pixels(tmp_path / "one" / name), pixels(tmp_path / "two" / name)
        assert np.abs(one - two).max() <= 1, name


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--seeds", ""], 1, "there must be at least one seed"),
        (["--seeds", "4-1"], 1, "a range of seeds must not run backwards: 4-1"),
        (["--seeds", "0", "--grid", "0x3"], 1, "1 to 10,000 images: 0x3"),
        (["--seeds", "0", "--trunc", "nan"], 1, "truncation_psi must be finite: nan"),
        (["--seeds", "0", "--device", "tpu"], 1, "unknown device 'tpu'"),
        (["--seeds", f"{2**40}", "--seed-scheme", "stylegan"], 1, "seeds of scheme stylegan"),
        (["--seeds", "0", "--grid", "big"], 2, "'big' is not columns and rows, such as 8x4"),
        (["--seeds", "0", "--batch", "0"], 2, "'--batch'"),
        ([], 2, "'--seeds'"),
    ],
)
def test_bad_values_are_one_sentence(model, tmp_path, arguments, code, sentence):
    result = sample(model, *arguments, "--outdir", tmp_path / "out")
    assert result.exit_code == code
    assert sentence in result.stderr.splitlines()[-1]


def test_missing_model_and_diverged_model_are_one_sentence(tmp_path):
    absent = tmp_path / "absent.safetensors"
    missing = os.strerror(errno.ENOENT)
    result = sample(absent, "--seeds=0", "--outdir", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, f"Error: {absent}: {missing}\n")
    broken = tiny_generator()
    with torch.no_grad():
        broken.const.fill_(float("nan"))
    save_generator(broken, tmp_path / "broken.safetensors")
    result = sample(tmp_path / "broken.safetensors", "--seeds=0", "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    assert "must not hold NaN" in result.stderr
