"""A run's folder: which config may continue it, and what it logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stylenat.config import load_config, save_config
from stylenat.training.run_folder import RunFolder, next_run_folder
from tests.training.tiny import tiny


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.open(tiny())
    return folder


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"total_kimg": 8, "keep_snapshots": 1, "sample_grid": [3, 3], "batch_gpu": 4}},
        {"data": {"path": "elsewhere.zip", "workers": 4}},
        {"metrics": {"names": ["swd"], "num": 8}},
    ],
)
def test_how_a_run_is_computed_shown_and_kept_may_change(folder, sections):
    folder.open(tiny(**sections))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"train": {"lr_g": 0.5}}, r"train\.lr_g \(0\.001 there, 0\.5 here\)"),
        ({"train": {"consistency": None}}, r"train\.consistency\.real_weight \(10\.0 there"),
        ({"data": {"mirror": False}}, r"data\.mirror \(True there, False here\)"),
        ({"data": {"seed": 3}}, r"data\.seed \(0 there, 3 here\)"),
    ],
)
def test_a_folder_of_another_run_is_refused_with_the_keys_and_values(folder, sections, key):
    with pytest.raises(ValueError, match=rf"holds a run of another config: {key}"):
        folder.open(tiny(**sections))


def without_data_seed(folder: RunFolder, **sections: dict[str, object]) -> None:
    """As a run folder was before there was data.seed."""
    save_config(tiny(**sections), folder.config)
    text = folder.config.read_text()
    older, replaced = re.subn(r"(?m)^(data:(?:\n  .*)*?)\n  seed: 0$", r"\1", text)
    assert replaced == 1, text
    folder.config.write_text(older)


def test_an_older_run_drew_its_data_with_train_seed(folder):
    without_data_seed(folder, train={"seed": 5})
    with pytest.raises(
        ValueError, match=r"/run drew its data with train\.seed.*: give data\.seed=5"
    ):
        folder.open(tiny(train={"seed": 5}))
    folder.open(tiny(train={"seed": 5}, data={"seed": 5}))
    assert load_config(folder.config).data.seed == 5
    without_data_seed(folder)
    folder.open(tiny())


def test_an_older_run_that_drew_nothing_continues_as_it_is(folder):
    sections = {"train": {"seed": 5}}
    without_data_seed(folder, **sections, data={"path": "images.zip"})
    folder.open(tiny(**sections, data={"path": "images.zip"}))
    without_data_seed(folder, **sections, data={"path": "images.zip", "max_images": 9})
    with pytest.raises(ValueError, match=r"give data\.seed=5 to continue it"):
        folder.open(tiny(**sections, data={"path": "images.zip", "max_images": 9}))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"is no run folder: it has files, but no config\.yaml"):
        RunFolder(tmp_path).open(tiny())


def test_statistics_after_the_checkpoint_are_forgotten(folder):
    for nimg in (8, 16, 24):
        folder.append_stats({"nimg": nimg, "loss_d": 1.5})
    with folder.stats.open("a") as file:
        file.write('{"nimg": 32, "los')  # a process that was killed
    folder.rewind_stats(16)
    assert [entry["nimg"] for entry in folder.points()] == [8, 16]


def test_new_runs_are_numbered_after_the_last(tmp_path):
    assert next_run_folder(Path("configs/a.yaml"), tmp_path).name == "0000-a"
    (tmp_path / "0006-b").mkdir()
    (tmp_path / "notes").mkdir()
    assert next_run_folder(Path("configs/a.yaml"), tmp_path).name == "0007-a"


def test_only_the_newest_numbered_snapshots_stay(folder):
    for name in ("000000008", "000000016", "000000024", "best"):
        (folder.snapshots / f"{name}.safetensors").touch()
    folder.keep_snapshots(2)
    left = sorted(path.stem for path in folder.snapshots.iterdir())
    assert left == ["000000016", "000000024", "best"]
