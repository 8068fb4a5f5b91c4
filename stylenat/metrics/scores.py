"""Scores, and the protocol by which they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stylenat.choices import SPACES
from stylenat.metrics.table import TABLE

# What is written out: of each kind of value, its name, and whether more of it is better.
TITLES = {
    "fid": ("FID", False),
    "kid": ("KID", False),
    "fd": ("FD", False),
    "kd": ("KD", False),
    "cmmd": ("CMMD", False),
    "mind": ("MIND", False),
    "precision": ("Precision", True),
    "recall": ("Recall", True),
    "density": ("Density", True),
    "coverage": ("Coverage", True),
    "ppl": ("PPL", False),
    "is": ("IS", True),
    "swd": ("SWD", False),
}


def title_of(value: str) -> tuple[str, bool] | None:
    """A value's name for people, such as `FD (dinov2)`, and whether more of it is better.

    None for a part of another value, such as swd_16 or is_std, and for a name that is unknown.
    """
    kind, _, space = value.partition("_")
    if kind not in TITLES or (space and space not in SPACES):
        return None
    title, is_more_better = TITLES[kind]
    return f"{title} ({space})" if space else title, is_more_better


@dataclass(frozen=True)
class Scores:
    """What was measured, and how.

    `values`: one or more numbers by name, as `docs/metrics.md` lists them; kid and kd are not
    multiplied, swd is times 1000 and the mean of its levels, swd_16 and so on. `protocol`: all that
    a score depends on, plain data for JSON.
    """

    values: Mapping[str, float]
    protocol: Mapping[str, Any]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def rank_by(self, metric: str) -> float:
        """One number that is lower if the images are better: see `Metric.rank`."""
        return TABLE[metric].rank(self.values)

    @property
    def cautions(self) -> list[str]:
        """What one should know before trusting these scores, a sentence each."""
        return list(self.protocol.get("cautions", ()))

    def summary(self) -> str:
        """One line: how many images against which, and through which networks."""
        images, reference = self.protocol["images"], self.protocol.get("reference")
        text = f"{images['num']} images"
        if "seeds" in images:
            text += f" (seeds {images['seeds']})"
        if reference is not None:
            whole = "file" in reference
            text += (
                f" against {reference['file']}"
                if whole
                else (f" against {reference['num']} of {reference['of']}")
            )
        parts = [text]
        for space, features in self.protocol.get("features", {}).items():
            origin = "" if features["network_is_published"] else ", not the published one"
            name = features.get("mode", space)
            parts.append(f"{name}, network {features['network_sha256'][:8]}{origin}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {"scores": dict(self.values), "protocol": dict(self.protocol)}
