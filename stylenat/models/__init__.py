"""The networks: plain `nn.Module`s whose configurations are frozen dataclasses."""

from stylenat.models.attention import GlobalAttention, HydraAttention, WindowAttention
from stylenat.models.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
)
from stylenat.models.generator import Generator
from stylenat.models.levels import (
    AttentionKind,
    GeneratorConfig,
    LevelConfig,
    Windows,
    deal_heads,
)
from stylenat.models.pixels import IMAGENET, PixelSpace, from_uint8, to_uint8

__all__ = [
    "IMAGENET",
    "AttentionKind",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorLevel",
    "Generator",
    "GeneratorConfig",
    "GlobalAttention",
    "HydraAttention",
    "LevelConfig",
    "PixelSpace",
    "WindowAttention",
    "Windows",
    "deal_heads",
    "from_uint8",
    "to_uint8",
]
