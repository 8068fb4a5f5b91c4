"""Which tensors of a model's networks go where in a run's: `train.init_from`.

A tensor of the model goes to the one that does the same work in the run's network, if their shapes
agree. Levels are matched by their resolution: G's names count from 4x4 up, D's from the top down,
so that the same level has other names in a D for larger images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stylenat.models import Discriminator, Generator

Network = Generator | Discriminator

# Each has the mean of w anew, since training changes it, and the weight of classes by its schedule.
DERIVED = ("w_avg", "w_avg_samples", "class_weight", "mapping_network.class_weight")
FIRST_OF_MAPPING = "mapping_network.layers.0.weight"
WEIGHT = ".parametrizations.weight.original"
VECTORS = (".parametrizations.weight.0._u", ".parametrizations.weight.0._v")


@dataclass(frozen=True)
class Match:
    """Which tensors one network takes from another, and what becomes of the rest.

    `copied`: name in the run's network -> name in the model's. A weight under spectral norm stands
    for its two singular vectors too, which go where it goes. `widened` does the same for weights
    that see the class beside z here, and z alone in the model: those of the class start at 0, so
    that the network begins as the model's does, whatever the class.
    """

    copied: Mapping[str, str]
    widened: Mapping[str, str]
    count: int  # of the tensors that the run's network has
    new: tuple[str, ...]
    left_over: tuple[str, ...]
    of_another_shape: tuple[str, ...]


def match(target: Network, source: Network) -> Match:
    """Which tensors of `target` are to be copied from `source`; only shapes are looked at."""
    own, given = _tensors(target), _tensors(source)
    copied, widened, new, odd = {}, {}, [], []
    for role, (name, tensor) in own.items():
        if role not in given:
            new.append(shown_name(name))
            continue
        source_name, source_tensor = given[role]
        if source_tensor.shape == tensor.shape:
            copied[name] = source_name
        elif name == FIRST_OF_MAPPING and _gains_classes(target, source):
            widened[name] = source_name
        else:
            shapes = f"{list(source_tensor.shape)} there, {list(tensor.shape)} here"
            odd.append(f"{shown_name(name)} {shapes}")
    left_over = tuple(shown_name(name) for role, (name, _) in given.items() if role not in own)
    return Match(copied, widened, len(own), tuple(new), left_over, tuple(odd))


def _gains_classes(target: Network, source: Network) -> bool:
    """Whether two generators differ, before the first layer, in classes alone."""
    if not isinstance(target, Generator) or not isinstance(source, Generator):
        return False
    here, there = target.config, source.config
    same = (here.z_dim, here.style_dim) == (there.z_dim, there.style_dim)
    return same and bool(here.classes) and not there.classes


def _tensors(network: Network) -> dict[str, tuple[str, Tensor]]:
    """Name and tensor of all that can be copied, by what they do."""
    return {
        _role(network, name): (name, tensor)
        for name, tensor in network.state_dict().items()
        if name not in DERIVED and not name.endswith(VECTORS)
    }


def _role(network: Network, name: str) -> str:
    """A tensor's name, the same in networks for images of any size."""
    if isinstance(network, Generator):
        # The last level's RGB output sees its own tokens, all others those of the next level.
        last = len(network.levels) - 1
        return name.replace(f"levels.{last}.to_rgb.", f"last_rgb@{network.resolution}.")
    sides = [level.resolution for level in network.config.levels[::-1]]
    return re.sub(
        r"^(from_rgbs|blocks)\.(\d+)\.", lambda found: f"{found[1]}@{sides[int(found[2])]}.", name
    )


def shown_name(name: str) -> str:
    return name.replace(WEIGHT, ".weight")
