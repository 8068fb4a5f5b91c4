"""Conversion between the values that the networks work in and 8-bit pixels.

Legend: B batch, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.checks import check_tensor


@dataclass(frozen=True)
class PixelSpace:
    """`value = (pixel / 255 - mean) / std` for pixels 0..255; one mean and one std per channel.

    Raises ValueError unless there are three finite means and three finite, positive stds.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or not all(math.isfinite(mean) for mean in self.mean):
            raise ValueError(f"pixel_space.mean must be three finite numbers: {self.mean}")
        if len(self.std) != 3 or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ValueError(f"pixel_space.std must be three positive numbers: {self.std}")


IMAGENET = PixelSpace(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def to_uint8(image_B3HW: Tensor, space: PixelSpace) -> Tensor:
    """Floating images [B, 3, H, W] in `space` -> contiguous uint8 pixels [B, H, W, 3].

    Rounds to the nearest pixel value, halves up, and clamps to 0..255, infinities too. Undoes
    `from_uint8` exactly. Raises ValueError for another shape or dtype, and for NaN, which no pixel
    can show.
    """
    check_tensor("images", image_B3HW)
    if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3 or not image_B3HW.is_floating_point():
        raise ValueError(
            "images must be [B, 3, H, W] and floating: "
            f"{tuple(image_B3HW.shape)}, {image_B3HW.dtype}"
        )
    image = image_B3HW.to(torch.promote_types(image_B3HW.dtype, torch.float32))
    if not image.is_meta and image.isnan().any():
        values = int(image.isnan().sum())
        raise ValueError(
            f"an image must not hold NaN: {values} of {image.numel()} values; "
            "the network that made it has diverged"
        )
    return quantized(image, space)


def quantized(image_B3HW: Tensor, space: PixelSpace) -> Tensor:
    """What `to_uint8` computes, without its checks, which no exported graph can hold."""
    pixels = image_B3HW * _per_channel([255 * std for std in space.std], image_B3HW)
    pixels = pixels + _per_channel([255 * mean + 0.5 for mean in space.mean], image_B3HW)
    # Truncating a value that is not negative rounds it down.
    return pixels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(pixels_BHW3: Tensor, space: PixelSpace) -> Tensor:
    """uint8 pixels [B, H, W, 3] -> contiguous float32 images [B, 3, H, W] in `space`.

    Raises ValueError for another shape or dtype.
    """
    check_tensor("pixels", pixels_BHW3)
    if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[3] != 3 or pixels_BHW3.dtype != torch.uint8:
        raise ValueError(
            "pixels must be [B, H, W, 3] and uint8: "
            f"{tuple(pixels_BHW3.shape)}, {pixels_BHW3.dtype}"
        )
    image = pixels_BHW3.permute(0, 3, 1, 2).float().contiguous()
    mean, std = _per_channel(space.mean, image), _per_channel(space.std, image)
    return (image / 255 - mean) / std


def to_rgb(image_B3HW: Tensor, space: PixelSpace) -> Tensor:
    """Floating images in `space` -> RGB in [-1, 1], unclamped: -1 is pixel 0, 1 is pixel 255."""
    scale = _per_channel([2 * std for std in space.std], image_B3HW)
    return image_B3HW * scale + _per_channel([2 * mean - 1 for mean in space.mean], image_B3HW)


def from_rgb(rgb_B3HW: Tensor, space: PixelSpace) -> Tensor:
    """RGB in [-1, 1] -> images in `space`; the inverse of `to_rgb`."""
    scale = _per_channel([2 * std for std in space.std], rgb_B3HW)
    return (rgb_B3HW - _per_channel([2 * mean - 1 for mean in space.mean], rgb_B3HW)) / scale


def _per_channel(values: tuple[float, ...] | list[float], like: Tensor) -> Tensor:
    """[3, 1, 1], filled on the device: a copy from the host would stall its stream."""
    return torch.stack([like.new_full((1, 1), value) for value in values])
