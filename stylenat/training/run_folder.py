"""A run's folder, as `stylenat.layout` names it: made, locked, continued and kept in order."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylenat.config import (
    RunConfig,
    load_config,
    load_run_config,
    save_config,
    to_dict,
)
from stylenat.files import FileLock, LastingFile, replacing
from stylenat.layout import RunPaths, numbered
from stylenat.text import listed
from stylenat.training.checkpoint import TEMPORARY, clean_checkpoints

RUNS = Path("results/runs")

# Keys that may change when a run continues: they say how it is computed, shown and kept, and how
# long it is.
FREE = re.compile(
    r"data\.(path|workers|max_bad)|metrics\..*|train\.(total_kimg|batch_gpu|tf32|compile|cuda_graphs"
    r"|log_every_nimg|snapshot_every_kimg|keep_\w+|sample_\w+(\[\d\])?|wandb|tensorboard)"
    r"|model\.generator\.(attention_backend|activation_checkpointing)"
)

MOST_POINTS = 4000  # of a curve

log = logging.getLogger(__name__)


class RunFolder(RunPaths):
    """The paths and small files of one run. `open` makes or continues it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lock = FileLock(path / ".lock")
        self._stats, self._faults = LastingFile(self.stats), LastingFile(self.faults)
        self._starts = LastingFile(self.starts)

    def claim(self, config: RunConfig) -> None:
        """Lock the folder if it holds a run already; otherwise leave it as it is.

        Raises ValueError if another process trains in it, if it holds a run of another config
        (naming the keys), and if it holds files but no run.
        """
        if self.config.exists():
            check_same_run(self.path, _saved_config(self.config, config), config)
            self.lock.acquire()
        elif self.path.exists() and any(p != self.lock.path for p in self.path.iterdir()):
            raise ValueError(
                f"{self.path} is no run folder: it has files, but no config.yaml; "
                "choose another --run-dir"
            )

    def open(self, config: RunConfig) -> None:
        """Make and lock the folders, and save the config. Raises ValueError as `claim` does."""
        self.claim(config)
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        for folder in (self.samples, self.checkpoints, self.snapshots):
            folder.mkdir(exist_ok=True)
        save_config(config, self.config)
        self.stopped.unlink(missing_ok=True)

    def clean(self, *, keep_checkpoints: int) -> None:
        """Remove what a killed process left half written. Raises as `clean_checkpoints` does."""
        for folder in (self.path, self.samples, self.snapshots):
            for path in list(folder.iterdir()):
                if TEMPORARY.fullmatch(path.name):
                    path.unlink()
        clean_checkpoints(self.checkpoints, keep=keep_checkpoints)

    def append_start(self, entry: dict[str, Any]) -> None:
        """Add one line to starts.jsonl, now or as soon as the disk takes it."""
        self._append(self._starts, entry)

    def append_stats(self, entry: dict[str, Any]) -> None:
        """Add one line to stats.jsonl, now or as soon as the disk takes it."""
        self._append(self._stats, entry)

    def append_fault(self, entry: dict[str, Any]) -> None:
        """Add one line to faults.jsonl, now or as soon as the disk takes it."""
        self._append(self._faults, entry)

    def _append(self, file: LastingFile, entry: dict[str, Any]) -> None:
        was_complete = not file.waiting
        error = file.append(json.dumps(entry))
        if error is not None and was_complete:
            reason = error.strerror or error
            log.warning("%s: %s; its lines wait until they can be written", file.path, reason)

    def is_measured(self, nimg: int) -> bool:
        """Whether stats.jsonl has scores of the state at `nimg`."""
        return any(entry["nimg"] == nimg and "metrics" in entry for entry in self._entries())

    def points(self) -> list[dict[str, Any]]:
        """The lines of stats.jsonl that curves show; if there are too many, evenly thinned."""
        steps, scores = _Thinned(MOST_POINTS), _Thinned(MOST_POINTS)
        for entry in self._entries():
            if "metrics" in entry:
                scores.add({"nimg": entry["nimg"], "metrics": entry["metrics"]})
            else:
                steps.add(entry)
        return sorted([*steps.kept, *scores.kept], key=lambda entry: entry["nimg"])

    def ranks(self) -> list[float]:
        """The first metric of every measurement, the lower the better."""
        return [entry["rank"] for entry in self._entries() if "rank" in entry]

    def _entries(self) -> Iterator[dict[str, Any]]:
        yield from whole_lines(self.stats)
        yield from map(json.loads, self._stats.waiting)

    def rewind_stats(self, nimg: int) -> None:
        """Remove what was logged after `nimg` images, since the run continues from there."""
        if not self.stats.exists():
            return
        with replacing(self.stats) as temporary, temporary.open("w", encoding="utf-8") as file:
            for entry in whole_lines(self.stats):
                if entry["nimg"] <= nimg:
                    file.write(json.dumps(entry) + "\n")

    def mark_stopped(self, reason: str, *, step: int, nimg: int) -> None:
        """Tell schedulers, by a file that `open` removes, that the run is not at its end."""
        entry = {"reason": reason, "step": step, "nimg": nimg, "time": timestamp()}
        with replacing(self.stopped) as temporary:
            temporary.write_text(json.dumps(entry) + "\n")

    def keep_snapshots(self, count: int) -> None:
        """Remove all but the newest `count` numbered snapshots."""
        for path in numbered(self.snapshots, ".safetensors")[count:]:
            path.unlink()


class _Thinned:
    """Keeps at most `most` items, evenly spaced: every one, later every second, fourth, ..."""

    def __init__(self, most: int) -> None:
        self.kept: list[Any] = []
        self.most, self.every, self.count = most, 1, 0

    def add(self, item: object) -> None:
        if self.count % self.every == 0:
            self.kept.append(item)
        self.count += 1
        if len(self.kept) > self.most:
            self.kept, self.every = self.kept[::2], 2 * self.every


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file of a run; none if there is no file. A torn line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed
                continue
            if isinstance(entry, dict) and "nimg" in entry:
                yield entry


def timestamp() -> str:
    """Now, in UTC, to the second: 2026-11-22T20:14:05Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def next_run_folder(config_path: Path, runs: Path = RUNS) -> Path:
    """A new numbered folder, RUNS/0007-ffhq256 after 0006."""
    numbers = [
        int(match[1])
        for path in (runs.iterdir() if runs.is_dir() else ())
        if (match := re.match(r"(\d+)-", path.name))
    ]
    return runs / f"{max(numbers, default=-1) + 1:04d}-{config_path.stem}"


def _saved_config(path: Path, new: RunConfig) -> RunConfig:
    """The config that a run saved, with `new`'s data.seed if the seed had decided nothing.

    Raises ValueError if the run drew its data with a train.seed that is not the new data.seed.
    """
    saved = load_run_config(path)
    if saved == load_config(path) or saved.data.seed == new.data.seed:
        return saved
    if saved.data.is_drawn:
        raise ValueError(
            f"{path.parent} drew its data with train.seed, as runs did before there was data.seed: "
            f"give data.seed={saved.data.seed} to continue it"
        )
    return replace(saved, data=replace(saved.data, seed=new.data.seed))


def check_same_run(path: Path, old: RunConfig, new: RunConfig) -> None:
    """Raises ValueError, naming keys and both values, if `new` would train another model."""
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
