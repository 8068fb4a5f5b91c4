"""The configuration of a run: YAML and dotted overrides -> validated, frozen dataclasses, and back.

The networks' configs live beside the networks that consume them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stylenat.config.files import private_folder, replacing
from stylenat.config.plain import from_dict, to_dict
from stylenat.config.sections import (
    METRICS,
    ConsistencyConfig,
    DataConfig,
    MetricsConfig,
    TrainConfig,
)
from stylenat.config.words import printable
from stylenat.config.yaml_file import apply_override, read_yaml, refuse_interpolations, write_yaml
from stylenat.models.discriminator import DiscriminatorConfig
from stylenat.models.generator import GeneratorConfig

__all__ = [
    "METRICS",
    "ConsistencyConfig",
    "DataConfig",
    "MetricsConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "from_dict",
    "load_config",
    "private_folder",
    "replacing",
    "save_config",
    "to_dict",
]


@dataclass(frozen=True)
class ModelConfig:
    """The two networks; both see images of one size."""

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig

    def __post_init__(self) -> None:
        if self.generator.resolution != self.discriminator.resolution:
            raise ValueError(
                "the generator and the discriminator must have one resolution: "
                f"{self.generator.resolution} against {self.discriminator.resolution}"
            )


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on; saved in its folder as config.yaml."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply overrides such as `model.generator.levels[2].channels=256`, check.

    An override's value is YAML as well; later ones win. Raises OSError where the file cannot be
    read, and else ValueError, one sentence that names the dotted key, its rule and the value: an
    unknown key (with the nearest right one), a value of another type or out of range, text that is
    no YAML mapping, duplicate keys, aliases, interpolations.
    """
    try:
        data = read_yaml(Path(path))
        for override in overrides:
            apply_override(data, override, RunConfig)
        refuse_interpolations(data)
        return from_dict(RunConfig, data)
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}")) from error


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write a YAML file that `load_config` reads back to an equal config; replaced atomically."""
    write_yaml(to_dict(config), path)
