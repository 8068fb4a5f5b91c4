"""A small model in a file, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from stylenat.cli import main
from stylenat.export import save_generator
from tests.sampling.tiny import tiny_generator


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_generator(tiny_generator(), path)
    return path


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    path = tmp_path / "other.safetensors"
    save_generator(tiny_generator(1), path)
    return path


@pytest.fixture
def run() -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def pixels() -> Callable[[Path], np.ndarray]:
    def pixels(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.array(image).astype(int)

    return pixels
