"""The colour part of ADA: all transformations of an image's colours as one matrix.

Legend: B batch, H height, W width. The matrices act on (r, g, b, 1) in [-1, 1]; they are float32 on
the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylenat.augment.draws import Draws
from stylenat.copies import to_device

BRIGHTNESS_STD = 0.2
CONTRAST_STD = 0.5  # in powers of 2
SATURATION_STD = 1.0  # in powers of 2


def color_matrices(draws: Draws) -> Tensor:
    """C [B, 4, 4]; exactly the identity for images that no transformation was decided for."""
    grey = torch.full((3, 3), 1 / 3)  # v v^T, v = (1, 1, 1) / sqrt(3)
    eye = torch.eye(3)

    brightness = BRIGHTNESS_STD * draws.normal("brightness", 1)
    contrast = 2 ** (CONTRAST_STD * draws.normal("contrast", 1))
    flip = draws.choice("lumaflip", 1, 2)
    angle = draws.symmetric("hue", 1) * math.pi
    saturation = 2 ** (SATURATION_STD * draws.normal("saturation", 1))

    linear = {
        "contrast": contrast[:, None, None] * eye,
        "lumaflip": eye - 2 * grey * flip[:, None, None],
        "hue": hue_rotation(angle),
        "saturation": grey + (eye - grey) * saturation[:, None, None],
    }
    product = torch.eye(4).repeat(len(flip), 1, 1)
    product[:, :3, 3] = torch.where(draws.applies("brightness"), brightness, 0)[:, None]
    for name, matrix_B33 in linear.items():
        matrix_B33 = torch.where(draws.applies(name)[:, None, None], matrix_B33, eye)
        product[:, :3] = matrix_B33 @ product[:, :3]
    return product


def hue_rotation(angle_B: Tensor) -> Tensor:
    """Rotations [B, 3, 3] about the grey axis (1, 1, 1), by Rodrigues' formula."""
    grey = torch.full((3, 3), 1 / 3, dtype=angle_B.dtype)
    eye = torch.eye(3, dtype=angle_B.dtype)
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=angle_B.dtype) / math.sqrt(3)
    sine, cosine = angle_B.sin()[:, None, None], angle_B.cos()[:, None, None]
    return cosine * eye + sine * cross + (1 - cosine) * grey


def recolor(images_B3HW: Tensor, matrix_B44: Tensor) -> Tensor:
    """Images whose colours are the given ones times the upper rows of `matrix_B44`."""
    matrix = to_device(matrix_B44, images_B3HW.device, images_B3HW.dtype)
    colors = matrix[:, :3, :3] @ images_B3HW.flatten(2) + matrix[:, :3, 3:]
    return colors.view(images_B3HW.shape)
