"""Parts of the networks that a run leaves as they are: `train.freeze_d`, `freeze_g_low`, ...

Levels of D are counted from the image down, as its names are (FreezeD, arXiv 2002.10964); levels of
G from 4x4 up for `freeze_g_low`, and from the image down for `freeze_g_high`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from stylenat.config import TrainConfig
from stylenat.models import Discriminator, Generator
from stylenat.models.spectral_norm import SpectralNorm


def trained_parameters_g(G: Generator, config: TrainConfig) -> list[nn.Parameter]:
    """G's parameters without those that the config freezes, in their order."""
    count, levels = len(G.levels), list(G.levels)
    frozen: list[nn.Module] = levels[: config.freeze_g_low]
    frozen += levels[count - config.freeze_g_high :]
    if config.freeze_mapping:
        frozen.append(G.mapping_network)
    others = [G.const] if config.freeze_g_low else []
    return _without(G, frozen, others)


def trained_parameters_d(D: Discriminator, config: TrainConfig) -> list[nn.Parameter]:
    """D's parameters without those that the config freezes, in their order."""
    return _without(D, _frozen_of_d(D, config), ())


def stop_vectors(D: Discriminator, config: TrainConfig) -> None:
    """Keep the spectral-norm vectors of frozen weights, which would step with every pass of D.

    They would lead to the same weights only in the long run: until then D would change.
    """
    for part in _frozen_of_d(D, config):
        for module in part.modules():
            if isinstance(module, SpectralNorm):
                module.eval()


def _frozen_of_d(D: Discriminator, config: TrainConfig) -> list[nn.Module]:
    return [*D.from_rgbs[: config.freeze_d], *D.blocks[: config.freeze_d]]


def _without(
    network: nn.Module, frozen: Iterable[nn.Module], others: Iterable[nn.Parameter]
) -> list[nn.Parameter]:
    left_out = {id(parameter) for part in frozen for parameter in part.parameters()}
    left_out |= {id(parameter) for parameter in others}
    return [parameter for parameter in network.parameters() if id(parameter) not in left_out]
