"""A table that is printed, and written as JSON with what it was measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from stylenat.benchmarks.ceilings import Ceilings
from stylenat.benchmarks.timing import CPU
from stylenat.files import replacing
from stylenat.machine import environment, label

WIDTH = 200  # of a table that is not shown on a terminal


@dataclass
class Report:
    """One table, whose rows are dicts with the same keys. `profile` is `time_by_kernel`'s text."""

    name: str
    title: str
    columns: tuple[str, ...]
    ceilings: Ceilings
    device: torch.device = CPU
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: str | None = None

    def add(self, **row: Any) -> None:
        assert tuple(row) == self.columns
        self.rows.append(row)

    @property
    def stem(self) -> str:
        """The name of the report's files: its own and the device's."""
        return f"{self.name}-{label(self.device)}"

    @contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Ctrl-C ends the block, but not the command, so that the rows so far are kept."""
        try:
            yield
        except KeyboardInterrupt:
            self.notes.append("Interrupted: rows are missing.")

    def show(self) -> None:
        """Print the table, the machine's ceilings, the notes and the profile."""
        # Importing rich draws a number from Python's generator.
        from rich.console import Console
        from rich.table import Table

        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH)
        table = Table(title=f"{self.title}, {label(self.device)}")
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
        for text in (*self.notes, *([] if self.profile is None else [self.profile])):
            console.print(text, markup=False, highlight=False)

    def write(self, folder: Path) -> Path:
        """Write the table and what it was measured on as JSON, and return the file.

        A profile is written beside it, as text.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.stem}.json"
        content = {
            "name": self.stem,
            "title": self.title,
            "environment": environment(self.device),
            "ceilings": asdict(self.ceilings),
            "rows": self.rows,
            "notes": self.notes,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        if self.profile is not None:
            with replacing(path.with_suffix(".profile.txt")) as temporary:
                temporary.write_text(self.profile + "\n")
        return path


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
