"""Every published network of the family by name, and the name that a file's name stands for.

A variant is a family and a size (`dinat_mini`), and perhaps what it was trained for, which changes
dilations, kernel sizes and the rate of drop path (`dinat_mini_upernet`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ops.neighborhood import HeadGroup
from stylenat.backbones.config import ImageConfig, LevelConfig, NATConfig, Shell
from stylenat.text import shown

HEAD_DIM = 32  # of every variant, in every level
CLASSES_OF_22K = 21841
ALL_LEVELS = (0, 1, 2, 3)

Dilations = Sequence[Sequence[int]]  # of each level: those of its blocks, repeated to its depth


@dataclass(frozen=True)
class Size:
    """What the variants of a family and size share. `drop_path` is of ImageNet-1k."""

    channels: int
    depths: tuple[int, ...]
    mlp_ratio: float
    drop_path: float
    layer_scale: float | None = None
    shell: Shell = "nat"


_SMALL = Size(96, (3, 4, 18, 5), 2.0, 0.3)
_BASE = Size(128, (3, 4, 18, 5), 2.0, 0.5, layer_scale=1e-5)
_ISOTROPIC_SMALL = Size(384, (12,), 4.0, 0.1, shell="isotropic")
_ISOTROPIC_BASE = Size(768, (12,), 4.0, 0.4, shell="isotropic")
SIZES: Mapping[str, Size] = MappingProxyType({
    "nat_mini": Size(64, (3, 4, 6, 5), 3.0, 0.2),
    "nat_tiny": Size(64, (3, 4, 18, 5), 3.0, 0.2),
    "nat_small": replace(_SMALL, layer_scale=1e-5),  # which DiNAT-small has not
    "nat_base": _BASE,
    "dinat_mini": Size(64, (3, 4, 6, 5), 3.0, 0.2),
    "dinat_tiny": Size(64, (3, 4, 18, 5), 3.0, 0.2),
    "dinat_small": _SMALL,
    "dinat_base": _BASE,
    "dinat_large": Size(192, (3, 4, 18, 5), 2.0, 0.35),
    "dinat_s_tiny": Size(96, (2, 2, 6, 2), 4.0, 0.2, shell="swin"),
    "dinat_s_small": Size(96, (2, 2, 18, 2), 4.0, 0.3, shell="swin"),
    "dinat_s_base": Size(128, (2, 2, 18, 2), 4.0, 0.5, shell="swin"),
    "dinat_s_large": Size(192, (2, 2, 18, 2), 4.0, 0.35, shell="swin"),
    "nat_isotropic_small": _ISOTROPIC_SMALL,
    "nat_isotropic_base": _ISOTROPIC_BASE,
    "dinat_isotropic_small": _ISOTROPIC_SMALL,
    "dinat_isotropic_base": _ISOTROPIC_BASE,
})  # fmt: skip

NOT_DILATED: Dilations = ((1,), (1,), (1,), (1,))
AT_224: Dilations = ((1, 8), (1, 4), (1, 2), (1,))
AT_384: Dilations = ((1, 13), (1, 6), (1, 3), (1,))
MASK2FORMER: Dilations = ((1, 14), (1, 4, 1, 7), ((1, 2, 1, 3) * 4 + (1, 3)), (1,))

# Up to 640 pixels, and up to 1280: dilations of UPerNet and OneFormer.
_LEVEL_2_AT_640 = (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5)
_LEVEL_2_AT_1280 = (1, 3, 1, 5, 1, 5, 1, 7, 1, 3, 1, 5, 1, 5, 1, 7, 1, 7)
AT_640: Dilations = ((1, 20), (1, 5, 1, 10), _LEVEL_2_AT_640, (1, 2))
AT_1280: Dilations = ((1, 28), (1, 7, 1, 14), _LEVEL_2_AT_1280, (1, 3))
CITYSCAPES: Dilations = ((1, 18), (1, 5, 1, 9), (1, 2, 1, 3, 1, 4), (1, 2))

DETECTION: Dilations = ((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3))
AT_512: Dilations = ((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2))
# DiNAT_s has two blocks in its first levels: a plain one, and the most dilated.
DETECTION_S: Dilations = ((1, 28), (1, 14), (1, 3, 1, 5, 1, 7), (1, 3))
AT_512_S: Dilations = ((1, 16), (1, 8), (1, 2, 1, 3, 1, 4), (1, 2))
AT_640_S: Dilations = ((1, 20), (1, 10), _LEVEL_2_AT_640, (1, 2))

# Of the networks that detectors and segmenters were trained with.
DROP_PATHS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "maskrcnn": {
        "nat_mini": 0.2, "nat_tiny": 0.2, "nat_small": 0.35,
        "dinat_mini": 0.2, "dinat_tiny": 0.2, "dinat_small": 0.35,
        "dinat_s_tiny": 0.2, "dinat_s_small": 0.35,
    },
    "cascade": {
        "nat_mini": 0.2, "nat_tiny": 0.3, "nat_small": 0.3, "nat_base": 0.5,
        "dinat_mini": 0.2, "dinat_tiny": 0.3, "dinat_small": 0.5, "dinat_base": 0.6,
        "dinat_large": 0.6,
        "dinat_s_tiny": 0.3, "dinat_s_small": 0.5, "dinat_s_base": 0.6, "dinat_s_large": 0.6,
    },
    "upernet": {
        "nat_mini": 0.2, "nat_tiny": 0.3, "nat_small": 0.5, "nat_base": 0.5,
        "dinat_mini": 0.2, "dinat_tiny": 0.3, "dinat_small": 0.5, "dinat_base": 0.5,
        "dinat_large": 0.3,
        "dinat_s_tiny": 0.3, "dinat_s_small": 0.3, "dinat_s_base": 0.3, "dinat_s_large": 0.3,
    },
})  # fmt: skip


def make_config(size: Size, dilations: Dilations, *, kernel_size: int = 7) -> NATConfig:
    """The classifier of this size for ImageNet-1k."""
    levels = []
    for index, (depth, of_level) in enumerate(zip(size.depths, dilations, strict=True)):
        channels = size.channels * 2**index
        repeated = [of_level[block % len(of_level)] for block in range(depth)]
        groups = (HeadGroup(channels // HEAD_DIM, kernel_size, d) for d in repeated)
        levels.append(LevelConfig(channels, tuple(groups)))
    return NATConfig(
        tuple(levels),
        shell=size.shell,
        mlp_ratio=size.mlp_ratio,
        layer_scale=size.layer_scale,
        drop_path=size.drop_path,
    )


def _classifiers() -> Iterator[tuple[str, NATConfig]]:
    for name, size in SIZES.items():
        dilations = NOT_DILATED if name.startswith("nat_") else AT_224
        if size.shell == "isotropic":
            dilations = ((1,) if name.startswith("nat_") else (1, 2),)
        yield name, make_config(size, dilations)
    larger = ImageConfig(size=384, crop_pct=1.0)
    for name in ("dinat_large", "dinat_s_large"):
        size = SIZES[name]
        yield f"{name}_384", replace(make_config(size, AT_384), images=larger)
        size = replace(size, drop_path=0.2)
        yield f"{name}_21k", _for_22k(make_config(size, AT_224))
        if name == "dinat_large":
            wide = make_config(SIZES[name], AT_224, kernel_size=11)
            yield f"{name}_384_11x11", replace(wide, images=larger)
            yield f"{name}_21k_11x11", _for_22k(make_config(size, AT_224, kernel_size=11))


def _for_22k(config: NATConfig) -> NATConfig:
    return replace(config, num_classes=CLASSES_OF_22K)


def _backbones() -> Iterator[tuple[str, NATConfig]]:
    for task, drop_paths in DROP_PATHS.items():
        for name, drop_path in drop_paths.items():
            config = make_config(SIZES[name], _dilations_for(task, name))
            yield f"{name}_{task}", _for_features(config, drop_path)
    large = SIZES["dinat_large"]
    for task, dilations, kernel_size in (
        ("mask2former", MASK2FORMER, 11),
        ("oneformer", AT_640, 11),  # COCO, Mapillary, and ADE20K at 640 and 896
        ("oneformer_1280", AT_1280, 11),  # ADE20K at 1280
        ("oneformer_cityscapes", CITYSCAPES, 7),
    ):
        config = make_config(large, dilations, kernel_size=kernel_size)
        yield f"dinat_large_{task}", _for_features(config, 0.3)


def _dilations_for(task: str, name: str) -> Dilations:
    if name.startswith("nat_"):
        return NOT_DILATED
    is_s, is_large = name.startswith("dinat_s_"), name.endswith("large")
    if task == "upernet":
        at_512, at_640 = (AT_512_S, AT_640_S) if is_s else (AT_512, AT_640)
        return at_640 if is_large else at_512
    return DETECTION_S if is_s else DETECTION


def _for_features(config: NATConfig, drop_path: float) -> NATConfig:
    return replace(config, num_classes=0, out_levels=ALL_LEVELS, drop_path=drop_path)


VARIANTS: Mapping[str, NATConfig] = MappingProxyType(dict([*_classifiers(), *_backbones()]))


def variant(name: str) -> NATConfig:
    """The configuration of a variant, by its name or a published file's or repository's.

    Raises ValueError, with the names that there are, for any other name.
    """
    found = variant_in(name)
    if found is None:
        raise ValueError(f"there is no variant {shown(name)}; choose from {', '.join(VARIANTS)}")
    return VARIANTS[found]


_FAMILY = re.compile(
    r"(?<![a-z0-9])(dinat_s|dinats|dinat_isotropic|nat_isotropic|dinat|nat)_(mini|tiny|small|base|large|l)(?![a-z])"
)


def variant_in(text: str) -> str | None:
    """The variant that a file, folder or repository of this name holds; None if it says none.

    `dinat_large_in22k_in1k_384_11x11.pth`, `shi-labs/dinat-mini-in1k-224` and
    `cascadedmaskrcnn_dinat_s_tiny` are such names.
    """
    text = re.sub(r"[-.\s/]+", "_", text.lower())
    if text in VARIANTS:
        return text
    if (match := _FAMILY.search(text)) is None:
        return None
    family = "dinat_s" if match[1] == "dinats" else match[1]
    name = f"{family}_{'large' if match[2] == 'l' else match[2]}"
    found = f"{name}_{task}" if (task := _task_in(text)) else f"{name}{_setting_in(text)}"
    return found if found in VARIANTS else None


def _task_in(text: str) -> str | None:
    if "oneformer" in text:
        if "cityscapes" in text:
            return "oneformer_cityscapes"
        return "oneformer_1280" if "1280" in text else "oneformer"
    for task, marks in {
        "mask2former": ("mask2former", "m2f"),
        "cascade": ("cascade",),
        "maskrcnn": ("maskrcnn", "mask_rcnn"),
        "upernet": ("upernet",),
    }.items():
        if any(mark in text for mark in marks):
            return task
    return None


def _setting_in(text: str) -> str:
    """What follows family and size in the name of a classifier."""
    setting = ""
    if re.search(r"(?<!\d)384(?!\d)", text):
        setting = "_384"
    elif re.search(r"2[12]k", text) and not re.search(r"(?<!\d)1k", text):
        setting = "_21k"
    return f"{setting}_11x11" if "11x11" in text else setting
