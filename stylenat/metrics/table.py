"""The metrics: one row each. A new one is a row here, a name in `choices.METRICS`, and a file.

Legend: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from torch import Tensor

from stylenat.choices import METRICS
from stylenat.metrics import frechet, kid, precision_recall, swd
from stylenat.metrics.frechet import Gaussian
from stylenat.metrics.swd import PatchCollector
from stylenat.text import shown

Need = Literal["gaussian", "features_ND", "patches"]
NETWORK_NEEDS: frozenset[Need] = frozenset({"gaussian", "features_ND"})


@dataclass(frozen=True)
class Collected:
    """What was taken from the images of one side; None if no metric needs it."""

    gaussian: Gaussian | None = None  # of the features
    features_ND: Tensor | None = None
    patches: PatchCollector | None = None


@dataclass(frozen=True)
class Metric:
    """How one metric is measured.

    `needs` names the field of `Collected` that `values` takes, of the generated images first, then
    of the reference. `values` gives one or more numbers by name and is called by all ranks.
    `fewest` images are taken on either side. `rank` makes one number of those values that is lower
    if the images are better. `settings` are written to the protocol. `takes_file`: a file of
    reference statistics can stand in for the data set.
    """

    name: str
    needs: Need
    fewest: int
    values: Callable[[Any, Any], dict[str, float]]
    rank: Callable[[Mapping[str, float]], float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    takes_file: bool = False


_ROWS = (
    Metric(
        "fid",
        needs="gaussian",
        fewest=2,
        values=frechet.values,
        rank=itemgetter("fid"),
        takes_file=True,
    ),
    Metric(
        "kid",
        needs="features_ND",
        fewest=2,
        values=kid.values,
        rank=itemgetter("kid"),
        settings=kid.SETTINGS,
    ),
    Metric(
        "pr",
        needs="features_ND",
        fewest=precision_recall.NEIGHBOURS + 1,
        values=precision_recall.values,
        rank=precision_recall.rank,
        settings=precision_recall.SETTINGS,
    ),
    Metric(
        "swd",
        needs="patches",
        fewest=1,
        values=swd.values,
        rank=itemgetter("swd"),
        settings=swd.SETTINGS,
    ),
)
TABLE: dict[str, Metric] = {row.name: row for row in _ROWS}


def rows_of(names: Iterable[str]) -> list[Metric]:
    """Their rows. Raises ValueError for no names, or one that no metric has."""
    names = list(names)
    if not names:
        raise ValueError(f"name at least one metric of {', '.join(METRICS)}")
    for name in names:
        if name not in TABLE:
            raise ValueError(f"unknown metric {shown(name)}; choose from {', '.join(METRICS)}")
    return [TABLE[name] for name in names]


def require_enough(rows: Sequence[Metric], count: int, which: str) -> None:
    """Raises ValueError if a metric takes more images than these."""
    for row in rows:
        if count < row.fewest:
            raise ValueError(f"{row.name} takes at least {row.fewest} images {which}: {count}")


def require_file_suffices(rows: Sequence[Metric]) -> None:
    """Raises ValueError if a metric needs more than a file of reference statistics holds."""
    if not all(row.takes_file for row in rows):
        able = _in_words([row.name for row in TABLE.values() if row.takes_file])
        others = _in_words([row.name for row in TABLE.values() if not row.takes_file])
        raise ValueError(
            f"reference statistics are for {able} alone; {others} need a data set: "
            f"{', '.join(row.name for row in rows)}"
        )


def measure(rows: Sequence[Metric], ours: Collected, theirs: Collected) -> dict[str, float]:
    """The values of these metrics, in the table's order; called by all ranks."""
    values: dict[str, float] = {}
    for row in TABLE.values():
        if row in rows:
            values |= row.values(getattr(ours, row.needs), getattr(theirs, row.needs))
    return values


def _in_words(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
