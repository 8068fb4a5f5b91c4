"""A generator of 16x16 images that takes milliseconds, with weights that give varied pixels."""

from dataclasses import replace

import torch

from ops.neighborhood import HeadGroup
from stylenat.models import Generator, GeneratorConfig, LevelConfig

CONFIG = GeneratorConfig(
    levels=(
        LevelConfig(4, 8, heads=2, attention="global", blocks=1),
        LevelConfig(8, 8, heads=2, attention=(HeadGroup(2, 3, 1),), blocks=1),
        LevelConfig(16, 8, heads=2, attention=(HeadGroup(1, 3, 1), HeadGroup(1, 3, 2)), blocks=1),
    ),
    z_dim=8,
    style_dim=8,
    mapping_layers=2,
)


CLASS_NAMES = ("cat", "dog", "great owl")


def tiny_generator(seed: int = 0) -> Generator:
    return _varied(CONFIG, seed)


def generator_of_classes() -> Generator:
    """The same of three classes."""
    return _varied(replace(CONFIG, classes=3, class_names=CLASS_NAMES), seed=0)


def _varied(config: GeneratorConfig, seed: int) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(config).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "to_rgb" in name and parameter.ndim > 1:
                parameter.mul_(150)
    generator.store_w_avg()
    return generator
