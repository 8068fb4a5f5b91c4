"""What a run and files of scores tell of a model. What nothing tells is None, and never guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylenat.config import RunConfig, load_run_config
from stylenat.config.privacy import without_folders
from stylenat.files import naming, sha256_of
from stylenat.layout import RunPaths, numbered
from stylenat.text import shown
from stylenat.training.checkpoint import load_checkpoint, newest_checkpoint
from stylenat.training.run_folder import whole_lines

MOST_BYTES = 16 << 20
# How a run's log says what it trains on; `training.start.announce` writes it.
HARDWARE = re.compile(r"images per step on (\d+ x \w+), ")


@dataclass(frozen=True)
class Measured:
    """Scores, the protocol by which they were measured, and the class if they are of one."""

    scores: Mapping[str, float]
    protocol: Mapping[str, Any]
    of_class: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        of_class = {} if self.of_class is None else {"class": self.of_class}
        return {**of_class, "scores": dict(self.scores), "protocol": dict(self.protocol)}


@dataclass(frozen=True)
class Training:
    """What a run's folder tells of a snapshot: images seen and seconds trained until then, how the
    snapshot was chosen, the number and the fingerprint of the training images, and the processes,
    such as `1 x cpu`."""

    config: RunConfig
    nimg: int | None
    choice: str
    seconds: float | None
    images: int | None
    fingerprint: str | None
    hardware: str | None
    measured: tuple[Measured, ...]


def training_of(run: RunPaths, file: Path) -> Training:
    """The facts of a run about one of its snapshots.

    Raises OSError and ValueError for a configuration or a checkpoint that cannot be read.
    """
    entries = list(whole_lines(run.stats))
    nimg = _nimg_of(run, file, entries)
    until = [] if nimg is None else [entry for entry in entries if entry["nimg"] <= nimg]
    seconds = [entry["seconds"] for entry in until if "seconds" in entry]
    newest = newest_checkpoint(run.checkpoints)
    data = {} if newest is None else load_checkpoint(newest).get("data") or {}
    return Training(
        config=without_folders(load_run_config(run.config)),
        nimg=nimg,
        choice=_choice(run, file, sum("rank" in entry for entry in entries)),
        seconds=seconds[-1] if seconds else None,
        images=data.get("images"),
        fingerprint=data.get("fingerprint"),
        hardware=_hardware(run.log),
        measured=tuple(
            Measured(entry["metrics"], entry.get("protocol") or {})
            for entry in until
            if entry["nimg"] == nimg and "metrics" in entry
        ),
    )


def _nimg_of(run: RunPaths, file: Path, entries: Iterable[Mapping[str, Any]]) -> int | None:
    """How many images the run had seen when it wrote this snapshot.

    The best snapshot is a copy of a numbered one. If that one is gone, the log says which it was:
    the last one that no other was better than.
    """
    if file.stem.isdecimal():
        return int(file.stem)
    if file != run.best:
        return None
    best = sha256_of(file)
    for snapshot in numbered(run.snapshots, ".safetensors"):
        if sha256_of(snapshot) == best:
            return int(snapshot.stem)
    ranked = [entry for entry in entries if "rank" in entry]
    least = min((entry["rank"] for entry in ranked), default=None)
    return next((e["nimg"] for e in reversed(ranked) if e["rank"] == least), None)


def _choice(run: RunPaths, file: Path, measurements: int) -> str:
    """How the snapshot was chosen: the best of many looks better than it is."""
    if file != run.best:
        return "one of those that the run kept"
    return f"the best of {measurements} that were measured, by their first score"


def _hardware(log: Path) -> str | None:
    if not log.is_file():
        return None
    found = HARDWARE.findall(log.read_text(encoding="utf-8", errors="replace"))
    return found[-1] if found else None


# Scores of `stylenat fid --out`


def read_scores(path: Path, model_sha256: str) -> list[Measured]:
    """The scores in a file that `stylenat fid --out` wrote for the model of this SHA-256.

    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    any other file, and for the scores of another model.
    """
    data = _read_json(path)
    sha256 = data.get("model_sha256")
    if sha256 != model_sha256:
        raise ValueError(
            f"{path} has scores of another model, of SHA-256 {shown(sha256)[:20]}, not "
            f"{model_sha256[:12]}...: measure this one with `stylenat fid MODEL --out FILE`"
        )
    of_classes = data.get("classes", {None: data})
    if not isinstance(of_classes, dict) or not of_classes:
        raise ValueError(f"{path} must hold scores by class: {shown(of_classes)}")
    return [_measured(path, found, name) for name, found in of_classes.items()]


def _measured(path: Path, data: Any, of_class: str | None) -> Measured:
    scores, protocol = (
        (data.get("scores"), data.get("protocol")) if isinstance(data, dict) else (None, None)
    )
    if not isinstance(protocol, dict) or not isinstance(scores, dict) or not scores:
        raise ValueError(
            f"{path} is no file of `stylenat fid --out`: it must hold scores and their protocol"
        )
    for name, value in scores.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{path}: {shown(name)} must be a finite number: {shown(value)}")
    return Measured(scores, protocol, of_class)


def _read_json(path: Path) -> dict[str, Any]:
    with naming(path):
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(
                f"{path} must be at most {MOST_BYTES:,} bytes, as scores are: {size:,}"
            )
        raw = path.read_bytes()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON, as scores are: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no file of scores: it holds {shown(data)}")
    return data
