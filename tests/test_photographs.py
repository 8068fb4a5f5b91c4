"""Real photographs through every command: prepare, train, sample, fid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.tiny import stylenat, write_tiny

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg")


def write_crops(folder: Path, count: int) -> None:
    """Square crops, 48 to 160 pixels wide, of scikit-image's photographs: JPEG and PNG files."""
    skimage = pytest.importorskip("skimage", reason="scikit-image carries the photographs")
    source = Path(skimage.__file__).parent / "data"
    rng = np.random.default_rng(0)
    for i in range(count):
        with Image.open(source / PHOTOGRAPHS[i % len(PHOTOGRAPHS)]) as photograph:
            side = int(rng.integers(48, 161))
            left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
            crop = photograph.convert("RGB").crop((left, top, left + side, top + side))
        subfolder = folder / PHOTOGRAPHS[i % len(PHOTOGRAPHS)].partition(".")[0]
        subfolder.mkdir(parents=True, exist_ok=True)
        crop.save(subfolder / f"crop {i}.{'jpg' if i % 2 else 'png'}")


@pytest.mark.slow
def test_photographs_go_through_every_command(tmp_path):
    write_crops(tmp_path / "photographs", 60)
    config, data, run = write_tiny(tmp_path), tmp_path / "data.zip", tmp_path / "run"
    commands = (
        ("prepare", tmp_path / "photographs", data, "--resolution", 16),
        ("train", config, f"data.path={data}", "train.total_kimg=0.16", "--run-dir", run),
        ("sample", run, "--seeds", "0-5", "--outdir", tmp_path / "out", "--grid", "3x2"),
        ("fid", run, "--data", data, "--metrics", "swd", "--num", 60, "--out", tmp_path / "s.json"),
    )
    for command in commands:
        done = stylenat(*command)
        assert done.returncode == 0, done.stderr

    samples = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert samples == ["grid.png", *(f"seed{i:04d}.png" for i in range(6))]
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.size == (48, 32)
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["scores"]["swd"] > 0
    assert written["protocol"]["reference"]["num"] == 60
    first, *_, last = map(json.loads, (run / "stats.jsonl").read_text().splitlines())
    assert last["nimg"] == 160
    assert last["real_logits"] != first["real_logits"]
