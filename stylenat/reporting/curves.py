"""Which curves a report shows: those of one run in groups, those of several runs one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from stylenat.metrics.scores import TITLES, title_of
from stylenat.reporting.charts import Chart, Curve
from stylenat.reporting.facts import RunFacts, points_of
from stylenat.training.outputs import LOGARITHMIC, PANELS

# Title, what the axis shows, and a sentence for the reader.
ABOUT = {
    "losses": ("loss", "What D and G minimise. In a GAN, a lower loss is not a better image."),
    "logits": (
        "logit",
        "What D says of real and of generated images: the higher, the more real. Means of all "
        "steps since the point before.",
    ),
    "logits at one moment": (
        "logit",
        "D's logits of images that it trains on, of held-out ones and of generated ones. If the "
        "held-out ones fall away from the trained ones, D knows its images by heart.",
    ),
    "gradient penalties, gradient norm": (
        "value",
        "How steep D is: R1 at real images, R2 at generated ones; and the norm of its gradient.",
    ),
    "learning rates": ("rate", "Step sizes of the two optimizers."),
    "ADA: probability, mean sign of D": (
        "value",
        "How often ADA transforms an image (ada_p), and the sign of D's logits of real images that "
        "it follows (ada_r).",
    ),
    "speed": ("images/s", "Training images per second, without the time for samples and scores."),
    "memory": ("GB", "The most memory that the process has held so far."),
}
SINGLE = (("speed", ("images_per_second",)), ("memory", ("memory_gb",)))
PAIRS = {"recall": "precision", "coverage": "density"}


def direction(metric: str) -> str:
    """Whether more or less is better, in words; empty if that can't be said of a number."""
    kind = metric.partition("_")[0]
    if metric == "is_std" or kind not in TITLES:
        return ""
    _, is_more_better = TITLES[kind]
    return "Higher is better" if is_more_better else "Lower is better"


def written_out(name: str) -> str:
    """A score's name for people, where it has one: `FD (dinov2)` for fd_dinov2."""
    titled = title_of(name)
    return name if titled is None else titled[0]


def charts_of(runs: Sequence[RunFacts]) -> list[Chart]:
    """Charts of all that the runs have logged, scores first."""
    metrics = list(_metric_panels(runs))
    panels = [*metrics, *PANELS, *SINGLE]
    if len(runs) > 1:
        # A panel for each name, so that a colour stands for a run.
        panels = [
            (name if len(names) > 1 else title, (name,))
            for title, names in panels
            for name in names
        ]
    grouped = {name: title for title, names in (*PANELS, *SINGLE) for name in names}
    charts = []
    for title, names in panels:
        curves = list(_curves(runs, names))
        if curves:
            group = grouped.get(names[0])
            if group:
                y_label, about = ABOUT[group]
            else:
                title = ", ".join(map(written_out, names))
                y_label, about = "score", direction(names[0])
                about += "." if about else ""
            is_log = group in LOGARITHMIC
            charts.append(Chart(title, about, "kimg", y_label, curves, is_log=is_log))
    return charts


def _curves(runs: Sequence[RunFacts], names: Iterable[str]) -> Iterator[Curve]:
    for run in runs:
        for name in names:
            points = points_of((*run.stats, *run.scores), name)
            if points:
                yield Curve(name if len(runs) == 1 else run.name, points)


def _metric_panels(runs: Iterable[RunFacts]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of scores that share a panel: precision with recall, the levels of SWD."""
    found: dict[str, list[str]] = {}
    for name in metric_names(runs):
        first, _, rest = name.partition("_")
        if first == "swd":
            key = "swd"
        elif first in (*PAIRS, *PAIRS.values()):
            key = " ".join([PAIRS.get(first, first), rest]).strip()
        elif name == "is_std":
            continue
        else:
            key = name
        found.setdefault(key, []).append(name)
    for names in found.values():
        yield ", ".join(names), tuple(names)


def metric_names(runs: Iterable[RunFacts]) -> list[str]:
    """The names of all scores, in the order in which they were measured."""
    entries = (entry for run in runs for entry in run.scores)
    return list(dict.fromkeys(str(name) for entry in entries for name in entry["metrics"]))
