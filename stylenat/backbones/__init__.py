"""NAT, DiNAT and DiNAT_s: neighborhood attention for classification and as backbones.

`network = load_classifier("dinat_mini_in1k_224.pth")` loads a published checkpoint, Hugging Face's
or one of ours; `network(images)` gives logits, and `network.features(images)` the levels' maps.
`NAT(variant("dinat_mini"))` is a fresh one.
"""

from stylenat.backbones.config import ImageConfig, LevelConfig, NATConfig
from stylenat.backbones.files import (
    holds_classifier,
    load_classifier,
    save_classifier,
    to_backbone,
)
from stylenat.backbones.network import NAT
from stylenat.backbones.variants import VARIANTS, variant

__all__ = [
    "NAT",
    "VARIANTS",
    "ImageConfig",
    "LevelConfig",
    "NATConfig",
    "holds_classifier",
    "load_classifier",
    "save_classifier",
    "to_backbone",
    "variant",
]
