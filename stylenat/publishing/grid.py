"""The picture of a model's card: images of the first seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from stylenat.machine import environment
from stylenat.models import Generator
from stylenat.sampling import contact_sheet, generate, save_sheet

FILE = "samples.png"
MOST_PIXELS, MOST_COLUMNS, MOST_ROWS, MOST_CLASSES = 2048, 8, 4, 8


@dataclass(frozen=True)
class Grid:
    """How the picture was made: its columns and rows, of which each is a class if there are
    classes, the truncation psi, the hardware and the PyTorch."""

    columns: int
    rows: int
    has_classes: bool
    psi: float
    hardware: str
    torch: str

    @property
    def count(self) -> int:
        return self.columns * self.rows

    @property
    def seeds(self) -> str:
        """The seeds in words; rows of classes have the same ones."""
        return f"0 to {(self.columns if self.has_classes else self.count) - 1}"


def write_grid(generator: Generator, folder: Path, *, psi: float, batch: int) -> Grid:
    """Write the picture: at most 8x4 images and 2048 pixels to a side, but at least 2x2 images."""
    fitting = MOST_PIXELS // generator.resolution
    columns, rows = (max(2, min(most, fitting)) for most in (MOST_COLUMNS, MOST_ROWS))
    classes = generator.config.classes
    if classes:
        rows = min(classes, max(2, min(MOST_CLASSES, fitting)))
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    seeds = [column if classes else row * columns + column for row, column in cells]
    labels = [row for row, _ in cells] if classes else None
    images = list(generate(generator, seeds, labels, batch=batch, truncation_psi=psi))
    save_sheet(contact_sheet(torch.cat(images), columns, rows), folder / FILE)
    found = environment(generator.const.device)
    hardware = found["gpu"]["name"] if found["gpu"] else found["processor"]
    return Grid(columns, rows, bool(classes), psi, hardware, torch.__version__)
