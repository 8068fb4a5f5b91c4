"""Scores with the protocol that they were measured under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stylenat.metrics.table import TABLE


@dataclass(frozen=True)
class Scores:
    """What was measured, and how.

    `values`: fid; kid (not multiplied); precision and recall (0..1); swd (times 1000, the mean of
    its levels) and each level's, swd_16 and so on. `protocol`: all that a score depends on, plain
    data for JSON.
    """

    values: Mapping[str, float]
    protocol: Mapping[str, Any]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def rank_by(self, metric: str) -> float:
        """One number that is lower if the images are better: see `Metric.rank`."""
        return TABLE[metric].rank(self.values)

    def summary(self) -> str:
        """One line: how many images against which, and through which network."""
        images, reference = self.protocol["images"], self.protocol["reference"]
        seeds = f" (seeds {images['seeds']})" if "seeds" in images else ""
        against = (
            reference["file"] if "file" in reference else f"{reference['num']} of {reference['of']}"
        )
        parts = [f"{images['num']} images{seeds} against {against}"]
        if "features" in self.protocol:
            features = self.protocol["features"]
            origin = "" if features["network_is_published"] else ", not the published one"
            parts.append(f"{features['mode']}, network {features['network_sha256'][:8]}{origin}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {"scores": dict(self.values), "protocol": dict(self.protocol)}
