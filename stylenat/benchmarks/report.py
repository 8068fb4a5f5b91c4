"""Timing, the machine's ceilings, and a table that is printed and written as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import stylenat
from stylenat.memory import is_memory_kept

WARM_UPS = 2


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: median, least and most."""

    median: float
    least: float
    most: float

    @property
    def ms(self) -> float:
        return 1e3 * self.median


def measure(run: Callable[[], object], *, repeats: int) -> Timing:
    """Wall-clock time of `run`, after two runs that do not count."""
    for _ in range(WARM_UPS):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in this run: matrix products, and copying of large tensors."""

    float32_flops: float
    bfloat16_flops: float
    copied_bytes: float


def measure_ceilings() -> Ceilings:
    """FLOP/s of 2048-wide products; bytes/s (read plus written) of copying 256 MiB."""

    def product(dtype: torch.dtype) -> float:
        a = torch.randn(2048, 2048).to(dtype)
        return 2 * 2048**3 / measure(lambda: a @ a, repeats=5).least

    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    copy = measure(lambda: target.copy_(source), repeats=5)
    return Ceilings(
        product(torch.float32), product(torch.bfloat16), 2 * 4 * source.numel() / copy.least
    )


@dataclass
class Report:
    """One table: every row a dict with the same keys."""

    name: str
    title: str
    columns: tuple[str, ...]
    ceilings: Ceilings
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        assert tuple(row) == self.columns
        self.rows.append(row)

    def show(self) -> None:
        """Print the table, the machine's ceilings and the notes."""
        # Importing rich draws a number from Python's generator.
        from rich.console import Console
        from rich.table import Table

        console = Console()
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column.replace("_", " "))
        for row in self.rows:
            table.add_row(*(_format(value) for value in row.values()))
        console.print(table)
        console.print(
            f"Ceilings in this run: {self.ceilings.float32_flops / 1e9:.0f} GFLOP/s float32, "
            f"{self.ceilings.bfloat16_flops / 1e9:.0f} GFLOP/s bfloat16, "
            f"{self.ceilings.copied_bytes / 1e9:.1f} GB/s copied."
        )
        for note in self.notes:
            console.print(note)

    def write(self, folder: Path) -> Path:
        """Write the table and all that it was measured on as JSON; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        content = {
            "name": self.name,
            "title": self.title,
            "environment": environment(),
            "ceilings": asdict(self.ceilings),
            "rows": self.rows,
            "notes": self.notes,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path


def environment() -> dict[str, Any]:
    """Hardware, versions, threads, commit and time of a measurement."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "freed_memory_is_kept": is_memory_kept(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stylenat": stylenat.__version__,
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    name = fields.get("model name") or platform.machine()
    return f"{name} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _commit() -> str | None:
    """The checkout's commit, with a + where its code differs; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", "stylenat", "ops", "configs")
    except OSError:
        return None
    return f"{commit}{'+' if changed else ''}" if commit else None


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
