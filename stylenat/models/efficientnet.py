"""EfficientNet-Lite0, a classifier: TensorFlow's Lite variant of arXiv 1905.11946.

It is small, and its trained weights come as a Python package. Here it tells how alike two images
are. It has ReLU6 for activation and no squeeze-and-excitation.
Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3  # TensorFlow's
STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000

# Of each block: channels that come out, side of the depthwise kernel, stride. All but the first
# block widen their input six times.
BLOCKS = (
    (16, 3, 1),
    (24, 3, 2), (24, 3, 1),
    (40, 5, 2), (40, 5, 1),
    (80, 3, 2), (80, 3, 1), (80, 3, 1),
    (112, 5, 1), (112, 5, 1), (112, 5, 1),
    (192, 5, 2), (192, 5, 1), (192, 5, 1), (192, 5, 1),
    (320, 3, 1),
)  # fmt: skip


class EfficientNetLite0(nn.Module):
    """Images [B, 3, H, W], RGB from -1 to 1 -> logits [B, 1000]; trained at 224x224.

    Modules have the names of the published state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=BN_EPS)
        inputs = [STEM_CHANNELS, *(channels for channels, _, _ in BLOCKS[:-1])]
        self._blocks = nn.ModuleList(
            MobileBlock(before, channels, kernel, stride, widening=6 if index else 1)
            for index, (before, (channels, kernel, stride)) in enumerate(
                zip(inputs, BLOCKS, strict=True)
            )
        )
        self._conv_head = nn.Conv2d(BLOCKS[-1][0], HEAD_CHANNELS, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD_CHANNELS, eps=BN_EPS)
        self._fc = nn.Linear(HEAD_CHANNELS, CLASSES)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return self._fc(self.pooled(image_B3HW))

    def pooled(self, image_B3HW: Tensor) -> Tensor:
        """The features that the classifier sees, [B, 1280]: means over the map."""
        (x_BCHW,) = self.maps(image_B3HW, [len(BLOCKS) - 1])
        return F.relu6(self._bn1(self._conv_head(x_BCHW))).mean((2, 3))

    def maps(self, image_B3HW: Tensor, blocks: Collection[int]) -> list[Tensor]:
        """What these blocks give, [B, C, H', W'] each; later blocks are not computed."""
        x_BCHW = (image_B3HW * 127.5 + 0.5) / 128  # (pixel - 127) / 128, a pixel being 0 to 255
        x_BCHW = F.relu6(self._bn0(self._conv_stem(x_BCHW)))
        found = []
        for index, block in enumerate(self._blocks[: max(blocks) + 1]):
            x_BCHW = block(x_BCHW)
            if index in blocks:
                found.append(x_BCHW)
        return found


class MobileBlock(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to the input if that has its shape."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, *, widening: int
    ) -> None:
        super().__init__()
        wide = in_channels * widening
        self.widens = widening > 1
        if self.widens:
            self._expand_conv = nn.Conv2d(in_channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=BN_EPS)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=BN_EPS)
        self._project_conv = nn.Conv2d(wide, channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = x_BCHW
        if self.widens:
            y_BCHW = F.relu6(self._bn0(self._expand_conv(y_BCHW)))
        y_BCHW = F.relu6(self._bn1(self._depthwise_conv(y_BCHW)))
        y_BCHW = self._bn2(self._project_conv(y_BCHW))
        return x_BCHW + y_BCHW if self.is_residual else y_BCHW


class SameConv(nn.Conv2d):
    """A convolution without bias whose output is the input's size over the stride, rounded up.

    As in TensorFlow, an odd number of zeros means one more on the right and at the bottom.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, stride: int, groups: int = 1
    ) -> None:
        super().__init__(in_channels, channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        padding: list[int] = []
        for size in x_BCHW.shape[:1:-1]:  # W, then H
            stride, kernel = self.stride[0], self.kernel_size[0]
            zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [zeros // 2, zeros - zeros // 2]
        return super().forward(F.pad(x_BCHW, padding))
