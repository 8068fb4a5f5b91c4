"""A run of a few steps, whose files the tests copy and change; and a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from stylenat.training.loop import train
from tests.explorer.conftest import browser  # noqa: F401
from tests.training.tiny import tiny


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> Path:
    """Five steps with held-out images and scores; four grids."""
    run = tmp_path_factory.mktemp("reported") / "tiny-run"
    config = tiny(
        data={"holdout": 0.25},
        train={"augment": "ada"},
        metrics={"names": ["swd"], "every_kimg": 0.016, "num": 16},
    )
    assert train(config, run, torch.device("cpu")) is None
    return run


@pytest.fixture
def run(whole_run, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole_run, tmp_path / "tiny-run"))
