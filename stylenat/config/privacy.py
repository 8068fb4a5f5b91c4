"""Configurations without the folders of a machine: they say where somebody works, and who."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from stylenat.hub import is_hub_name

if TYPE_CHECKING:
    from stylenat.config import RunConfig


def without_folders(config: RunConfig) -> RunConfig:
    """The same, but of every path only the last part."""
    return replace(
        config,
        data=replace(config.data, path=last_part(config.data.path)),
        train=replace(config.train, init_from=last_part(config.train.init_from)),
        metrics=replace(config.metrics, weights=last_part(config.metrics.weights)),
    )


def last_part(path: str | None) -> str | None:
    """What a path leads to, without the folders that it lies in; both kinds of slash count.

    None for a path that names nothing but a folder's place, such as `..`. A name on the Hub stays.
    """
    if path is None or is_hub_name(path):
        return path
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return None if last in ("", ".", "..", "~") else last
