"""Layers that the networks are made of.

Legend: B batch, C channels, H height, W width, S style_dim.

Equalised learning rate (Progressive GAN, arXiv 1710.10196): a weight is stored at unit variance and
multiplied by `1 / sqrt(fan_in)` when it is used, so that Adam changes all layers equally fast.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.bias_act import bias_act
from ops.dense import by_rows, linear
from ops.instance_norm import instance_norm


def pixel_norm(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Scale x [B, C, ...] to a mean square of 1 over its channels (Progressive GAN)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + eps)


class EqualizedLinear(nn.Module):
    """Linear layer with an equalised learning rate, over the last dimension: [..., C] -> [..., C'].

    Uses `weight * lr_multiplier / sqrt(in_features)` and `bias * lr_multiplier`. Both are stored
    divided by the multiplier: the weights start at N(0, 1) / lr_multiplier, and the bias so that
    the layer adds `bias_init`. With `activation`, leaky ReLU 0.2 and a gain of sqrt(2) follow.
    Raises ValueError if the multiplier is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activation: bool = False,
    ) -> None:
        super().__init__()
        if lr_multiplier <= 0:
            raise ValueError(f"EqualizedLinear: lr_multiplier must be positive: {lr_multiplier}")
        self.in_features = in_features
        self.out_features = out_features
        self.lr_multiplier = lr_multiplier
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * self.weight_gain, self.bias * self.lr_multiplier
        if self.activation:
            return bias_act(F.linear(x, weight), bias, channel_dim=-1)
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, "
            f"lr_multiplier={self.lr_multiplier:g}, activation={self.activation}"
        )


class EqualizedConv2d(nn.Module):
    """Convolution with an equalised learning rate, without bias: [B, C, H, W] -> [B, C', H', W'].

    Uses `weight / sqrt(in_channels * kernel_size^2)`; the weights start at N(0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_gain
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, in_channels, kernel_size, _ = self.weight.shape
        return (
            f"{in_channels}, {out_channels}, kernel_size={kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )


class AdaptiveInstanceNorm(nn.Module):
    """Normalise tokens over their positions, then scale and shift them by a style (AdaIN).

    x [B, H, W, C], w [B, S] -> `gamma * (x - mean) / sqrt(var + eps) + beta` [B, H, W, C]; mean and
    (biased) variance of each image and channel, gamma and beta [B, C] a linear layer of w
    (arXiv 1703.06868, eq. 8; StyleSwin, 2112.10762, section 3.2). Both start without an offset, so
    a zero style gives zeros. Statistics and style are at least float32, under autocast too.
    """

    def __init__(self, channels: int, style_dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.style = EqualizedLinear(style_dim, 2 * channels)

    def forward(self, x_BHWC: Tensor, w_BS: Tensor) -> Tensor:
        with without_autocast(x_BHWC.device):
            gamma_BC, beta_BC = self.style(w_BS).chunk(2, dim=-1)
        return instance_norm(x_BHWC, gamma_BC, beta_BC, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"


class MLP(nn.Module):
    """Linear, exact GELU, linear, over the channels, added to `residual` if given: all [..., C]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = normal_linear(channels, hidden)
        self.fc2 = normal_linear(hidden, channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return by_rows(self._layers, x, residual)

    def _layers(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.fc2(self.fc1(x, gelu=True), add=residual)


class Upsample(nn.Module):
    """Bilinear x2, layer norm, linear, and a scaled position: [B, R, R, C] -> [B, 2R, 2R, C'].

    `alpha`, the scale of the sinusoidal embedding, is learned and starts at 0.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.linear = normal_linear(in_channels, out_channels, bias=False)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        x_BCHW = F.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
        x_BHWC = self.linear(self.norm(x_BCHW.permute(0, 2, 3, 1)))
        _, height, width, channels = x_BHWC.shape
        table = sinusoids(max(height, width), channels // 2, x_BHWC.device)
        table = self.alpha * table.to(self.alpha.dtype)
        columns_HWC = table[None, :width].expand(height, -1, -1)
        rows_HWC = table[:height, None].expand(-1, width, -1)
        position_HWC = torch.cat([columns_HWC, rows_HWC], dim=-1)
        # Under autocast the tokens stay in its precision, which halves the bytes to move and keep.
        return x_BHWC + position_HWC.to(x_BHWC.dtype)


class ToRGB(nn.Module):
    """Tokens [B, H, W, C] -> colours [B, 3, H, W], at least float32, under autocast too.

    A published model has two biases here, the projection's and one outside it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3)
        nn.init.xavier_normal_(self.linear.weight, gain=0.02)
        nn.init.zeros_(self.linear.bias)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        dtype = torch.promote_types(x_BHWC.dtype, torch.float32)
        bias = self.linear.bias.to(dtype) + self.bias
        with without_autocast(x_BHWC.device):
            rgb_BHW3 = F.linear(x_BHWC.to(dtype), self.linear.weight.to(dtype), bias)
        return rgb_BHW3.permute(0, 3, 1, 2).contiguous()


def sinusoids(length: int, channels: int, device: torch.device) -> Tensor:
    """Sines, then cosines, of the positions 1..length along one axis: float32 [length, channels].

    Channel i has the frequency `10000^(-i / (channels/2 - 1))` (Transformer, arXiv 1706.03762,
    section 3.5, with frequencies that reach 1/10000). They are computed each time, since a
    stored table would stay empty in a model that is built on the meta device and then loaded.
    """
    half = channels // 2
    index = torch.arange(half, device=device, dtype=torch.float32)
    frequency = torch.exp(index * (-math.log(10_000) / (half - 1)))
    position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Linear(nn.Linear):
    """A linear layer, then the exact GELU with `gelu`, then plus `add`; see `ops.dense`."""

    def forward(self, x: Tensor, *, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, gelu=gelu, add=add)


def normal_linear(in_features: int, out_features: int, *, bias: bool = True) -> Linear:
    """A linear layer whose weights start at N(0, 0.02) and whose bias starts at 0.

    The published code truncates at +-2, which is a hundred standard deviations and changes nothing.
    """
    layer = Linear(in_features, out_features, bias=bias)
    nn.init.normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations on `device` keep the precision of their inputs."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
