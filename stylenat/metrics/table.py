"""The metrics, one row each. A new metric is a row here, a name in `choices.METRICS`, and a file.

Legend: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from torch import Tensor

from stylenat.choices import (
    IN_SPACE,
    METRICS,
    METRICS_IN_WORDS,
    SPACES,
    InSpace,
    ProjectionLoss,
    Space,
    metric_name,
)
from stylenat.metrics import (
    cmmd,
    density_coverage,
    inception_score,
    kid,
    mind,
    path_length,
    precision_recall,
    swd,
)
from stylenat.metrics.collect import Features
from stylenat.metrics.frechet import frechet_distance
from stylenat.metrics.swd import PatchCollector
from stylenat.text import shown

Need = Literal["gaussian", "all_ND", "patches", "walk"]
FOR_FACES = "is says nothing about faces, or any data of one class: Inception has no class for them"


@dataclass(frozen=True)
class Collected:
    """What was collected from the images of one side: features by space, patches if needed."""

    features: Mapping[str, Features] = field(default_factory=dict)
    patches: PatchCollector | None = None


@dataclass(frozen=True)
class Metric:
    """How one metric is measured.

    `needs`: what `values` takes, of the generated images first, then of the reference: a Gaussian
    of features, all features, patches; or a `Walk` through a generator. `space`: whose features, as
    in `features.kind_of`. `values` gives one or more numbers by name and is called by all ranks.
    `fewest` images are taken on either side. `rank` makes one number of those values that is lower
    if the images are better. `settings` are written to the protocol. `compares`: there is a
    reference. `caution` is what a user should know of every score.
    """

    name: str
    needs: Need
    fewest: int
    values: Callable[..., dict[str, float]]
    rank: Callable[[Mapping[str, float]], float]
    space: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    compares: bool = True
    caution: str | None = None

    @property
    def takes_file(self) -> bool:
        """Whether a file of reference statistics can stand in for the data set."""
        return self.needs == "gaussian"

    def of(self, collected: Collected) -> Any:
        """What `values` takes of one side."""
        if self.space is None:
            return collected.patches
        return getattr(collected.features[self.space], self.needs)


def neighbors(space: Space) -> int:
    """How many neighbors precision, recall and realism look at.

    Published ones took 3; the evaluation with DINOv2 (arXiv 2306.04675) takes 5.
    """
    return precision_recall.NEIGHBOURS if space in ("inception", "vgg") else 5


def _in_space(metric: InSpace, space: Space) -> Metric:
    name = metric_name(metric, space)
    suffix = "" if space == "inception" else f"_{space}"
    k = neighbors(space)
    row: dict[str, Any] = {"name": name, "space": space, "rank": itemgetter(name)}
    if metric == "fd":
        return Metric(**row, needs="gaussian", fewest=2, values=_single(name, frechet_distance))
    row["needs"] = "all_ND"
    if metric == "kd":
        values = _single(name, kid.kernel_distance)
        return Metric(**row, fewest=2, values=values, settings=kid.SETTINGS)
    if metric == "mind":
        return Metric(**row, fewest=1, values=_single(name, mind.mind), settings=mind.SETTINGS)
    if metric == "pr":
        names = (f"precision{suffix}", f"recall{suffix}")
        row["rank"] = lambda values: precision_recall.rank(*map(values.__getitem__, names))
        pair = precision_recall.precision_recall
    else:
        names, k = (f"density{suffix}", f"coverage{suffix}"), density_coverage.NEIGHBOURS
        row["rank"] = lambda values: -values[names[1]]
        pair = density_coverage.density_coverage
    return Metric(**row, fewest=k + 1, values=_pair(names, pair, k), settings={"k": k})


def _single(name: str, distance: Callable[..., float]) -> Callable[..., dict[str, float]]:
    return lambda ours, theirs: {name: distance(ours, theirs)}


def _pair(
    names: tuple[str, str], pair: Callable[..., tuple[float, float]], k: int
) -> Callable[..., dict[str, float]]:
    return lambda ours, theirs: dict(zip(names, pair(ours, theirs, k=k), strict=True))


def _inception_score(ours_NC: Tensor) -> dict[str, float]:
    return dict(zip(("is", "is_std"), inception_score.inception_score(ours_NC), strict=True))


def _path_length(name: str, loss: ProjectionLoss) -> Metric:
    return Metric(
        name,
        needs="walk",
        fewest=1,
        values=lambda walk: {name: path_length.path_length(walk, loss=loss)},
        rank=itemgetter(name),
        settings={**path_length.SETTINGS, "distance": loss},
        compares=False,
    )


_ROWS = (
    *(_in_space(metric, space) for space in SPACES for metric in IN_SPACE),
    Metric(
        "cmmd",
        needs="all_ND",
        fewest=1,
        values=_single("cmmd", cmmd.cmmd),
        rank=itemgetter("cmmd"),
        space="clip",
        settings=cmmd.SETTINGS,
    ),
    Metric(
        "is",
        needs="all_ND",
        fewest=inception_score.SPLITS,
        values=_inception_score,
        rank=lambda values: -values["is"],
        space="inception_classes",
        settings=inception_score.SETTINGS,
        compares=False,
        caution=FOR_FACES,
    ),
    _path_length("ppl", "vgg-lpips"),
    _path_length("ppl_effnet_lite0", "effnet"),
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
    """The rows of these names. Raises ValueError for no names, or for an unknown one."""
    names = list(names)
    if not names:
        raise ValueError(f"name at least one metric: {METRICS_IN_WORDS}")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {shown(name)}; choose from {METRICS_IN_WORDS}")
    return [TABLE[name] for name in names]


def keeps_all(rows: Sequence[Metric], space: str) -> bool:
    """Whether a metric needs all features of a space, not only their Gaussian."""
    return any(row.needs == "all_ND" for row in rows if row.space == space)


def require_enough(rows: Sequence[Metric], count: int, which: str) -> None:
    """Raises ValueError if a metric takes more images than these."""
    for row in rows:
        if count < row.fewest:
            raise ValueError(f"{row.name} takes at least {row.fewest} images {which}: {count}")


def require_file_suffices(rows: Sequence[Metric]) -> None:
    """Raises ValueError if a metric needs more than a file of reference statistics holds."""
    more = [row.name for row in rows if row.compares and not row.takes_file]
    spaces = {row.space for row in rows if row.compares}
    if more:
        raise ValueError(
            "reference statistics are for fid, and fd in other spaces, alone; the others need a "
            f"data set: {', '.join(more)}"
        )
    if len(spaces) > 1:
        raise ValueError(
            "a file of reference statistics holds the features of one network: measure "
            f"{' and '.join(row.name for row in rows if row.compares)} one by one"
        )


def measure(
    rows: Sequence[Metric], ours: Collected, theirs: Collected, walk: path_length.Walk | None
) -> dict[str, float]:
    """The values of these metrics, in the table's order; called by all ranks."""
    values: dict[str, float] = {}
    for row in TABLE.values():
        if row not in rows:
            continue
        subject = walk if row.needs == "walk" else row.of(ours)
        values |= row.values(subject, row.of(theirs)) if row.compares else row.values(subject)
    return values


def cautions(rows: Sequence[Metric], count: int, dims: Mapping[str, int]) -> list[str]:
    """What a user should know before trusting the scores of `count` images: one sentence each.

    `dims`: how many features a space has.
    """
    found = [row.caution for row in rows if row.caution is not None]
    for row in rows:
        dim = dims[row.space] if row.needs == "gaussian" and row.space is not None else 0
        if count <= dim:
            others = f"{metric_name('kd', row.space)} or cmmd"  # type: ignore[arg-type]
            found.append(
                f"{row.name} of {count:,} images is too high, and by how much depends on their "
                f"number: the covariance of {dim:,} features takes more images than that; "
                f"measure {others}, or more images"
            )
    return found
