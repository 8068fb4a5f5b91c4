"""The facts of a run that one wants first, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from stylenat.reporting.facts import RunFacts, points_of
from stylenat.reporting.markup import Markup, number, table

UNKNOWN = "not recorded"


def kimg(nimg: float) -> str:
    """Images in thousands: 12.8 kimg."""
    return f"{number(nimg / 1000)} kimg"


def overview(runs: Sequence[RunFacts]) -> Markup:
    """The facts that one wants first, a column for each run."""
    rows = [(name, *(fact(run) for run in runs)) for name, fact in OVERVIEW]
    return table(["", *(run.name for run in runs)], rows)


def _state(run: RunFacts) -> str:
    total = run.config.train.total_nimg
    if run.nimg >= total:
        return "finished"
    if run.stopped is not None:
        reason = run.privacy.hide(str(run.stopped.get("reason")))
        return f"stopped by {reason} at {kimg(run.stopped['nimg'])}; the same command continues it"
    return "not at its end: it is training, or ended without saying so"


def _trained(run: RunFacts) -> str:
    seconds = run.last("seconds")
    time = "" if seconds is None else f" in {_time(seconds)}"
    return f"{kimg(run.nimg)} of {kimg(run.config.train.total_nimg)}{time}"


def _time(seconds: float) -> str:
    """6 min 7 s, 3 h 20 min, 2 days 5 h: the two largest units."""
    units = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = round(seconds), []
    for name, size in units:
        count, left = divmod(left, size)
        parts.append((count, name))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2])


def _what(run: RunFacts) -> str:
    model = run.config.model
    side = model.generator.resolution
    classes = f", {model.classes} classes" if model.classes else ""
    return f"StyleNAT for {side}x{side} pixels{classes}, {run.config.train.batch} images per step"


def _data(run: RunFacts) -> str:
    if not run.starts:
        return f"{run.privacy.hide(str(run.config.data.path))} (number and fingerprint: {UNKNOWN})"
    data = run.starts[-1].get("data")
    data = data if isinstance(data, dict) else {}
    text = f"{data.get('title')}: {number(data.get('images'))} images to train on"
    held_out = f", {number(data['held_out'])} held out" if data.get("held_out") else ""
    return run.privacy.hide(f"{text}{held_out}; fingerprint {str(data.get('fingerprint'))[:16]}")


def _best(run: RunFacts) -> str:
    if run.best is None:
        return "not measured"
    names = list(run.best["metrics"])
    name = next((name for name in run.config.metrics.names if name in names), names[0])
    return f"{name} {number(run.best['metrics'][name])} at {kimg(run.best['nimg'])}"


def _speed(run: RunFacts) -> str:
    speeds = [value for _, value in points_of(run.stats, "images_per_second")]
    return f"{number(median(speeds))} images/s (median)" if speeds else UNKNOWN


def _memory(run: RunFacts) -> str:
    memory = run.last("memory_gb")
    return UNKNOWN if memory is None else f"{number(memory)} GB at most"


def _machine(run: RunFacts) -> str:
    if not run.starts:
        return UNKNOWN
    start = run.starts[-1]
    gpu = start.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else start.get("processor")
    return f"{start.get('ranks')} x {name}; PyTorch {start.get('torch')}, {start.get('precision')}"


def _best_file(run: RunFacts) -> str:
    return "snapshots/best.safetensors" if run.paths.best.is_file() else "none yet"


OVERVIEW: tuple[tuple[str, Callable[[RunFacts], str]], ...] = (
    ("State", _state),
    ("Trained", _trained),
    ("Model", _what),
    ("Data", _data),
    ("Best score", _best),
    ("Best snapshot", _best_file),
    ("Speed", _speed),
    ("Memory", _memory),
    ("Machine of the last start", _machine),
)
