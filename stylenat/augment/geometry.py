"""The geometric part of ADA: all transformations of an image as one matrix, executed once.

Legend: B batch, C channels, H height, W width. The matrices are G^-1, from an output pixel to the
input pixel that it shows, in pixels from the image's centre. They are float32 on the CPU, as in the
official code, so that both round alike.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.augment.draws import Draws
from stylenat.copies import to_device

SHIFT = 0.125  # of the side: the largest whole-pixel one, and the deviation of the other
SCALE_STD = 0.2  # in powers of 2

# The orthogonal wavelet of Daubechies with 12 taps and the least asymmetry, as a low-pass filter.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
PAD = len(SYM6) // 4  # pixels that the filter reaches to either side


def inverse_matrices(draws: Draws, height: int, width: int) -> Tensor:
    """G^-1 [B, 3, 3]; exactly the identity for images that no transformation was decided for."""
    flip = _where(draws, "xflip", draws.choice("xflip", 1, 2))
    turns = _where(draws, "rotate90", draws.choice("rotate90", 1, 4))
    shift_x = (draws.symmetric("xint", 1) * SHIFT * width).round()
    shift_y = (draws.symmetric("xint", 2) * SHIFT * height).round()
    scale = _where(draws, "scale", 2 ** (SCALE_STD * draws.normal("scale", 1)), neutral=1)
    aniso = _where(draws, "aniso", 2 ** (SCALE_STD * draws.normal("aniso", 1)), neutral=1)
    move_x, move_y = (SHIFT * draws.normal("xfrac", column) for column in (1, 2))
    factors = (
        scaling(1 - 2 * flip, torch.ones_like(flip)),
        rotation(turns * (math.pi / 2)),
        translation(-_where(draws, "xint", shift_x), -_where(draws, "xint", shift_y)),
        scaling(1 / scale, 1 / scale),
        rotation(_angle(draws, 0)),
        scaling(1 / aniso, aniso),
        rotation(_angle(draws, 2)),
        translation(
            -_where(draws, "xfrac", move_x * width), -_where(draws, "xfrac", move_y * height)
        ),
    )
    product = torch.eye(3).expand(len(flip), 3, 3)
    for factor in factors:
        product = product @ factor
    return product


def _where(draws: Draws, name: str, value: Tensor, neutral: float = 0) -> Tensor:
    return torch.where(draws.applies(name), value, neutral)


def _angle(draws: Draws, column: int) -> Tensor:
    """The angle of the rotation whose decision is in `column` of `rotate`.

    Each of the two has probability 1 - sqrt(1 - p), so that one of them happens with probability p.
    """
    p = min(draws.probabilities.get("rotate", 0.0), 1.0)
    decided = draws.uniform("rotate", column) < 1 - math.sqrt(1 - p)
    return torch.where(decided, draws.symmetric("rotate", column + 1) * math.pi, 0)


def resample(images_BCHW: Tensor, inverse_B33: Tensor) -> Tensor:
    """Images whose pixel x shows what the given ones show at `inverse_B33` x.

    Beyond its edges an image is mirrored, once. It is sampled at twice its resolution, between two
    low-pass filters, so that neither aliasing nor blur shows. Differentiable to any order.
    """
    height, width = images_BCHW.shape[2:]
    margins_B4 = margins(inverse_B33, height, width)
    left, top, right, bottom = (int(side) for side in margins_B4.amax(0))
    padded = F.pad(images_BCHW, (left, right, top, bottom), mode="reflect")
    own = own_margins(padded, margins_B4)
    doubled = upsample(padded * own)
    doubled = doubled * own.repeat_interleave(2, 2).repeat_interleave(2, 3)

    inverse_B33 = inverse_B33.to(images_BCHW.dtype)
    shift, scale = (functools.partial(make, like=inverse_B33) for make in (_shift, _scale))
    inverse_B33 = shift((left - right) / 2, (top - bottom) / 2) @ inverse_B33
    inverse_B33 = shift(-0.5, -0.5) @ scale(2, 2) @ inverse_B33 @ scale(0.5, 0.5) @ shift(0.5, 0.5)
    # From pixels to the coordinates of grid_sample, -1 to 1, and back.
    size = (2 * (height + 2 * PAD), 2 * (width + 2 * PAD))
    to_unit = scale(2 / doubled.shape[3], 2 / doubled.shape[2])
    unit_B33 = to_unit @ inverse_B33 @ scale(size[1] / 2, size[0] / 2)
    theta_B23 = to_device(unit_B33[:, :2], doubled.device)
    grid = F.affine_grid(theta_B23, [*doubled.shape[:2], *size], align_corners=False)
    sampled = F.grid_sample(
        doubled, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return downsample(sampled)


def margins(inverse_B33: Tensor, height: int, width: int) -> Tensor:
    """How many pixels beyond its left, top, right and bottom edge each image shows: [B, 4]."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = inverse_B33.new_tensor([[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]])
    seen_B24 = (inverse_B33 @ corners)[:, :2]
    reach = torch.cat([(-seen_B24).amax(2), seen_B24.amax(2)], dim=1)
    margin = reach + reach.new_tensor([2 * PAD - cx, 2 * PAD - cy] * 2)
    most = reach.new_tensor([width - 1, height - 1] * 2)  # a mirror image has no more pixels
    return margin.clamp(min=0).minimum(most).ceil().long()


