"""progress.png: a run's losses, metrics and learning rates over its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylenat import marks
from stylenat.files import replacing

PANELS = (
    ("losses", ("loss_d", "loss_g", "loss_consistency")),
    ("logits", ("real_logits", "fake_logits")),
    ("gradient penalties, gradient norm", ("r1", "r2", "grad_norm_d")),
    ("learning rates", ("lr_g", "lr_d")),
)
LOGARITHMIC = ("gradient penalties, gradient norm",)


def draw_curves(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the lines of stats.jsonl to a PNG; replaced atomically."""
    from matplotlib.figure import Figure

    metrics = sorted({name for entry in entries for name in entry.get("metrics", {})})
    panels = [*PANELS, *((name, (name,)) for name in metrics)]
    panels = [(title, names) for title, names in panels if _has_points(entries, names)]
    columns = min(3, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    for index, (title, names) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name in names:
            points = _points(entries, name)
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("kimg", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if title in LOGARITHMIC:
            axes.set_yscale("log")
        if len(names) > 1:
            axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={marks.KEY: marks.CURVES})


def _points(entries: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    flat = ({**entry, **entry.get("metrics", {})} for entry in entries)
    return [(entry["nimg"] / 1000, entry[name]) for entry in flat if name in entry]


def _has_points(entries: Sequence[dict[str, Any]], names: Sequence[str]) -> bool:
    return any(_points(entries, name) for name in names)
