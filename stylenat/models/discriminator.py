"""The wavelet discriminator (StyleSwin, arXiv 2112.10762; SWAGAN, arXiv 2102.06108).

Legend: B batch, C channels, H height, W width, S the image's side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ops.bias_act import bias_act
from ops.checks import keep_whole
from ops.resample import blur2d, downsample2d, haar
from stylenat.models.classes import check_labels, keep_classes
from stylenat.models.inputs import check_input, keep_levels
from stylenat.models.layers import EqualizedConv2d, EqualizedLinear
from stylenat.models.mapping import ClassMapping
from stylenat.models.spectral_norm import spectral_norm

WAVELET_CHANNELS = 4 * 3  # ll, lh, hl, hh of red, green and blue


@dataclass(frozen=True)
class DiscriminatorLevel:
    """Features of `channels` channels at `resolution` x `resolution`."""

    resolution: int
    channels: int

    def __post_init__(self) -> None:
        keep_whole(self, "resolution", "channels")
        if self.channels < 1:
            raise ValueError(
                f"a discriminator level must have at least 1 channel: {self.channels} "
                f"at level {self.resolution}x{self.resolution}"
            )


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator's levels, from 4x4 up to half the image's side, and its settings.

    `spectral_norm` divides every weight by its largest singular value. Without it, learning rates
    are equalised. The minibatch standard deviation is taken over groups of `stddev_group` images
    (or the whole batch if that is smaller) and adds `stddev_features` channels.
    With `classes` above 0 it judges an image as one of its class. A mapping network of
    `class_mapping_layers` layers leads from the label to the direction of that class, and with
    `unconditional_logit` an opinion that knows no class is added.
    Raises ValueError, naming the rule, for values that make no network.
    """

    levels: tuple[DiscriminatorLevel, ...]
    spectral_norm: bool = True
    stddev_group: int = 4
    stddev_features: int = 1
    classes: int = 0
    class_mapping_layers: int = 8
    unconditional_logit: bool = False

    def __post_init__(self) -> None:
        keep_whole(self, "stddev_group", "stddev_features", "class_mapping_layers")
        keep_classes(self)
        if self.class_mapping_layers < 1:
            raise ValueError(
                f"class_mapping_layers must be at least 1: {self.class_mapping_layers}"
            )
        if self.unconditional_logit and not self.classes:
            raise ValueError("unconditional_logit must be false without classes: true")
        keep_levels(self, DiscriminatorLevel)
        if not self.levels:
            raise ValueError("a discriminator must have at least 1 level: levels is empty")
        sides = [level.resolution for level in self.levels]
        if sides[0] != 4:
            raise ValueError(f"the first discriminator level must be 4x4: {sides[0]}x{sides[0]}")
        for side, next_side in pairwise(sides):
            if next_side != 2 * side:
                raise ValueError(
                    f"each discriminator level must double the one before: {next_side} after {side}"
                )
        if self.stddev_group < 1:
            raise ValueError(f"stddev_group must be at least 1: {self.stddev_group}")
        channels = self.levels[0].channels
        if self.stddev_features < 1 or channels % self.stddev_features:
            raise ValueError(
                "stddev_features must be at least 1 and divide the channels at level 4x4: "
                f"{self.stddev_features} against {channels} channels"
            )

    @property
    def resolution(self) -> int:
        """The image's side, in pixels."""
        return 2 * self.levels[-1].resolution


