"""The augmentations of ADA (adaptive discriminator augmentation, arXiv 2006.06676).

Legend: B batch, H height, W width, N = ADA_DRAWS.

Every transformation of an image happens with probability p times its multiplier. The geometric ones
become one matrix and one resampling, the colours one more matrix; a filter, noise and a cutout
follow. All random numbers come in from outside, so that an image's augmentation depends neither on
the batch nor on the rank that it is in. How p adapts is in `adaptation`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stylenat.augment.color import color_matrices, recolor
from stylenat.augment.corruptions import add_noise, band_gains, cut_out, filter_images
from stylenat.augment.draws import Draws, Transforms, draws_at, random_draws
from stylenat.augment.geometry import inverse_matrices, resample
from stylenat.copies import to_device


def augment(
    images_B3HW: Tensor, draws_BN: Tensor, *, p: float, transforms: Transforms = "bgc"
) -> Tensor:
    """RGB images in [-1, 1], each transformed at random; H and W need not be equal.

    `draws_BN` [B, N] in [0, 1), best on the CPU, where they are needed. `transforms` is the name of
    a set (SETS), names of transformations, or a mapping from names to multipliers of p. The values
    may leave [-1, 1]. Computed in float32 (float64 for such images), and differentiable twice. An
    image that nothing was decided for, and at p = 0 every image, comes back bit for bit.

    Raises ValueError for images or draws of another shape, draws outside [0, 1), a p that is no
    probability, unknown names, bad multipliers, and images that are too small for `imgfilter`.
    """
    _check(images_B3HW)
    return _apply(images_B3HW, random_draws(draws_BN, len(images_B3HW), p, transforms))


def augment_at_percentile(images_B3HW: Tensor, transforms: Transforms, percentile: float) -> Tensor:
    """Images with every one of the transformations, each as strong as the percentile says.

    It stands in for every random number, by the convention of the official preview: a normal number
    is erfinv(2 percentile - 1) times its standard deviation, the second rotation is by 0. Raises
    ValueError as `augment` does, and for a percentile outside [0, 1).
    """
    _check(images_B3HW)
    return _apply(images_B3HW, draws_at(percentile, len(images_B3HW), transforms))


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be [B, 3, H, W] and floating: {tuple(images.shape)}, {images.dtype}"
        )


def _apply(images: Tensor, draws: Draws) -> Tensor:
    # Autocast would filter in bfloat16.
    with torch.autocast(images.device.type, enabled=False):
        x = images.to(torch.promote_types(images.dtype, torch.float32))

        inverse_B33 = inverse_matrices(draws, *images.shape[2:])
        x = _where_changed(x, _differs(inverse_B33, torch.eye(3)), resample, inverse_B33)

        color_B44 = color_matrices(draws)
        x = _where_changed(x, _differs(color_B44, torch.eye(4)), recolor, color_B44)

        gains_B4 = band_gains(draws)
        x = _where_changed(x, _differs(gains_B4, torch.ones(4)), filter_images, gains_B4)

        noisy = draws.applies("noise")
        noise_B2 = torch.stack([draws.half_normal("noise", 1), draws.uniform("noise", 2)], dim=1)
        x = _where_changed(x, noisy, add_noise, noise_B2)

        centers_B2 = torch.stack([draws.uniform("cutout", column) for column in (1, 2)], dim=1)
        x = _where_changed(x, draws.applies("cutout"), cut_out, centers_B2)
        return x.to(images.dtype)


def _differs(parameters: Tensor, neutral: Tensor) -> Tensor:
    return (parameters != neutral).flatten(1).any(1)


def _where_changed(
    images: Tensor,
    changed_B: Tensor,
    transform: Callable[[Tensor, Tensor], Tensor],
    parameters: Tensor,
) -> Tensor:
    """The images, of which `transform(images, parameters)` replaces those that change."""
    if not changed_B.any():
        return images
    if changed_B.all():
        return transform(images, parameters)
    rows = changed_B.nonzero()[:, 0]
    on_device = to_device(rows, images.device)
    changed = transform(images.index_select(0, on_device), parameters[rows])
    return images.index_copy(0, on_device, changed)
