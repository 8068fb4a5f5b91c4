"""What ADA can do to an image beside geometry and colour: a filter, noise, a cutout.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.augment.draws import Draws
from stylenat.copies import to_device

BANDS = 4
FILTER_STD = 1.0  # of a band's gain, in powers of 2
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # the share of each band in a natural image
NOISE_STD = 0.1
CUTOUT = 0.5  # of the side

# The orthogonal wavelet of Daubechies with 4 taps.
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)


@functools.cache
def filter_bank() -> Tensor:
    """Four band-pass filters [4, 43], the lowest band first; they add up to the unit impulse."""
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low * torch.tensor([1, -1, 1, -1])
    low, high = (_convolved(taps[None], taps.flip(0))[0] / 2 for taps in (low, high))
    bank = torch.zeros(BANDS, 1, dtype=torch.float64)
    bank[0] = 1
    for band in range(1, BANDS):
        spread = bank.new_zeros(BANDS, 2 * bank.shape[1] - 1)
        spread[:, ::2] = bank
        bank = _convolved(spread, low)
        start = (bank.shape[1] - len(high)) // 2
        bank[band, start : start + len(high)] += high
    return bank


def _convolved(rows: Tensor, taps: Tensor) -> Tensor:
    return F.conv1d(rows[:, None], taps.flip(0)[None, None], padding=len(taps) - 1)[:, 0]


def band_gains(draws: Draws) -> Tensor:
    """The gain of each band, [B, 4]; exactly 1 for images that none was decided for.

    One band after the other is scaled; the gains are then scaled so that the power of a natural
    image stays.
    """
    power = torch.tensor(BAND_POWER)
    gains = torch.ones(len(draws.values_BN), BANDS)
    for band in range(BANDS):
        decided = draws.applies("imgfilter", 2 * band)
        scaled = torch.ones_like(gains)
        scaled[:, band] = 2 ** (FILTER_STD * draws.normal("imgfilter", 2 * band + 1))
        scaled = scaled / (power * scaled.square()).sum(1, keepdim=True).sqrt()
        gains = torch.where(decided[:, None], gains * scaled, gains)
    return gains


def filter_images(images_BCHW: Tensor, gains_B4: Tensor) -> Tensor:
    """Each image with the bands of its frequencies scaled, along x and y; mirrored at its edges.

    Raises ValueError for images with a side that is shorter than the filter reaches.
    """
    taps_BK = gains_B4.double() @ filter_bank()
    taps_BK = to_device(taps_BK, images_BCHW.device, images_BCHW.dtype)
    reach = taps_BK.shape[1] // 2
    count, channels, height, width = images_BCHW.shape
    if min(height, width) <= reach:
        raise ValueError(
            f"imgfilter needs images with sides of at least {reach + 1} pixels: {height}x{width}; "
            "choose a set without it, such as bgc"
        )
    weight = taps_BK.repeat_interleave(channels, 0)
    x = F.pad(images_BCHW, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(x, weight[:, None, None, :], groups=count * channels)
    x = F.conv2d(x, weight[:, None, :, None], groups=count * channels)
    return x.view(images_BCHW.shape)


def add_noise(images_BCHW: Tensor, noise_B2: Tensor) -> Tensor:
    """Gaussian noise on every value; `noise_B2`: its strength, and the draw that seeds its map.

    The map is drawn on the CPU from that one draw: it depends neither on the batch nor on the
    device.
    """
    maps = []
    for strength, draw in noise_B2.tolist():
        generator = torch.Generator().manual_seed(int(draw * 2**24))
        noise_CHW = torch.randn(images_BCHW.shape[1:], generator=generator)
        maps.append(NOISE_STD * strength * noise_CHW)
    return images_BCHW + to_device(torch.stack(maps), images_BCHW.device, images_BCHW.dtype)


def cut_out(images_BCHW: Tensor, centers_B2: Tensor) -> Tensor:
    """Images with zeros in a rectangle of half their sides; `centers_B2`: x and y, in [0, 1)."""
    height, width = images_BCHW.shape[2:]
    kept_x, kept_y = (
        ((torch.arange(side) + 0.5) / side - center[:, None]).abs() >= CUTOUT / 2
        for side, center in zip((width, height), centers_B2.unbind(1), strict=True)
    )
    kept = kept_y[:, None, :, None] | kept_x[:, None, None, :]
    return images_BCHW * to_device(kept, images_BCHW.device, images_BCHW.dtype)