def own_margins(padded_BCHW: Tensor, margins_B4: Tensor) -> Tensor:
    """1 within the margins of each image and 0 beyond them, where only another image needs pixels.

    [B, 1, H, W]. Without it, an image would depend on the batch that it is in: slightly, since the
    filters' last taps may reach beyond the margins.
    """
    height, width = padded_BCHW.shape[2:]
    left, top, right, bottom = (margins_B4.amax(0) - margins_B4).unbind(1)
    x, y = torch.arange(width), torch.arange(height)
    inside_x = (x >= left[:, None]) & (x < width - right[:, None])
    inside_y = (y >= top[:, None]) & (y < height - bottom[:, None])
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return to_device(inside, padded_BCHW.device, padded_BCHW.dtype)


def upsample(images_BCHW: Tensor) -> Tensor:
    """Twice the height and width: zeros between the pixels, then the filter with gain 4."""
    taps = _taps(images_BCHW) * 2
    # Each channel becomes an image of its own: one filter for all.
    x = images_BCHW.flatten(0, 1)[:, None]
    padding = len(SYM6) // 2 - 1
    x = F.conv_transpose2d(x, taps.view(1, 1, 1, -1), stride=(1, 2), padding=(0, padding))
    x = F.conv_transpose2d(x, taps.view(1, 1, -1, 1), stride=(2, 1), padding=(padding, 0))
    return x.view(*images_BCHW.shape[:2], *x.shape[2:])


def downsample(images_BCHW: Tensor) -> Tensor:
    """The mirrored filter, then every second pixel, without the 2 PAD pixels around the image."""
    taps = _taps(images_BCHW)
    x = images_BCHW[:, :, 1:-1, 1:-1].flatten(0, 1)[:, None]
    x = F.conv2d(x, taps.view(1, 1, 1, -1), stride=(1, 2))
    x = F.conv2d(x, taps.view(1, 1, -1, 1), stride=(2, 1))
    return x.view(*images_BCHW.shape[:2], *x.shape[2:])


def _taps(like: Tensor) -> Tensor:
    taps = torch.tensor(SYM6, dtype=torch.float64)
    return to_device(taps / taps.sum(), like.device, like.dtype)


# Matrices [B, 3, 3] of [B] parameters, and two constant ones.


def scaling(x_B: Tensor, y_B: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x_B, y_B, torch.ones_like(x_B)], dim=1))


def translation(x_B: Tensor, y_B: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=x_B.dtype).repeat(len(x_B), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x_B, y_B
    return matrix


def rotation(angle_B: Tensor) -> Tensor:
    """By an angle in radians, from the x axis to the y axis."""
    matrix = torch.eye(3, dtype=angle_B.dtype).repeat(len(angle_B), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle_B.cos()
    matrix[:, 1, 0] = angle_B.sin()
    matrix[:, 0, 1] = -angle_B.sin()
    return matrix


def _scale(x: float, y: float, *, like: Tensor) -> Tensor:
    return like.new_tensor([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def _shift(x: float, y: float, *, like: Tensor) -> Tensor:
    return like.new_tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])
