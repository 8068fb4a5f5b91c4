"""A generator as data: its levels, and the kinds of attention that a level may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from torch import nn

from ops.checks import check_number, check_whole, keep_whole
from ops.neighborhood import HeadGroup
from ops.neighborhood.backends import check_backend_name
from ops.neighborhood.problem import check_heads_add_up
from stylenat.models.attention import GlobalAttention, HydraAttention, WindowAttention, check_even
from stylenat.models.classes import keep_class_names, keep_classes
from stylenat.models.inputs import keep_levels
from stylenat.models.pixels import IMAGENET, PixelSpace

# Global attention spreads its bias over all pairs of positions: [heads, R^4], 64 MiB for 16 heads
# at 32x32 and 1 GiB at 64x64.
MAX_GLOBAL_RESOLUTION = 32


class Kind(Protocol):
    """One kind of attention: the rules that it has for a level, and the module that it makes.

    `neighborhood_keys` is how many keys the heads of one token see together through our own
    operation, which PyTorch's counter of FLOP does not know; 0 for kinds that do not call it.
    """

    @property
    def neighborhood_keys(self) -> int: ...

    def check(self, *, heads: int, resolution: int) -> None:
        """Raises ValueError, naming rule, value and level, if this does not fit a level."""

    def build(
        self, channels: int, heads: int, resolution: int, *, backend: str, **projection: Any
    ) -> nn.Module:
        """The module for tokens [B, resolution, resolution, channels] of a level that it fits.

        `projection`: qkv_bias and qk_scale, of every kind's linear layers.
        """


@dataclass(frozen=True)
class WholeMap:
    """Every position attends to the whole map; a configuration writes `global`."""

    neighborhood_keys: ClassVar[int] = 0

    def check(self, *, heads: int, resolution: int) -> None:
        if resolution > MAX_GLOBAL_RESOLUTION:
            raise ValueError(
                f"global attention is for levels up to {MAX_GLOBAL_RESOLUTION}x"
                f"{MAX_GLOBAL_RESOLUTION}, its memory grows with resolution^4: {resolution}"
                f"{_at_level(resolution)}"
            )

    def build(
        self, channels: int, heads: int, resolution: int, *, backend: str, **projection: Any
    ) -> nn.Module:
        return GlobalAttention(channels, heads, resolution, **projection)


@dataclass(frozen=True)
class Windows:
    """StyleSwin's double attention (arXiv 2112.10762, section 3.2) in windows of this side.

    The first half of the heads attends within plain windows; the second half within windows shifted
    by half their side, cyclically, unless a window is the whole map.
    Raises ValueError unless `window_size >= 1`.
    """

    window_size: int
    neighborhood_keys: ClassVar[int] = 0

    def __post_init__(self) -> None:
        keep_whole(self, "window_size")
        if self.window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {self.window_size}")

    def check(self, *, heads: int, resolution: int) -> None:
        if resolution % self.window_size:
            raise ValueError(
                f"windows must divide the feature map: {self.window_size} against {resolution}"
                f"{_at_level(resolution)}"
            )
        check_even(heads, _at_level(resolution))

    def build(
        self, channels: int, heads: int, resolution: int, *, backend: str, **projection: Any
    ) -> nn.Module:
        return WindowAttention(channels, heads, self.window_size, **projection)


@dataclass(frozen=True)
class HeadGroups:
    """Each group of heads attends to its own neighborhood; a configuration writes the groups."""

    groups: tuple[HeadGroup, ...]

    @property
    def neighborhood_keys(self) -> int:
        return sum(group.heads * group.kernel_size**2 for group in self.groups)

    def check(self, *, heads: int, resolution: int) -> None:
        where = f",{_at_level(resolution)}"
        check_heads_add_up(self.groups, heads, of="the level's", where=where)
        for group in self.groups:
            group.check_fits(resolution, resolution)

    def build(
        self, channels: int, heads: int, resolution: int, *, backend: str, **projection: Any
    ) -> nn.Module:
        return HydraAttention(channels, heads, self.groups, backend=backend, **projection)


# As a configuration writes it.
AttentionKind: TypeAlias = Literal["global"] | Windows | tuple[HeadGroup, ...]


def kind_of(attention: AttentionKind, *, resolution: int) -> Kind:
    """The kind that a level's configuration means.

    Raises ValueError, naming the level, for what means none.
    """
    match attention:
        case "global":
            return WholeMap()
        case Windows():
            return attention
        case tuple() if attention and all(isinstance(group, HeadGroup) for group in attention):
            return HeadGroups(attention)
    raise ValueError(
        "attention must be 'global', Windows, or a tuple of at least one HeadGroup: "
        f"{attention!r}{_at_level(resolution)}"
    )


def _at_level(resolution: int) -> str:
    return f" at level {resolution}x{resolution}"


def deal_heads(
    heads: int, kernel_sizes: Sequence[int], dilations: Sequence[int]
) -> tuple[HeadGroup, ...]:
    """Deal heads evenly to groups; what is left over goes to the last groups, one each.

    Group i has `kernel_sizes[i]` and `dilations[i]`; a list of one value serves all groups.
    Raises ValueError for lists of other lengths, for fewer heads than groups, and from HeadGroup.
    """
    check_whole("heads", heads)
    for name, sizes in (("kernel_sizes", kernel_sizes), ("dilations", dilations)):
        if not isinstance(sizes, Sequence):
            raise ValueError(f"{name} must be a list of whole numbers: {sizes!r}")
    count = max(len(kernel_sizes), len(dilations))
    if {len(kernel_sizes), len(dilations)} - {1, count} or count == 0:
        raise ValueError(
            "kernel_sizes and dilations must have one length, or one of them a single value: "
            f"{list(kernel_sizes)} and {list(dilations)}"
        )
    if heads < count:
        raise ValueError(f"each head group needs a head: {heads} heads for {count} groups")
    kernel_sizes = [*kernel_sizes] * (count // len(kernel_sizes))
    dilations = [*dilations] * (count // len(dilations))
    each, left_over = divmod(heads, count)
    return tuple(
        HeadGroup(each + (index >= count - left_over), kernel_size, dilation)
        for index, (kernel_size, dilation) in enumerate(zip(kernel_sizes, dilations, strict=True))
    )


@dataclass(frozen=True)
class LevelConfig:
    """`blocks` transformer blocks on a map of resolution x resolution tokens of `channels`.

    Raises ValueError, naming the rule and the level, for values that make no level.
    """

    resolution: int
    channels: int
    heads: int
    attention: AttentionKind
    blocks: int = 2

    def __post_init__(self) -> None:
        keep_whole(self, "resolution", "channels", "heads", "blocks")
        level = f"at level {self.resolution}x{self.resolution}"
        for name in ("resolution", "channels", "heads", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)} {level}")
        if self.channels % self.heads:
            raise ValueError(
                f"heads must divide the channels: {self.heads} against {self.channels} {level}"
            )
        self.kind.check(heads=self.heads, resolution=self.resolution)

    @property
    def kind(self) -> Kind:
        return kind_of(self.attention, resolution=self.resolution)


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's levels, from 4x4 up to the image's side, and its settings.

    `mlp_ratio` is the MLP's hidden width over the channels. `qk_scale` multiplies the attention
    logits, `head_dim ** -0.5` where None. `pixel_space` is what the images' values mean.
    `attention_backend` is a row of `ops.neighborhood.BACKENDS`, or `auto`. With
    `activation_checkpointing`, training keeps each block's input only, and runs the block twice.
    With `classes` above 0 every image has one of that many classes, which may have `class_names`.
    Raises ValueError, naming the rule, for values that make no network.
    """

    levels: tuple[LevelConfig, ...]
    z_dim: int = 512
    style_dim: int = 512
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    pixel_space: PixelSpace = IMAGENET
    attention_backend: str = "auto"
    activation_checkpointing: bool = False
    classes: int = 0
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keep_whole(self, "z_dim", "style_dim", "mapping_layers")
        keep_levels(self, LevelConfig)
        for name in ("z_dim", "style_dim", "mapping_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("mapping_lr_multiplier", "mlp_ratio", "qk_scale"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive: {value}")
        check_backend_name(self.attention_backend)
        keep_classes(self)
        keep_class_names(self)
        self._keep_levels()

    def _keep_levels(self) -> None:
        if not self.levels:
            raise ValueError("a generator must have at least 1 level: levels is empty")
        sides = [level.resolution for level in self.levels]
        if sides[0] != 4:
            raise ValueError(f"the first generator level must be 4x4: {sides[0]}x{sides[0]}")
        for side, next_side in pairwise(sides):
            if next_side != 2 * side:
                raise ValueError(
                    f"each generator level must double the one before: {next_side} after {side}"
                )
        for level in self.levels:
            if int(level.channels * self.mlp_ratio) < 1:
                raise ValueError(
                    "mlp_ratio must leave the MLP a hidden channel: "
                    f"{self.mlp_ratio} of {level.channels} channels "
                    f"at level {level.resolution}x{level.resolution}"
                )
        for level in self.levels[1:]:
            if level.channels < 8 or level.channels % 4:
                raise ValueError(
                    "channels must be a multiple of 4 from 8 up, for the sinusoidal embedding: "
                    f"{level.channels} at level {level.resolution}x{level.resolution}"
                )

    @property
    def resolution(self) -> int:
        """The image's side, in pixels."""
        return self.levels[-1].resolution

    @property
    def num_ws(self) -> int:
        """How many w the synthesis network takes: one per block."""
        return sum(level.blocks for level in self.levels)

    @property
    def block_resolutions(self) -> list[int]:
        """The side of the map that each block, and so each w, acts on."""
        return [level.resolution for level in self.levels for _ in range(level.blocks)]
