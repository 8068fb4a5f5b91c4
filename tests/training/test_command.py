"""`stylenat train`: what it prints, and how it refuses what cannot be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stylenat import cli
from stylenat.training.dry_run import state_bytes
from tests.training.tiny import write_tiny


@pytest.fixture(autouse=True)
def _no_allocator_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command switches the whole process's allocator, which here is the tests' own."""
    monkeypatch.setattr("stylenat.memory.keep_freed_memory", lambda: False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["train", *map(str, arguments), "--device", "cpu"])


def test_dry_run_shows_what_would_be_trained_and_writes_nothing(config, tmp_path):
    done = train(config, "train.batch_gpu=4", "--run-dir", tmp_path / "run", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "batch_gpu: 4" in done.output
    assert "data     faces:64: 64 images, 16x16" in done.output
    assert "a step   8 images: 1 x 2 x 4" in done.output
    assert "the run  5 steps, 0.04 kimg" in done.output
    assert "memory   about 0.00 GB a rank" in done.output
    assert not (tmp_path / "run").exists()


def test_memory_estimate_counts_weights_gradients_and_moments():
    """Of G twice (its average), of D once; one gradient at a time; two moments of each."""
    assert state_bytes(10, 4, 10, 4) == 4 * (20 + 4 + 10 + 28)


def test_memory_estimate_of_frozen_parts_has_neither_gradients_nor_moments():
    assert state_bytes(10, 4, 6, 1) == 4 * (20 + 4 + 6 + 14)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.path=null"], "data.path is not set"),
        (["data.path=nowhere.zip"], "nowhere.zip"),
        (["data.path=faces:4"], "faces:4: 4 images are fewer than train.batch, 8"),
        (["train.batch=6"], "must be a multiple of model.discriminator.stddev_group: 6 against 4"),
        (["train.batch_gpu=3"], "train.batch_gpu must divide a rank's share of train.batch"),
        (["train.lr=1"], "train.lr"),
        (["train.lr_g=-1"], "lr_g must be positive: -1"),
        (["train.r1_every=0"], "r1_every must be at least 1: 0"),
        (["train.sample_grid=[0,4]"], "sample_grid must be columns and rows"),
        (["train.precision=float8"], "train.precision must be float32 or bfloat16"),
        (["metrics.names=[fidd]"], "unknown metric 'fidd'; choose from fid, kid, pr, dc, mind"),
        (["metrics.names=[fid]", "metrics.num=8"], "pt_inception-2015-12-05-6726825d.pth"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_anything_is_written(
    config, tmp_path, monkeypatch, overrides, message
):
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = train(config, *overrides, "--run-dir", tmp_path / "run")
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_are_refused_with_the_way_out(config, tmp_path):
    from PIL import Image

    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (20, 30)).save(folder / f"{i}.png")
    done = train(config, f"data.path={folder}", "--run-dir", tmp_path / "run")
    assert done.exit_code == 1
    assert "0.png" in done.stderr
    assert "20x30" in done.stderr
    assert "stylenat prepare" in done.stderr
    done = train(
        config,
        f"data.path={folder}",
        "data.resize=bilinear",
        "train.total_kimg=0.008",
        "--run-dir",
        tmp_path / "run",
    )
    assert done.exit_code == 0, done.stderr


def test_an_unknown_device_is_refused(config):
    done = CliRunner().invoke(cli.main, ["train", str(config), "--device", "tpu:0"])
    assert done.exit_code == 1
    assert "unknown device 'tpu:0'" in done.stderr


def test_a_run_folder_of_another_config_is_refused(config, tmp_path):
    run = tmp_path / "run"
    assert train(config, "train.total_kimg=0.008", "--run-dir", run).exit_code == 0
    done = train(config, "train.seed=1", "--run-dir", run)
    assert done.exit_code == 1
    assert "train.seed (0 there, 1 here); choose another --run-dir" in done.stderr


def test_without_a_run_dir_a_numbered_folder_is_made(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        assert train(config, "train.total_kimg=0.008").exit_code == 0
        assert (tmp_path / "results" / "runs" / f"{number:04d}-tiny" / "config.yaml").exists()
