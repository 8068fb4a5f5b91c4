"""What the shapes of a network's tensors say of it: all but its dilations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from torch import Tensor

from ops.neighborhood import HeadGroup
from stylenat.backbones.config import LevelConfig, NATConfig, Shell
from stylenat.backbones.variants import VARIANTS


@dataclass(frozen=True)
class Skeleton:
    """An architecture without dilations, which no tensor's shape tells."""

    shell: Shell
    channels: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    kernel_size: int
    mlp_channels: int
    layer_scale: bool

    def differences(self, other: Skeleton) -> str:
        """`depths (3, 4, 6, 5) instead of (3, 4, 18, 5)`; empty if there are none."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return ", ".join(
            f"{name.replace('_', ' ')} {found} instead of {wanted}"
            for name, found, wanted in pairs
            if found != wanted
        )


def skeleton_of(config: NATConfig) -> Skeleton:
    first = config.levels[0]
    return Skeleton(
        config.shell,
        first.channels,
        config.depths,
        tuple(level.heads for level in config.levels),
        first.blocks[0].kernel_size,
        int(first.channels * config.mlp_ratio),
        config.layer_scale is not None,
    )


def skeleton_in(tensors: Mapping[str, Tensor]) -> Skeleton:
    """What tensors with our names say. Raises ValueError if they make no network of this family."""
    depths = _depths(tensors)
    tables = [_shape(tensors, f"levels.{i}.blocks.0.attn.rpb", 3) for i in range(len(depths))]
    (channels,) = _shape(tensors, "patch_embed.norm.weight", 1)
    return Skeleton(
        _shell(tensors),
        channels,
        depths,
        tuple(table[0] for table in tables),
        (tables[0][-1] + 1) // 2,
        _shape(tensors, "levels.0.blocks.0.mlp.fc1.weight", 2)[0],
        "levels.0.blocks.0.gamma1" in tensors,
    )


def _shell(tensors: Mapping[str, Tensor]) -> Shell:
    if "patch_embed.proj.weight" not in tensors:
        return "nat"
    side = _shape(tensors, "patch_embed.proj.weight", 4)[-1]
    return "isotropic" if side == 16 else "swin"


def _depths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Of all levels: the blocks that each has, counted up to the first that is missing."""
    found = {name[: match.end()] for name in tensors if (match := _BLOCK.match(name))}
    depths: list[int] = []
    while f"levels.{len(depths)}.blocks.0." in found:
        depth = 1
        while f"levels.{len(depths)}.blocks.{depth}." in found:
            depth += 1
        depths.append(depth)
    if not depths:
        raise ValueError("its tensors make no NAT, DiNAT or DiNAT_s: levels.0.blocks.0 is missing")
    return tuple(depths)


_BLOCK = re.compile(r"levels\.\d+\.blocks\.\d+\.")


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int) -> Sequence[int]:
    found = tensors.get(name)
    if found is None or found.ndim != ndim or 0 in found.shape:
        what = "is missing" if found is None else f"has the shape {list(found.shape)}"
        raise ValueError(f"its tensors make no NAT, DiNAT or DiNAT_s: {name} {what}")
    return found.shape


def variants_that_fit(skeleton: Skeleton) -> list[str]:
    return [name for name, config in VARIANTS.items() if skeleton_of(config) == skeleton]


def with_dilations(skeleton: Skeleton, dilations: Sequence[Sequence[int]]) -> NATConfig:
    """The architecture with these dilations, of each block in each level: a published one if there
    is one. Raises ValueError if they are not as many as the blocks."""
    if tuple(map(len, dilations)) != skeleton.depths:
        raise ValueError(
            f"its configuration has dilations for {[*map(len, dilations)]} blocks, and its tensors "
            f"make {list(skeleton.depths)}"
        )
    levels = []
    for index, (heads, of_level) in enumerate(zip(skeleton.heads, dilations, strict=True)):
        groups = tuple(HeadGroup(heads, skeleton.kernel_size, dilation) for dilation in of_level)
        levels.append(LevelConfig(skeleton.channels * 2**index, groups))
    for name in variants_that_fit(skeleton):
        if VARIANTS[name].levels == tuple(levels):
            return VARIANTS[name]
    return NATConfig(
        tuple(levels),
        shell=skeleton.shell,
        mlp_ratio=skeleton.mlp_channels / skeleton.channels,
        layer_scale=1e-5 if skeleton.layer_scale else None,
    )


def with_outputs_of(config: NATConfig, tensors: Mapping[str, Tensor]) -> NATConfig:
    """The same network with the head, or with the norms of levels, that the tensors make."""
    norms = tuple(i for i in range(len(config.levels)) if f"norm{i}.weight" in tensors)
    head = tensors.get("head.weight")
    classes = 0 if head is None or head.ndim != 2 else len(head)
    return replace(config, num_classes=classes, out_levels=() if classes else norms, labels=())
