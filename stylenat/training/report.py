"""What a run shows while it goes: a live bar, a log, statistics.

Rank 0 shows it. The other ranks only take part in the averages.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat import layout
from stylenat.copies import Later
from stylenat.distributed import all_reduce_sum_, is_main
from stylenat.files import LastingFile, LastingStream
from stylenat.progress import Bar
from stylenat.training.run_folder import RunFolder


class Averages:
    """Running means of losses, which stay on the device until somebody asks for them.

    Values that are not finite do not count: no step was taken with them.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        values = torch.stack([loss.detach() for loss in losses.values()]).double()
        is_finite = values.isfinite()
        numbers, counts = values.where(is_finite, 0).unbind(), is_finite.double().unbind()
        for name, number, count in zip(losses, numbers, counts, strict=True):
            self.sums[name] = self.sums.get(name, 0) + number
            self.counts[name] = self.counts.get(name, 0) + count

    def take(self) -> Means:
        """The means since the last time, over all ranks. A collective: every rank must call."""
        if not self.sums:
            return Means([], None)
        totals = torch.stack([*self.sums.values(), *self.counts.values()])
        means = Means(list(self.sums), Later(all_reduce_sum_(totals)))
        self.sums, self.counts = {}, {}
        return means


class Means:
    """Means that are on their way from the device: sums and counts, by name."""

    def __init__(self, names: list[str], totals: Later | None) -> None:
        self.names, self.totals = names, totals

    def read(self) -> dict[str, float]:
        """The means, without those of which no value was finite."""
        if self.totals is None:
            return {}
        sums, counts = self.totals.read().view(2, -1).tolist()
        named = zip(self.names, sums, counts, strict=True)
        return {name: total / count for name, total, count in named if count}


@contextmanager
def logging_to(folder: RunFolder, bar: TrainingBar) -> Iterator[None]:
    """Within the block, rank 0 logs to log.txt with the time, and to the terminal.

    Statistics are logged at the level DEBUG, which does not go above a live bar: it shows them.
    """
    logger = logging.getLogger("stylenat")
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if is_main():
        handlers = [LogFile(folder.log), bar.handler()]
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagates


class LogFile(logging.Handler):
    """Writes log.txt, where a warning begins with the word after its time.

    On a full disk the lines wait without a warning: the terminal shows them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = LastingFile(path)
        self.plain = logging.Formatter("%(asctime)s %(message)s")
        self.warning = logging.Formatter(f"%(asctime)s {layout.WARNING}%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        self.file.append((self.warning if is_warning else self.plain).format(record))


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Within the block, writing to a terminal that was closed raises nothing."""
    before = sys.stderr
    if before is None:  # the process has no standard error
        yield
        return
    sys.stderr = LastingStream(before)
    try:
        yield
    finally:
        sys.stderr = before


class TrainingBar(Bar):
    """The live line of a run: images, losses, speed, memory, time left."""

    def __init__(self, total_nimg: int) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self.total_nimg = total_nimg
        columns = (
            TextColumn("{task.fields[count]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        super().__init__(total_nimg, *columns, count=self._count(0), text="")

    def _count(self, nimg: int) -> str:
        return f"{nimg / 1000:.1f}/{self.total_nimg / 1000:g} kimg"

    def show(self, nimg: int, **text: str) -> None:
        """Move to `nimg` images; `text`, if it is given, replaces the text of the line."""
        self.move(nimg, count=self._count(nimg), **text)

    def handler(self) -> logging.Handler:
        """Messages go above the bar if it is live, otherwise to standard error."""
        if not self.is_live:
            return logging.StreamHandler(sys.stderr)
        console = self.console

        class AboveTheBar(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                console.print(self.format(record), markup=False, highlight=False)

        return AboveTheBar(logging.INFO)


class Clock:
    """Images per second since the last lap, and seconds trained in all starts of the run."""

    def __init__(self, seconds: float) -> None:
        self.before = seconds
        self.start = self.last = time.perf_counter()
        self.last_nimg: int | None = None

    def restart(self, nimg: int) -> None:
        """Leave out the time since the last lap: it was not spent on training."""
        now = time.perf_counter()
        self.start += now - self.last
        self.last, self.last_nimg = now, nimg

    def lap(self, nimg: int) -> float:
        """Images per second since the last lap."""
        now = time.perf_counter()
        assert self.last_nimg is not None
        speed = (nimg - self.last_nimg) / max(now - self.last, 1e-9)
        self.last, self.last_nimg = now, nimg
        return speed

    @property
    def seconds(self) -> float:
        return self.before + self.last - self.start


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that this process has held: on its GPU, or in main memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def line_of(entry: dict[str, Any], total_nimg: int) -> str:
    """One line of statistics for people."""
    losses = " ".join(
        f"{label} {entry[name]:.3f}"
        for name, label in (("loss_d", "D"), ("loss_g", "G"), ("r1", "R1"))
        if name in entry
    )
    speed, memory = entry["images_per_second"], entry["memory_gb"]
    left = (total_nimg - entry["nimg"]) / max(speed, 1e-9)
    return (
        f"{entry['nimg'] / 1000:.1f}/{total_nimg / 1000:g} kimg  {losses}  "
        f"{speed:.1f} images/s  {memory:.1f} GB  {duration(left)} left"
    )


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
