"""Classes during a run: names from the data, the transition, and which classes a grid shows.

Legend: N training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stylenat.config import RunConfig, TrainConfig
from stylenat.data import ImageSource
from stylenat.text import listed
from stylenat.training.state import TrainingState

MOST_CLASS_ROWS = 32  # of a grid that nobody asked to have more


def with_class_names(config: RunConfig, source: ImageSource) -> RunConfig:
    """The config with the names that the data have for its classes, if it has classes.

    Raises ValueError if the config has other names.
    """
    model, found = config.model, source.class_names
    if not model.classes or not found or model.class_names == found:
        return config
    if model.class_names:
        raise ValueError(
            f"model.class_names must be those of {source.path}, {listed(found)}, or be left out: "
            f"{listed(model.class_names)}"
        )
    return replace(config, model=replace(model, class_names=found))


def class_weight(config: TrainConfig, nimg: int) -> float:
    """How much classes count after `nimg` images: 0, then rising to 1 within the transition."""
    if config.class_transition_kimg is None:
        return 1.0
    first, last = config.class_transition_kimg
    return min(max((nimg / 1000 - first) / (last - first), 0.0), 1.0)


def set_class_weight(state: TrainingState, config: TrainConfig) -> None:
    """Give the networks the weight that the transition has for `state.nimg`, if there is one."""
    if config.class_transition_kimg is None:
        return
    weight = class_weight(config, state.nimg)
    for G in (state.G, state.G_ema):
        G.mapping_network.class_weight.fill_(weight)
    state.D.class_weight.fill_(weight)


def grid_rows(rows: int, classes: int) -> int:
    """The rows of a sample grid: as asked for, but with classes a row for each of the first 32."""
    return max(rows, min(classes, MOST_CLASS_ROWS))


def grid_cells(columns: int, rows: int, classes: int) -> Iterator[tuple[int, int]]:
    """Class and seed of each cell: a row per class, and then the same classes with other seeds."""
    for row in range(rows):
        for column in range(columns):
            yield row % classes, row // classes * columns + column
