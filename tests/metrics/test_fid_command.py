"""`stylenat fid`: what it prints and writes, and how it fails."""

import errno
import hashlib
import json
import os

import pytest
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.export import save_generator
from tests.metrics.standin import save_folder
from tests.sampling.tiny import tiny_generator
from tests.training.tiny import stylenat


@pytest.fixture
def files(tmp_path):
    """A model and a folder of its size."""
    save_generator(tiny_generator(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", save_folder(tmp_path / "data", 12, seed=1, side=16)


def fid(*arguments):
    return CliRunner().invoke(main, ["fid", *(str(argument) for argument in arguments)])


def test_scores_are_printed_and_written_with_their_protocol(files, small, tmp_path):
    model, data = files
    network = ["--mode=clean", "--weights", small, "--trust"]
    options = ["--data", data, "--metrics=fid,pr,swd", "--num=10", "--trunc=0.7", *network]
    result = fid(model, *options, "--out", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    names = ["fid", "precision", "recall", "swd", "swd_16"]
    assert [line.split()[0] for line in lines[:5]] == names
    assert "10 images (seeds 0-9) against 10 of 12" in lines[5]
    assert "not the published one" in lines[5]
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["model"] == "model.safetensors"
    assert written["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert f"{written['scores']['fid']:.6g}" in lines[0]
    assert written["protocol"]["images"]["truncation_psi"] == 0.7
    assert str(tmp_path) not in json.dumps(written)


def test_two_folders_and_drawn_faces_are_compared(files):
    _, folder = files
    result = fid(folder, "--data", folder, "--metrics=swd")
    assert result.exit_code == 0, result.output
    assert "12 images against 12 of 12" in result.stdout
    faces = fid(folder, "--data", "faces:5", "--metrics=swd")
    assert "5 of 5" in faces.stdout, faces.output


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["--metrics", "fdi"],
            1,
            "unknown metric 'fdi'; choose from fid, kid, pr, dc, mind; fd, kd",
        ),
        (["--metrics", ","], 1, "name at least one metric"),
        (["--num", "1"], 1, "fid takes at least 2 images generated (num): 1"),
        (["--weights", "absent.pth"], 1, f"absent.pth: {os.strerror(errno.ENOENT)}"),
        (["--mode", "cleaner"], 2, "'cleaner'"),
        (["--device", "tpu"], 1, "unknown device 'tpu'"),
    ],
)
def test_bad_values_are_one_sentence(files, arguments, code, sentence):
    model, data = files
    result = fid(model, "--data", data, *arguments)
    assert result.exit_code == code
    assert sentence in result.stderr.splitlines()[-1]


def test_missing_model_data_and_choice_are_one_sentence(files, tmp_path):
    model, data = files
    missing = os.strerror(errno.ENOENT)
    for arguments, sentence in (
        ([tmp_path / "absent.safetensors", "--data", data], f"absent.safetensors: {missing}"),
        ([tmp_path / "absent", "--data", data], f"absent: {missing}"),
        ([model, "--data", tmp_path / "absent.zip", "--metrics=swd"], f"absent.zip: {missing}"),
        ([model, "--metrics=swd"], "needs a data set or a file of reference statistics"),
        ([model, "--data", save_folder(tmp_path / "l", 4, seed=0), "--metrics=swd"], "16x16"),
    ):
        result = fid(*arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.output
        assert sentence in result.stderr


@pytest.mark.slow
def test_torchrun_lets_the_number_of_images_through(tmp_path):
    """In its long form it stops: `ambiguous option: --num could match --numa-binding`."""
    folder = save_folder(tmp_path / "a", 6, seed=0, side=16)
    options = ("--data", folder, "--metrics", "swd", "-n", 4, "--workers", 0)
    done = stylenat("fid", folder, *options, ranks=2)
    assert done.returncode == 0, done.stderr
    assert "4 images against 4 of 6" in done.stdout
