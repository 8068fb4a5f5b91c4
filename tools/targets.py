"""What an H200 is asked for, and whether measured tables give it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stylenat.benchmarks.calls import shape_name
from stylenat.benchmarks.op import LEVELS, triton_over_natten

SAMPLING_256 = 1000.0  # images/s in bfloat16
SAMPLING_1024 = 60.0
TRAINING_256 = 150.0  # images/s of whole steps with consistency, in bfloat16
OVER_NATTEN = 1.3  # times NATTEN's time without bias
LEVEL_BATCH = 8


def verdicts(reports: Iterable[dict[str, Any]]) -> list[str]:
    """One line per target: met, missed or not measured, and by how much."""
    rows = {report["name"]: report["rows"] for report in reports}
    sampling = "images/s sampling, bfloat16"
    return [
        _at_least(f"256x256: {sampling}", SAMPLING_256, _fastest(rows, "generator-ffhq256-")),
        _at_least(f"1024x1024: {sampling}", SAMPLING_1024, _fastest(rows, "generator-ffhq1024-")),
        _at_least(
            "256x256: images/s training with consistency, bfloat16",
            TRAINING_256,
            _fastest(rows, "training-ffhq256-", part="whole step"),
        ),
        _over_natten(rows),
        _against_styleswin(rows),
    ]


def _fastest(
    tables: dict[str, list[dict[str, Any]]], name: str, **wanted: str
) -> tuple[float, dict[str, Any]] | None:
    """The most images a second among bfloat16 rows of tables whose names begin so."""
    wanted = wanted or {"network": "whole"}
    found = [
        (row["images_per_second"], row)
        for table, rows in tables.items()
        if table.startswith(name)
        for row in rows
        if all(row[key] == value for key, value in wanted.items())
        and row.get("dtype", row.get("precision")) == "bfloat16"
    ]
    return max(found, key=lambda pair: pair[0], default=None)


def _at_least(what: str, least: float, found: tuple[float, dict[str, Any]] | None) -> str:
    if found is None:
        return f"not measured: {what} (asked: {least:g})"
    speed, row = found
    where = ", ".join(str(row[key]) for key in ("mode", "part") if key in row)
    verdict = "met" if speed >= least else "missed"
    return f"{verdict}: {what}: {speed:.4g} (asked: {least:g}; {where}, batch {row['batch']})"


def _over_natten(tables: dict[str, list[dict[str, Any]]]) -> str:
    what = "triton with bias over natten without, FFHQ levels, bfloat16"
    shapes = {shape_name(*level) for level in LEVELS}
    rows: Sequence[dict[str, Any]] = [
        row for table, rows in tables.items() if table.startswith("op-") for row in rows
    ]
    ratios = {
        (shape, part): ratio
        for (shape, batch, dtype, part), ratio in triton_over_natten(rows).items()
        if shape in shapes and batch == LEVEL_BATCH and dtype == "bfloat16"
    }
    if not ratios:
        return f"not measured: {what} (asked: at most {OVER_NATTEN})"
    (shape, part), worst = max(ratios.items(), key=lambda pair: pair[1])
    verdict = "met" if worst <= OVER_NATTEN and len(ratios) == 2 * len(shapes) else "missed"
    met = sum(ratio <= OVER_NATTEN for ratio in ratios.values())
    return (
        f"{verdict}: {what}: {worst:.2f} at worst ({shape}, {part.replace('_', ' ')}); "
        f"{met} of {2 * len(shapes)} within {OVER_NATTEN}"
    )


def _against_styleswin(tables: dict[str, list[dict[str, Any]]]) -> str:
    ours, theirs = (_fastest(tables, f"generator-{name}-") for name in ("ffhq256", "styleswin256"))
    if ours is None or theirs is None:
        return "not measured: StyleNAT against StyleSwin at 256x256"
    return (
        f"for comparison: StyleNAT {ours[0]:.4g}, StyleSwin {theirs[0]:.4g} images/s sampling "
        f"at 256x256, bfloat16: {ours[0] / theirs[0]:.2f} times"
    )
