"""Mapping networks: latents and labels to w, labels to what a projection discriminator compares.

Legend: B batch, C channels, N classes, S style_dim.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stylenat.models.layers import EqualizedLinear, pixel_norm, without_autocast
from stylenat.models.levels import GeneratorConfig
from stylenat.models.spectral_norm import spectral_norm


class MappingNetwork(nn.Module):
    """Pixel norm, then equalised linear layers with leaky ReLU: z [B, z_dim] -> w [B, S].

    With classes, the embedding of the labels stands beside z, both with a mean square of 1
    (StyleGAN2-ADA, arXiv 2006.06676), the embedding times `class_weight`, which is 1 but for the
    first part of a run that begins without classes (see `train.class_transition_kimg`).

    It works in the precision of its parameters, under autocast too, since it is small and every
    block depends on it.
    """

    class_weight: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.class_embedding = None
        widths = [config.z_dim] + [config.style_dim] * config.mapping_layers
        if config.classes:
            self.class_embedding = ClassEmbedding(config.classes, config.style_dim)
            self.register_buffer("class_weight", torch.ones(()))
            widths[0] += config.style_dim
        self.layers = nn.ModuleList(
            EqualizedLinear(
                in_features,
                out_features,
                lr_multiplier=config.mapping_lr_multiplier,
                activation=True,
            )
            for in_features, out_features in pairwise(widths)
        )

    def forward(self, z: Tensor, labels_B: Tensor | None = None) -> Tensor:
        with without_autocast(z.device):
            w = pixel_norm(z)
            if self.class_embedding is not None:
                y_BS = self.class_embedding(labels_B) * self.class_weight
                w = torch.cat([w, y_BS], dim=1)
            for layer in self.layers:
                w = layer(w)
        return w


class ClassEmbedding(nn.Module):
    """Labels [B], 0 to N - 1 -> vectors [B, C] with a mean square of 1 (StyleGAN2-ADA, 2006.06676).

    `spectral` divides the table by its largest singular value, as a discriminator with spectral
    norm does with all its weights (arXiv 1802.05637). The embedding has no activation, and works in
    the precision of its parameters, under autocast too.
    """

    def __init__(self, classes: int, channels: int, *, spectral: bool = False) -> None:
        super().__init__()
        self.classes = classes
        # A common bias would lie in the way of small classes' vectors: spectral norm shrinks these.
        self.linear: nn.Module = (
            spectral_norm(nn.Linear(classes, channels, bias=False))
            if spectral
            else EqualizedLinear(classes, channels)
        )

    def forward(self, labels_B: Tensor) -> Tensor:
        with without_autocast(labels_B.device):
            one_hot_BN = functional.one_hot(labels_B, self.classes)
            weight = next(self.parameters())
            return pixel_norm(self.linear(one_hot_BN.to(weight.dtype)))


class ClassMapping(nn.Module):
    """Labels [B] -> the directions cmap [B, C] that a projection discriminator compares with.

    A mapping network without z: the embedding, then equalised linear layers with leaky ReLU.
    """

    def __init__(self, classes: int, channels: int, *, layers: int, spectral: bool) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(classes, channels, spectral=spectral)
        self.layers = nn.ModuleList(
            EqualizedLinear(channels, channels, lr_multiplier=0.01, activation=True)
            for _ in range(layers)
        )

    def forward(self, labels_B: Tensor) -> Tensor:
        with without_autocast(labels_B.device):
            cmap_BC = self.embedding(labels_B)
            for layer in self.layers:
                cmap_BC = layer(cmap_BC)
        return cmap_BC
