"""The augmentation T of balanced consistency regularisation, as the published training had it.

Legend: B batch, C channels, H height, W width.

Each image is flipped, shifted, changed in brightness, saturation and contrast, and loses a
rectangle, in this order (the transformations of DiffAugment, arXiv 2006.10738). The caller gives
AUGMENT_DRAWS random numbers from 0 to 1 per image. So an image's augmentation depends neither on
its batch nor on its rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

AUGMENT_DRAWS = 8
SHIFT = 1 / 8  # of the image's side, at most
CUTOUT = 1 / 2  # of the image's side


def augment(image_BCHW: Tensor, draws_B8: Tensor) -> Tensor:
    """Augmented images [B, C, H, W] in the pixel space that they came in; what is cut is 0 there.

    `draws_B8` [B, 8] in [0, 1): flip, shift in y and x, brightness, saturation, contrast, and the
    cutout's y and x. Differentiable in the images. Raises ValueError for another shape of draws.
    """
    if draws_B8.shape != (len(image_BCHW), AUGMENT_DRAWS):
        raise ValueError(
            f"draws must be [B, {AUGMENT_DRAWS}] for B = {len(image_BCHW)} images: "
            f"{tuple(draws_B8.shape)}"
        )
    draws = draws_B8.to(image_BCHW.device)[:, :, None, None, None].unbind(1)
    flip, shift_y, shift_x, brightness, saturation, contrast, cut_y, cut_x = draws
    image = torch.where(flip < 0.5, image_BCHW.flip(3), image_BCHW)
    image = shifted(shifted(image, shift_y, dim=2), shift_x, dim=3)
    image = image + (brightness - 0.5)
    grey = image.mean(dim=1, keepdim=True)
    image = (image - grey) * (2 * saturation) + grey
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = (image - mean) * (contrast + 0.5) + mean
    return image * ~(is_cut(image, cut_y, dim=2) & is_cut(image, cut_x, dim=3))


def shifted(image_BCHW: Tensor, draw_B111: Tensor, dim: int) -> Tensor:
    """Images moved along `dim` by whole pixels, at most SHIFT of its length; zeros move in."""
    side = image_BCHW.shape[dim]
    most = int(side * SHIFT + 0.5)
    shift_B111 = (draw_B111 * (2 * most + 1)).long() - most
    source = along(image_BCHW, dim) - shift_B111
    inside = (source >= 0) & (source < side)
    return image_BCHW.take_along_dim(source.clamp(0, side - 1), dim) * inside


def is_cut(image_BCHW: Tensor, draw_B111: Tensor, dim: int) -> Tensor:
    """Which positions along `dim` the cutout covers: CUTOUT of its length, perhaps over an edge."""
    side = image_BCHW.shape[dim]
    length = int(side * CUTOUT + 0.5)
    centre_B111 = (draw_B111 * (side + 1 - length % 2)).long()
    start_B111 = centre_B111 - length // 2
    position = along(image_BCHW, dim)
    return (position >= start_B111) & (position < start_B111 + length)


def along(image_BCHW: Tensor, dim: int) -> Tensor:
    """0, 1, ... along `dim`, in a shape that goes with [B, C, H, W]."""
    shape = [1, 1, 1, 1]
    shape[dim] = image_BCHW.shape[dim]
    return torch.arange(image_BCHW.shape[dim], device=image_BCHW.device).view(shape)