class Discriminator(nn.Module):
    """Images [B, 3, S, S] -> logits [B, 1], positive if the image seems real.

    Images are in the pixel space of the generator. An image pyramid of wavelets enters at every
    level. A block halves the features from each level to the next, down to 4x4.

    With classes it is a projection discriminator (arXiv 1802.05637, in StyleGAN2-ADA's form): the
    logit is `sum(features * cmap) / sqrt(C)`, cmap [B, C] following from the label, times
    `class_weight` (see `train.class_transition_kimg`).

    In memory, features lie channels last where convolutions run in a shorter precision than
    float32: forward and backward of ffhq256's take 0.65 to 0.75 of the time on a CPU that way. In
    float32 it gains nothing there, and R1 loses.
    """

    class_weight: Tensor

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        levels = config.levels[::-1]
        spectral = config.spectral_norm
        self.from_rgbs = nn.ModuleList(
            ConvAct(WAVELET_CHANNELS, level.channels, 1, spectral=spectral) for level in levels
        )
        self.blocks = nn.ModuleList(
            ConvBlock(level.channels, below.channels, spectral=spectral)
            for level, below in pairwise(levels)
        )
        channels = levels[-1].channels
        self.final_conv = ConvAct(
            channels + config.stddev_features, channels, 3, padding=1, spectral=spectral
        )
        self.hidden = _linear(channels * 4 * 4, channels, spectral=spectral)
        # With spectral norm the published models have two biases here: the layer's own, and one in
        # the activation, outside the normalised layer.
        self.hidden_bias = nn.Parameter(torch.zeros(channels)) if spectral else None
        self.class_mapping = None
        if config.classes:
            self.register_buffer("class_weight", torch.ones(()))
            self.class_features = _linear(channels, channels, spectral=spectral)
            self.class_mapping = ClassMapping(
                config.classes, channels, layers=config.class_mapping_layers, spectral=spectral
            )
        if config.unconditional_logit or not config.classes:
            self.logit = _linear(channels, 1, spectral=spectral)

    def forward(self, image_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Logits [B, 1] of images [B, 3, S, S], and of labels [B] if there are classes.

        Raises ValueError for another shape, a dtype or device that is not the discriminator's,
        a batch that is not a multiple of the stddev groups, and labels that do not fit the classes.
        """
        self._check_image(image_BCHW)
        check_labels(labels_B, image_BCHW, classes=self.config.classes, network="discriminator")
        image_BCHW = image_BCHW.contiguous(memory_format=_memory_format(image_BCHW))
        # The published network inverts the wavelets, halves the image and transforms it again;
        # the inverse is exact, so halving the image itself gives the same pyramid.
        first_from_rgb, *from_rgbs = self.from_rgbs
        features = first_from_rgb(haar(image_BCHW))
        for block, from_rgb in zip(self.blocks, from_rgbs, strict=True):
            image_BCHW = downsample2d(image_BCHW)
            features = block(features) + from_rgb(haar(image_BCHW))

        stddev = minibatch_stddev(
            features, group=self.config.stddev_group, features=self.config.stddev_features
        )
        features = self.final_conv(torch.cat([features, stddev], dim=1))
        hidden = bias_act(self.hidden(features.flatten(1)), self.hidden_bias)
        if labels_B is None:
            return self.logit(hidden)
        logit = self._class_logit(hidden, labels_B)
        return logit + self.logit(hidden) if self.config.unconditional_logit else logit

    def _class_logit(self, hidden_BC: Tensor, labels_B: Tensor) -> Tensor:
        """How much images look like those of their classes, [B, 1]."""
        assert self.class_mapping is not None
        features_BC = self.class_features(hidden_BC)
        cmap_BC = self.class_mapping(labels_B)
        product_B1 = (features_BC * cmap_BC).sum(dim=1, keepdim=True)
        return product_B1 * (self.class_weight / math.sqrt(cmap_BC.shape[1]))

    def extra_repr(self) -> str:
        config = self.config
        return (
            f"resolution={config.resolution}, spectral_norm={config.spectral_norm}, "
            f"stddev_group={config.stddev_group}, stddev_features={config.stddev_features}"
            + (f", classes={config.classes}" if config.classes else "")
        )

    def _check_image(self, image: Tensor) -> None:
        first = next(self.from_rgbs.parameters())
        check_input("images", image, first, "discriminator", may_autocast=True)
        side = self.config.resolution
        if image.shape[1:] != (3, side, side):
            raise ValueError(
                f"images for this discriminator must be [B, 3, {side}, {side}]: "
                f"{tuple(image.shape)}"
            )


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, the second after a blur: [B, C, H, W] -> [B, C', H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int, *, spectral: bool) -> None:
        super().__init__()
        self.conv1 = ConvAct(in_channels, in_channels, 3, padding=1, spectral=spectral)
        self.conv2 = ConvAct(in_channels, out_channels, 3, stride=2, spectral=spectral)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(blur2d(self.conv1(x)))


class ConvAct(nn.Module):
    """Convolution, bias, leaky ReLU 0.2 with gain sqrt(2): [B, C, H, W] -> [B, C', H', W'].

    `spectral` chooses spectral norm (the bias stays outside it) or an equalised learning rate.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        spectral: bool,
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        if spectral:
            self.conv = spectral_norm(
                nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
            )
        else:
            self.conv = EqualizedConv2d(
                in_channels, out_channels, kernel_size, stride=stride, padding=padding
            )
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(self.conv(x), self.bias)


def minibatch_stddev(x: Tensor, *, group: int, features: int) -> Tensor:
    """How much the images of a group differ: [B, C, H, W] -> [B, features, H, W].

    Image b belongs to group `b mod (B / G)`, G = min(B, group). The channels are split into
    `features` runs; each value is the standard deviation over the group, averaged over the run's
    channels and all pixels (Progressive GAN, arXiv 1710.10196, section 3; groups as in StyleGAN2).
    Raises ValueError unless B is a multiple of G and C of `features`.
    """
    batch, channels, height, width = x.shape
    group = min(batch, group)
    if batch % group:
        raise ValueError(
            f"the batch must be a multiple of the discriminator's stddev_group: {batch} images, "
            f"groups of {group}; change the batch or stddev_group"
        )
    if channels % features:
        raise ValueError(
            f"stddev features must divide the channels: {features} against {channels} channels"
        )
    x_GMFCHW = x.view(group, batch // group, features, channels // features, height, width)
    # torch.var over a leading dimension takes several times as long on a CPU.
    variance = (x_GMFCHW - x_GMFCHW.mean(dim=0)).square().mean(dim=0)
    # 1e-8 keeps the root differentiable if all images of a group agree.
    stddev = (variance + 1e-8).sqrt()
    return (
        stddev.mean(dim=(2, 3, 4)).repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
    )


def _memory_format(image: Tensor) -> torch.memory_format:
    kind = image.device.type
    under_autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    is_short = under_autocast or image.element_size() < 4
    return torch.channels_last if is_short else torch.contiguous_format


def _linear(in_features: int, out_features: int, *, spectral: bool) -> nn.Module:
    if spectral:
        return spectral_norm(nn.Linear(in_features, out_features))
    return EqualizedLinear(in_features, out_features)
