"""NAT, DiNAT and DiNAT_s: neighborhood attention for classification and as backbones."""

from stylenat.backbones.config import ImageConfig, LevelConfig, NATConfig
from stylenat.backbones.network import NAT
from stylenat.backbones.variants import VARIANTS, variant

__all__ = [
    "NAT",
    "VARIANTS",
    "ImageConfig",
    "LevelConfig",
    "NATConfig",
    "variant",
]
