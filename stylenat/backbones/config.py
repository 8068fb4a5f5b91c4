"""The architecture of NAT, DiNAT and DiNAT_s as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ops.checks import check_number, keep_whole
from ops.neighborhood import HeadGroup

# Around the same blocks, NAT and DiNAT put overlapping convolutions, and DiNAT_s puts what Swin
# has: a stem of 4x4 patches, and merging of 2x2 tokens. Isotropic networks have what ViT has: a
# stem of 16x16 patches, and a single level.
Shell = Literal["nat", "swin", "isotropic"]

MAX_BLOCKS = 1000  # of a level; more would take minutes to build before anything can be refused


@dataclass(frozen=True)
class LevelConfig:
    """One level: the width of its tokens, and what the attention of each of its blocks sees.

    Raises ValueError unless all blocks share the number of heads, and that divides the channels.
    """

    channels: int
    blocks: tuple[HeadGroup, ...]

    def __post_init__(self) -> None:
        keep_whole(self, "channels")
        if not 1 <= len(self.blocks) <= MAX_BLOCKS:
            raise ValueError(f"a level has 1 to {MAX_BLOCKS} blocks: {len(self.blocks)}")
        heads = {block.heads for block in self.blocks}
        if len(heads) > 1:
            raise ValueError(f"all blocks of a level must have as many heads: {sorted(heads)}")
        if self.channels < 1 or self.channels % self.heads:
            raise ValueError(f"heads must divide the channels: {self.heads} and {self.channels}")

    @property
    def heads(self) -> int:
        return self.blocks[0].heads


@dataclass(frozen=True)
class ImageConfig:
    """What images a network was trained for, and how they are prepared for it.

    The shorter side is scaled to `floor(size / crop_pct)`, and the central `size` x `size` pixels
    are kept. Then pixels in 0..1 lose `mean` and are divided by `std`, channel by channel.
    """

    size: int = 224
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        keep_whole(self, "size")
        check_number("crop_pct", self.crop_pct)
        if self.size < 1:
            raise ValueError(f"size must be at least 1: {self.size}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be over 0, and 1 at most: {self.crop_pct}")
        if not all(deviation > 0 for deviation in self.std):
            raise ValueError(f"std must be positive: {list(self.std)}")

    @property
    def scaled_side(self) -> int:
        return math.floor(self.size / self.crop_pct)


@dataclass(frozen=True)
class NATConfig:
    """A whole network.

    Each level has twice the channels of the one before. `layer_scale`: what the learned factors of
    each branch start with; None for a network without them. `drop_path`: the rate of the last
    block, to which the rates rise linearly.

    There are two kinds of network. With `out_levels`, it gives features: it has a norm for each of
    these levels, and no head. Without, it classifies: a norm behind the last level, and a head for
    `num_classes`; with 0 classes it has no head, and gives the pooled features. `labels` are the
    names of the classes, if they are known.
    """

    levels: tuple[LevelConfig, ...]
    shell: Shell = "nat"
    mlp_ratio: float = 3.0
    layer_scale: float | None = None
    drop_path: float = 0.0
    num_classes: int = 1000
    out_levels: tuple[int, ...] = ()
    images: ImageConfig = ImageConfig()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keep_whole(self, "num_classes")
        check_number("mlp_ratio", self.mlp_ratio)
        check_number("drop_path", self.drop_path)
        if self.shell not in get_args(Shell):
            raise ValueError(f"shell must be one of {', '.join(get_args(Shell))}: {self.shell}")
        if not self.levels:
            raise ValueError("a network needs at least one level")
        if self.shell == "isotropic" and len(self.levels) > 1:
            raise ValueError(f"an isotropic network has one level: {len(self.levels)}")
        widths = [level.channels for level in self.levels]
        if any(width != widths[0] * 2**i for i, width in enumerate(widths)) or widths[0] % 2:
            raise ValueError(
                f"levels must double in channels, and begin with an even number: {widths}"
            )
        if self.mlp_ratio <= 0 or int(widths[0] * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio must leave the MLP a channel at least: {self.mlp_ratio}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1: {self.drop_path}")
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be at least 0: {self.num_classes}")
        self._check_outputs()

    def _check_outputs(self) -> None:
        levels = range(len(self.levels))
        if list(self.out_levels) != sorted(set(self.out_levels) & set(levels)):
            raise ValueError(
                f"out_levels must be levels, 0 to {levels[-1]}, in order: {list(self.out_levels)}"
            )
        if self.out_levels and self.num_classes:
            raise ValueError(
                "a network that gives features has no head: set num_classes to 0, not to "
                f"{self.num_classes}, or leave out out_levels"
            )
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(
                f"labels must be as many as the classes: {len(self.labels)} labels, "
                f"{self.num_classes} classes"
            )

    @property
    def first_stride(self) -> int:
        """Pixels between the tokens of the first level."""
        return 16 if self.shell == "isotropic" else 4

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(level.blocks) for level in self.levels)
