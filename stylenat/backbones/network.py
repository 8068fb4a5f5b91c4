"""NAT (arXiv 2204.07143), DiNAT, DiNAT_s and isotropic ones (2209.15001): one network's settings.

Legend: B batch, H height, W width, C channels, N heads, D head_dim.

Tokens are channels-last, [B, H, W, C], from the stem to the head. Modules and parameters have the
names of the official implementation (`levels` for DiNAT_s as well, which calls them `layers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ops.checks import check_tensor
from stylenat.backbones.blocks import Block
from stylenat.backbones.config import LevelConfig, NATConfig


class NAT(nn.Module):
    """A Neighborhood Attention Transformer, as its configuration says.

    `network(images)` gives logits, `network.features(images)` the maps of the levels. Images are
    [B, 3, H, W] of any size, normalised (`config.images`).
    """

    def __init__(self, config: NATConfig, *, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        # Whether a backward pass computes the blocks again, which saves memory.
        self.activation_checkpointing = False
        first, width = config.levels[0].channels, config.levels[-1].channels
        self.patch_embed = (
            ConvolutionStem(in_channels, first)
            if config.shell == "nat"
            else PatchStem(in_channels, first, config.first_stride)
        )
        rates = iter(_drop_path_rates(config))
        last = len(config.levels) - 1
        self.levels = nn.ModuleList(
            Level(level, config, list(islice(rates, len(level.blocks))), is_last=index == last)
            for index, level in enumerate(config.levels)
        )
        if config.out_levels:
            for index in config.out_levels:
                self.add_module(f"norm{index}", nn.LayerNorm(config.levels[index].channels))
        else:
            self.norm = nn.LayerNorm(width)
            if config.num_classes:
                self.head = nn.Linear(width, config.num_classes)
        self.apply(_initialise)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits [B, num_classes]; the pooled features [B, C] if there are no classes.

        Raises ValueError if the network is one that gives features.
        """
        pooled_BC = self.pool(self.tokens(images_B3HW))
        return self.head(pooled_BC) if self.config.num_classes else pooled_BC

    def tokens(self, images_B3HW: Tensor) -> Tensor:
        """What the last level gives, not normalised: [B, H/32, W/32, C], sides rounded up.

        Of an isotropic network: [B, H/16, W/16, C].
        """
        for x_BHWC in self.maps(images_B3HW):
            last_BHWC = x_BHWC
        return last_BHWC

    def pool(self, x_BHWC: Tensor) -> Tensor:
        """The mean of the normalised tokens, [B, C]."""
        if self.config.out_levels:
            raise ValueError(
                "this network has norms of its levels and no head: call features(images) instead"
            )
        return self.norm(x_BHWC).mean((1, 2))

    def features(
        self, images_B3HW: Tensor, out_levels: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The maps of these levels, before their downsampling, normalised: [B, C, H, W] each.

        Their strides are 4, 8, 16 and 32; an isotropic network's only one is 16. By default the
        levels are the configuration's, or all of them. A level that has no norm of its own, as in a
        classifier, gets what a fresh norm does: neither weight nor bias. Raises ValueError for a
        level that there is not.
        """
        if out_levels is None:
            out_levels = self.config.out_levels or range(len(self.levels))
        if not out_levels or not set(out_levels) <= set(range(len(self.levels))):
            raise ValueError(
                f"out_levels must name levels, 0 to {len(self.levels) - 1}: {list(out_levels)}"
            )
        maps = dict(enumerate(islice(self.maps(images_B3HW), max(out_levels) + 1)))
        return [self._normalise(index, maps[index]) for index in out_levels]

    def maps(self, images_B3HW: Tensor) -> Iterator[Tensor]:
        """Each level's tokens before its downsampling, [B, H, W, C]; computed when asked for."""
        _check_images(images_B3HW)
        x_BHWC = self.patch_embed(images_B3HW)
        for level in self.levels:
            assert isinstance(level, Level)
            x_BHWC = self._run(level, x_BHWC)
            yield x_BHWC
            x_BHWC = level.shrink(x_BHWC)

    def _normalise(self, index: int, x_BHWC: Tensor) -> Tensor:
        if index in self.config.out_levels:
            x_BHWC = self.get_submodule(f"norm{index}")(x_BHWC)
        else:
            x_BHWC = F.layer_norm(x_BHWC, x_BHWC.shape[-1:])
        return x_BHWC.permute(0, 3, 1, 2).contiguous()

    def _run(self, level: Level, x_BHWC: Tensor) -> Tensor:
        for block in level.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BHWC = checkpoint(block, x_BHWC, use_reentrant=False)
            else:
                x_BHWC = block(x_BHWC)
        return x_BHWC


class Level(nn.Module):
    """The blocks of one level, and what leads to the next one: [B, H, W, C] -> [B, H', W', 2C]."""

    def __init__(
        self, level: LevelConfig, config: NATConfig, drop_paths: Sequence[float], *, is_last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                level.channels,
                group,
                mlp_channels=int(level.channels * config.mlp_ratio),
                layer_scale=config.layer_scale,
                drop_path=rate,
            )
            for group, rate in zip(level.blocks, drop_paths, strict=True)
        )
        shrink = PatchMerging if config.shell == "swin" else ConvolutionDownsampler
        self.downsample = None if is_last else shrink(level.channels)

    def shrink(self, x_BHWC: Tensor) -> Tensor:
        """The input of the next level; of the last level, its own output."""
        if self.downsample is not None:
            x_BHWC = self.downsample(x_BHWC)
        return x_BHWC


