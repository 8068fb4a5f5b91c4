"""The networks: plain `nn.Module`s whose configurations are frozen dataclasses."""

from stylenat.models.attention import (
    AttentionKind,
    GlobalAttention,
    HydraAttention,
    WindowAttention,
    Windows,
    deal_heads,
)
from stylenat.models.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
)
from stylenat.models.generator import Generator, GeneratorConfig, LevelConfig
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
