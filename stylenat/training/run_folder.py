"""A run's folder: its config, what it logged, its samples, checkpoints and snapshots.

config.yaml  stats.jsonl  log.txt  progress.png  samples/  checkpoints/  snapshots/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylenat.config import RunConfig, load_config, replacing, save_config, to_dict
from stylenat.config.words import listed

RUNS = Path("results/runs")

# May change while a run goes on: how it is computed, shown and kept, and how long it is.
FREE = re.compile(
    r"data\.(path|workers)|metrics\..*|train\.(total_kimg|batch_gpu|tf32|compile|log_every_nimg"
    r"|snapshot_every_kimg|keep_\w+|sample_\w+(\[\d\])?|wandb|tensorboard)"
    r"|model\.generator\.(attention_backend|activation_checkpointing)"
)


class RunFolder:
    """The paths and small files of one run. `open` makes or continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.stats = path / "stats.jsonl"
        self.log = path / "log.txt"
        self.curves = path / "progress.png"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.snapshots = path / "snapshots"

    def open(self, config: RunConfig) -> None:
        """Make the folders and save the config.

        Raises ValueError, naming the keys, where the folder holds a run of another config.
        """
        if self.config.exists():
            check_same_run(self.path, load_config(self.config), config)
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"{self.path} is no run folder: it has files, but no config.yaml; "
                "choose another --run-dir"
            )
        for folder in (self.samples, self.checkpoints, self.snapshots):
            folder.mkdir(parents=True, exist_ok=True)
        save_config(config, self.config)

    def append_stats(self, entry: dict[str, Any]) -> None:
        """Add one line to stats.jsonl."""
        with self.stats.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read_stats(self) -> list[dict[str, Any]]:
        """Every whole line of stats.jsonl."""
        return list(_whole_lines(self.stats))

    def rewind_stats(self, nimg: int) -> None:
        """Forget what was logged after `nimg` images: the run continues from there."""
        kept = [entry for entry in _whole_lines(self.stats) if entry["nimg"] <= nimg]
        with replacing(self.stats) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def keep_snapshots(self, count: int) -> None:
        """Remove all but the newest `count` numbered snapshots."""
        numbered = sorted(p for p in self.snapshots.glob("*.safetensors") if p.stem.isdigit())
        for path in numbered[:-count]:
            path.unlink()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the last line of a process that was killed
            continue


def next_run_folder(config_path: Path, runs: Path = RUNS) -> Path:
    """A new numbered folder, RUNS/0007-ffhq256 after 0006."""
    numbers = [
        int(match[1])
        for path in (runs.iterdir() if runs.is_dir() else ())
        if (match := re.match(r"(\d+)-", path.name))
    ]
    return runs / f"{max(numbers, default=-1) + 1:04d}-{config_path.stem}"


def check_same_run(path: Path, old: RunConfig, new: RunConfig) -> None:
    """Raises ValueError, naming keys and both values, where `new` would train another model."""
    before, after = dict(_leaves(to_dict(old))), dict(_leaves(to_dict(new)))
    changed = [
        f"{key} ({before.get(key)} there, {after.get(key)} here)"
        for key in {**before, **after}
        if before.get(key) != after.get(key) and not FREE.fullmatch(key)
    ]
    if changed:
        raise ValueError(
            f"{path} holds a run of another config: {listed(changed)}; choose another --run-dir"
        )


def _leaves(data: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(value, f"{key}.{name}" if key else name)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, data