class ConvolutionStem(nn.Module):
    """Images [B, 3, H, W] -> tokens [B, H/4, W/4, C], sides rounded up: two strided convolutions.

    There is nothing between the two.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        # In this memory format the map is channels-last tokens without a transposition.
        images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(images_B3HW).permute(0, 2, 3, 1))


class PatchStem(nn.Module):
    """Images [B, 3, H, W] -> tokens [B, H/P, W/P, C], one for each patch of PxP pixels.

    Zeros fill images up to whole patches, on the right and at the bottom.
    """

    def __init__(self, in_channels: int, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Conv2d(in_channels, channels, side, stride=side)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        height, width = images_B3HW.shape[2:]
        below, right = -height % self.side, -width % self.side
        if below or right:
            images_B3HW = F.pad(images_B3HW, (0, right, 0, below))
        images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(images_B3HW).permute(0, 2, 3, 1))


class ConvolutionDownsampler(nn.Module):
    """[B, H, W, C] -> [B, H/2, W/2, 2C], sides rounded up: a strided convolution, then a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return self.norm(self.reduction(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """[B, H, W, C] -> [B, H/2, W/2, 2C], sides rounded up: 2x2 tokens become one.

    Swin's (arXiv 2103.14030, section 3.1): the four are concatenated, column by column, and
    normalised before the linear layer. Zeros fill odd sides, on the right and at the bottom.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        height, width = x_BHWC.shape[1:3]
        if height % 2 or width % 2:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, width % 2, 0, height % 2))
        # [B, H/2, 2 rows, W/2, 2 columns, C] -> [B, H/2, W/2, 2 columns, 2 rows, C]
        quads = x_BHWC.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(quads.flatten(3)))


def _drop_path_rates(config: NATConfig) -> list[float]:
    """Of all blocks in order: from 0 to the configuration's rate."""
    most = max(sum(config.depths) - 1, 1)
    return [config.drop_path * index / most for index in range(sum(config.depths))]


def _check_images(images: object) -> None:
    check_tensor("images", images)
    assert isinstance(images, Tensor)
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be [B, 3, H, W], got shape {tuple(images.shape)}")


def _initialise(module: nn.Module) -> None:
    # Convolutions and norms keep what PyTorch gives them.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
