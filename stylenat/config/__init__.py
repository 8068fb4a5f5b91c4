"""The configuration of a run: YAML and dotted overrides -> validated, frozen dataclasses, and back.

The networks' configs live beside the networks that consume them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stylenat.config.blame import origin
from stylenat.config.plain import from_dict, to_dict
from stylenat.config.presets import read_layers
from stylenat.config.sections import (
    ConsistencyConfig,
    DataConfig,
    MetricsConfig,
    TrainConfig,
)
from stylenat.config.shipped import find_config, shipped_configs
from stylenat.config.yaml_file import (
    UnfitOverride,
    apply_override,
    read_yaml,
    write_yaml,
)
from stylenat.files import user_path
from stylenat.models.classes import keep_class_names, keep_classes
from stylenat.models.discriminator import DiscriminatorConfig
from stylenat.models.levels import GeneratorConfig
from stylenat.text import printable, shortened, shown

__all__ = [
    "ConsistencyConfig",
    "DataConfig",
    "MetricsConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "find_config",
    "from_dict",
    "load_config",
    "load_run_config",
    "save_config",
    "shipped_configs",
    "to_dict",
]


@dataclass(frozen=True)
class ModelConfig:
    """The two networks; both see images of one size.

    `classes` is how many classes the images have, 0 to train without classes. `class_names` are
    taken from the data if none are given.
    """

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    classes: int = 0
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._share_classes()
        if self.generator.resolution != self.discriminator.resolution:
            raise ValueError(
                "the generator and the discriminator must have one resolution: "
                f"{self.generator.resolution} against {self.discriminator.resolution}"
            )

    def _share_classes(self) -> None:
        """Give the networks `classes` and `class_names`. Raises ValueError if they have others."""
        keep_classes(self)
        keep_class_names(self)
        shared = {"generator": ("classes", "class_names"), "discriminator": ("classes",)}
        for network, keys in shared.items():
            config, own = getattr(self, network), {key: getattr(self, key) for key in keys}
            for key in keys:
                if getattr(config, key) and getattr(config, key) != own[key]:
                    raise ValueError(
                        f"{network} must have the {key} that model.{key} says, "
                        f"{shown(own[key])}: {shown(getattr(config, key))}; set model.{key} alone"
                    )
            object.__setattr__(self, network, replace(config, **own))


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on; saved in its folder as config.yaml."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        train, model = self.train, self.model
        levels_d, levels_g = len(model.discriminator.levels), len(model.generator.levels)
        if train.freeze_d > levels_d:
            raise ValueError(
                f"train.freeze_d must be 0 to {levels_d}, the discriminator's levels: "
                f"{train.freeze_d}"
            )
        low, high = train.freeze_g_low, train.freeze_g_high
        if low + high >= levels_g:
            raise ValueError(
                "train.freeze_g_low and train.freeze_g_high must leave one of the generator's "
                f"{levels_g} levels to train: {low} and {high}"
            )
        if train.class_transition_kimg is not None:
            if not model.classes:
                raise ValueError(
                    "train.class_transition_kimg must be null without classes: "
                    f"{list(train.class_transition_kimg)}; set model.classes"
                )
            # Before the transition, D has no other opinion than the unconditional one.
            discriminator = replace(model.discriminator, unconditional_logit=True)
            object.__setattr__(self, "model", replace(model, discriminator=discriminator))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply overrides such as `model.generator.levels[2].channels=256`, check.

    `path` may also be the name of a configuration that comes with StyleNAT, such as `ffhq256`. If
    the file has a `base`, it changes that configuration (see `read_layers`).

    An override's value is taken literally if the key holds text (`data.path=set #2`; `null` for
    None), and is YAML otherwise; later ones win. Raises OSError if the file cannot be read, and
    otherwise ValueError, one sentence that names the file, the override or both, whichever is
    wrong, the dotted key, its rule and the value: an unknown key (with the nearest right one), a
    value of another type or out of range, text that is no YAML mapping, duplicate keys, aliases.
    """
    layers = read_layers(path)
    data = copy.deepcopy(layers[-1].data)
    for override in overrides:
        try:
            apply_override(data, override, RunConfig)
        except UnfitOverride as error:
            sentence = f"{shortened(override)} on top of {path}: {error}"
            raise ValueError(printable(sentence)) from error
    try:
        return _built(data)
    except ValueError as error:
        named = origin(layers, overrides, str(error), _built)
        raise ValueError(printable(f"{named}: {error}")) from error


def _built(data: Any, overrides: Sequence[str] = ()) -> RunConfig:
    for override in overrides:
        apply_override(data, override, RunConfig)
    return from_dict(RunConfig, data)


def load_run_config(path: str | Path) -> RunConfig:
    """Read the config.yaml that `stylenat train` saved. Raises as `load_config` does.

    Before there was data.seed, a run drew its data with train.seed.
    """
    config = load_config(path)
    if "seed" in (read_yaml(user_path(path)).get("data") or {}):
        return config
    return replace(config, data=replace(config.data, seed=config.train.seed))


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write a YAML file that `load_config` reads back to an equal config; replaced atomically."""
    write_yaml(to_dict(config), user_path(path))
