"""What is special about a configuration: its differences from another one, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stylenat.config import RunConfig, load_config, shipped_configs, to_dict
from stylenat.config.privacy import without_folders

MOST_KEYS = 40  # that differ; with more, a configuration is another one
ABSENT = "(absent)"


class Nearest(NamedTuple):
    """The configuration that comes with StyleNAT from which the fewest keys differ, and those:
    key, value there, value in the run."""

    name: str
    keys: list[tuple[Any, ...]]


def nearest_shipped(config: RunConfig) -> Nearest | None:
    """None if more than 40 keys differ from each of them."""
    found = [
        Nearest(name, differing([load_config(path), config]))
        for name, path in shipped_configs().items()
    ]
    nearest = min(found, key=lambda other: len(other.keys), default=None)
    return nearest if nearest is not None and len(nearest.keys) <= MOST_KEYS else None


def differing(configs: Sequence[RunConfig]) -> list[tuple[Any, ...]]:
    """The keys whose values are not the same in all configurations: key, value in each."""
    values = [dict(_leaves(to_dict(without_folders(config)))) for config in configs]
    keys = dict.fromkeys(key for of_one in values for key in of_one)
    rows = ([of_one.get(key, ABSENT) for of_one in values] for key in keys)
    return [
        (key, *row) for key, row in zip(keys, rows, strict=True) if row.count(row[0]) < len(row)
    ]


def _leaves(data: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of plain data, each with its dotted key; a list of plain values is one value."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(value, f"{key}.{name}" if key else name)
    elif isinstance(data, list) and any(isinstance(value, dict | list) for value in data):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, data
