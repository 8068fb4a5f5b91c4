"""What the small files of a run's folder say. Nothing is changed there, and a run may go on.

A line that is half written, or has other contents than a run writes, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylenat.config import RunConfig, load_run_config
from stylenat.data.loader import REPLACED
from stylenat.layout import WARNING, RunPaths
from stylenat.reporting.privacy import Privacy
from stylenat.training.run_folder import whole_lines

MOST_LINES = 10  # of warnings and faults that are shown
MOST_VALUE = 1e100  # differences and products of such numbers are finite
TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ")

Entry = dict[str, Any]
Point = tuple[float, float]


@dataclass
class Log:
    """What log.txt says beside statistics: how many warnings, and the last of them."""

    warnings: int = 0
    replaced_images: int = 0
    last: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as its folder tells. `stats` and `scores` are the two kinds of lines of
    stats.jsonl: losses and speed, and measurements."""

    name: str
    paths: RunPaths
    config: RunConfig
    privacy: Privacy
    stats: Sequence[Entry]
    scores: Sequence[Entry]
    starts: Sequence[Entry]
    faults: Sequence[Entry]
    stopped: Entry | None
    log: Log

    @property
    def nimg(self) -> float:
        """How many images the run has seen, as far as it has said so."""
        return max((entry["nimg"] for entry in (*self.stats, *self.scores)), default=0)

    @property
    def best(self) -> Entry | None:
        """The measurement whose snapshot is best.safetensors: of equal ones, the last."""
        ranked = [entry for entry in self.scores if is_number(entry.get("rank"))]
        return min(reversed(ranked), key=lambda entry: entry["rank"], default=None)

    def last(self, name: str) -> float | None:
        """The last value of one name in the statistics."""
        points = points_of(self.stats, name)
        return points[-1][1] if points else None


def read_run(path: Path) -> RunFacts:
    """Read what a run's folder says. Raises OSError for files that can't be read, and ValueError
    for a folder that is no run."""
    paths = RunPaths(path)
    if not path.exists():
        path.stat()
    if not paths.config.is_file():
        raise ValueError(
            f"{path} is no run folder: it holds no config.yaml; give the folder that `stylenat "
            "train` wrote"
        )
    config = load_run_config(paths.config)
    privacy = Privacy(path, config)
    lines = _entries(paths.stats)
    return RunFacts(
        name=path.resolve().name,
        paths=paths,
        config=config,
        privacy=privacy,
        stats=[entry for entry in lines if "metrics" not in entry],
        scores=[entry for entry in lines if isinstance(entry.get("metrics"), dict)],
        starts=_entries(paths.starts),
        faults=_entries(paths.faults),
        stopped=next(iter(_entries(paths.stopped)), None),
        log=_read_log(paths.log, privacy),
    )


def is_number(value: object) -> bool:
    """Whether a value can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MOST_VALUE < value < MOST_VALUE  # false for NaN, too


def points_of(entries: Iterable[Entry], name: str) -> list[Point]:
    """kimg and value of each entry that has this name, among its metrics or beside them."""
    points = []
    for entry in entries:
        value = entry.get("metrics", entry).get(name)
        if is_number(value):
            points.append((entry["nimg"] / 1000, float(value)))
    return points


def _entries(path: Path) -> list[Entry]:
    entries = [entry for entry in whole_lines(path) if is_number(entry["nimg"])]
    return sorted(entries, key=lambda entry: entry["nimg"])


def _read_log(path: Path, privacy: Privacy) -> Log:
    log = Log()
    if not path.exists():
        return log
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            time = TIME.match(line)
            if time is None or not line.startswith(WARNING, time.end()):
                continue
            log.warnings += 1
            sentence = line[time.end() + len(WARNING) :].strip()
            log.replaced_images += sentence.endswith(REPLACED)
            log.last = [*log.last, privacy.hide(f"{time[1]}  {sentence}")][-MOST_LINES:]
    return log
