"""What the folder of a training run holds, by name. `training.run_folder` fills it.

config.yaml  starts.jsonl  stats.jsonl  log.txt  progress.png  samples/  checkpoints/  snapshots/
faults.jsonl and stopped, if there was something to say; tensorboard/, truncation.json and
report.html, if they were asked for.
.lock: who trains here.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG, STATS = "config.yaml", "stats.jsonl"
WARNING = "warning: "  # which a warning begins with in log.txt, after its time
SAMPLES, CHECKPOINTS, SNAPSHOTS = "samples", "checkpoints", "snapshots"

# The pictures that are no images to train on: a run's, and the contact sheet of `stylenat sample`.
SHEET_NAME = re.compile(r"(grid|reals|progress|\d{9})\.png")


class RunPaths:
    """The paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.starts = path / "starts.jsonl"
        self.stats = path / STATS
        self.faults = path / "faults.jsonl"
        self.log = path / "log.txt"
        self.stopped = path / "stopped"
        self.curves = path / "progress.png"
        self.samples = path / SAMPLES
        self.reals = self.samples / "reals.png"
        self.checkpoints = path / CHECKPOINTS
        self.snapshots = path / SNAPSHOTS
        self.best = self.snapshots / "best.safetensors"
        self.tensorboard = path / "tensorboard"
        self.truncation = path / "truncation.json"
        self.report = path / "report.html"

    def sample(self, nimg: int) -> Path:
        """The contact sheet of the average generator after `nimg` images."""
        return self.samples / numbered_name(nimg, ".png")

    def snapshot(self, nimg: int) -> Path:
        """The average generator after `nimg` images, as an export."""
        return self.snapshots / numbered_name(nimg, ".safetensors")


def numbered_name(nimg: int, suffix: str) -> str:
    """A file's name by the images that the run had seen: 000012000.pt."""
    return f"{nimg:09d}{suffix}"


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that are named so, the newest first."""
    files = [path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()]
    return sorted(files, key=lambda path: int(path.stem), reverse=True)
