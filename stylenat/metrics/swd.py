"""Sliced Wasserstein distance of Laplacian pyramid patches (ProGAN, arXiv 1710.10196, section 5).

It needs no network, and tells levels apart: low-pass structure at 16x16, texture at full size.

Legend: B batch, H height, W width, N patches, D their values: 3 channels of 7x7 pixels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.data import ImageSource
from stylenat.distributed import all_gather, all_reduce_sum_, own_share, world_size

SMALLEST = 16
PATCH = 7
PATCHES_PER_IMAGE = 128
DIRECTIONS = 512
DIRECTIONS_AT_ONCE = 32
MOST_IMAGES = 16_384
SETTINGS = {
    "images_at_most": MOST_IMAGES,
    "patches_per_image": PATCHES_PER_IMAGE,
    "directions": DIRECTIONS,
}
IN_MEMORY_BYTES = 256 * 2**20  # of a level's patches; more go to a temporary file


def pyramid_resolutions(resolution: int) -> list[int]:
    """The sides of the levels, from the image's own down to 16, halving.

    Raises ValueError for an image smaller than 16.
    """
    if resolution < SMALLEST:
        raise ValueError(
            f"swd takes images of at least {SMALLEST}x{SMALLEST} pixels: {resolution}x{resolution}"
        )
    sides = [resolution]
    while sides[-1] % 2 == 0 and sides[-1] // 2 >= SMALLEST:
        sides.append(sides[-1] // 2)
    return sides


def laplacian_pyramid(images_B3HW: Tensor, levels: int) -> list[Tensor]:
    """float32 levels: each less the next one scaled up (Burt and Adelson 1983), the last whole."""
    pyramid = [images_B3HW.float()]
    for _ in range(1, levels):
        smaller = _blur(pyramid[-1])[:, :, ::2, ::2]
        grown = torch.zeros_like(pyramid[-1])
        grown[:, :, ::2, ::2] = smaller
        pyramid[-1] = pyramid[-1] - 4 * _blur(grown)
        pyramid.append(smaller)
    return pyramid


def _blur(images_B3HW: Tensor) -> Tensor:
    """The binomial filter 1 4 6 4 1 along both axes, images mirrored about their edge pixels."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images_B3HW.device) / 16
    channels = images_B3HW.shape[1]
    padded = F.pad(images_B3HW, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)


class Patches:
    """Random 7x7 patches of every level, added batch by batch: 128 of an image and level.

    Which ones depends on the seed and the image's position among all, not on batch or rank. At
    256x256 they are 6 GB of the 16,384 images: each level is in a file of its own, and read when
    its turn comes.
    """

    def __init__(self, resolution: int, *, seed: int) -> None:
        self.resolutions = pyramid_resolutions(resolution)
        self.seed = seed
        self.levels: list[IO[bytes]] = [
            tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 (kept)
            for _ in self.resolutions
        ]

    def add(self, images_BHW3: Tensor, positions: list[int]) -> None:
        """Take patches of uint8 images [B, H, W, 3] at these positions among all."""
        images_B3HW = images_BHW3.permute(0, 3, 1, 2).contiguous()
        pyramid = laplacian_pyramid(images_B3HW, len(self.resolutions))
        for file, level_B3HW in zip(self.levels, pyramid, strict=True):
            side = level_B3HW.shape[-1]
            corners = [_corners(side, (self.seed, position, side)) for position in positions]
            corners_BP2 = torch.from_numpy(np.stack(corners)).to(level_B3HW.device)
            file.write(cut_patches(level_B3HW, corners_BP2).cpu().numpy().tobytes())

    def first(self, place: int, images: int) -> Tensor:
        """[N, 3, 7, 7]: a level's patches of this rank's first images, on the CPU."""
        file, shape = self.levels[place], (3, PATCH, PATCH)
        end = file.tell()
        file.seek(0)
        data = bytearray(min(end, images * PATCHES_PER_IMAGE * 4 * math.prod(shape)))
        file.readinto(data)  # type: ignore[attr-defined]
        file.seek(end)
        patches = torch.frombuffer(data, dtype=torch.float32) if data else torch.empty(0)
        return patches.view(-1, *shape)


class PatchCollector:
    """Patches of the first `num` images, for SWD, all of which must have the side `resolution`.

    `place` says where the image at a position is, for messages.
    """

    def __init__(
        self,
        resolution: int,
        num: int,
        *,
        seed: int,
        device: torch.device,
        place: Callable[[int], str] = "image {}".format,
    ) -> None:
        self.resolution = resolution
        self.num = num
        self.device = device
        self.place = place
        self.patches = Patches(resolution, seed=seed)

    def add(self, images_BHW3: Tensor, positions: Sequence[int]) -> None:
        height, width = images_BHW3.shape[1:3]
        if (height, width) != (self.resolution, self.resolution):
            raise ValueError(
                f"swd takes images of one size, {self.resolution}x{self.resolution}: "
                f"{self.place(positions[0])} is {width}x{height}; make them one size with "
                "`stylenat prepare`"
            )
        first = [place for place, position in enumerate(positions) if position < self.num]
        if first:
            taken_BHW3 = images_BHW3[first].to(self.device)
            self.patches.add(taken_BHW3, [positions[place] for place in first])

    def level(self, place: int, num: int) -> Tensor:
        """This rank's part of the first `num` images' patches [N, D] at a level, normalised by all
        ranks' mean and deviation; called by all ranks."""
        taken = self.patches.first(place, len(own_share(range(num))))
        return normalised(taken.to(self.device))

    def counterpart(
        self, side: int, num: int, *, place: Callable[[int], str] = "image {}".format
    ) -> PatchCollector:
        """An empty collector for `num` images of this side, to be compared with this one.

        Raises ValueError for images of another side.
        """
        if side != self.resolution:
            raise ValueError(
                f"swd takes images of one size: {side}x{side} against the data's "
                f"{self.resolution}x{self.resolution}"
            )
        num = min(num, self.num)
        return PatchCollector(
            side, num, seed=self.patches.seed + 1, device=self.device, place=place
        )


def values(ours: PatchCollector, theirs: PatchCollector) -> dict[str, float]:
    """`swd_R` of every level R, times 1000, and `swd`, their mean; called by all ranks."""
    levels = {
        f"swd_{side}": 1000
        * sliced_wasserstein(ours.level(place, ours.num), theirs.level(place, ours.num), seed=0)
        for place, side in enumerate(ours.patches.resolutions)
    }
    return {"swd": sum(levels.values()) / len(levels), **levels}


def side_of(images: ImageSource) -> int:
    """The images' side. Raises ValueError unless the first one is square."""
    width, height = images.image(0).size
    if height != width:
        raise ValueError(f"swd takes square images: the first one is {width}x{height}")
    return height


def _corners(side: int, seed: tuple[int, ...]) -> np.ndarray:
    """int64 [128, 2]: the upper left corners of an image's patches."""
    return np.random.default_rng(seed).integers(side - PATCH + 1, size=(PATCHES_PER_IMAGE, 2))


def cut_patches(images_B3HW: Tensor, corners_BP2: Tensor) -> Tensor:
    """[B * P, 3, 7, 7]: of each image the patches with these upper left corners (y, x)."""
    windows = images_B3HW.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # B 3 y x 7 7, a view
    image_B1 = torch.arange(len(images_B3HW), device=images_B3HW.device)[:, None]
    cut = windows[image_B1, :, corners_BP2[..., 0], corners_BP2[..., 1]]
    return cut.flatten(0, 1)


def normalised(patches_N377: Tensor) -> Tensor:
    """[N, D]: every channel with mean 0 and deviation 1 over the patches of all ranks."""
    dims = (0, 2, 3)
    sums = [patches_N377.sum(dims, dtype=torch.float64)]
    sums.append(patches_N377.square().sum(dims, dtype=torch.float64))
    sums.append(torch.full_like(sums[0], patches_N377[:, 0].numel()))
    total, squares, count = all_reduce_sum_(torch.stack(sums))
    mean = total / count
    variance = squares / count - mean**2
    # A flat level has nothing to scale but rounding.
    is_flat = variance <= 1e-6 * squares / count
    scale = torch.where(is_flat, 1.0, variance.clamp(min=0).rsqrt())
    shaped = (patches_N377 - mean.float().view(3, 1, 1)) * scale.float().view(3, 1, 1)
    return shaped.flatten(1)


def sliced_wasserstein(a_ND: Tensor, b_ND: Tensor, *, seed: int) -> float:
    """The mean over 512 random directions of the Wasserstein-1 distance of the projections.

    The ranks hold parts of the two sets, which must be of one size in all. Raises ValueError
    otherwise.
    """
    directions = torch.from_numpy(
        np.random.default_rng(seed).standard_normal((DIRECTIONS, a_ND.shape[1]))
    )
    directions = F.normalize(directions, dim=1).to(a_ND)
    total = 0.0
    for chunk_CD in directions.split(DIRECTIONS_AT_ONCE):
        a_CN, b_CN = (_sorted_projections(x_ND, chunk_CD) for x_ND in (a_ND, b_ND))
        if a_CN.shape != b_CN.shape:
            raise ValueError(
                "swd needs the same number of patches on both sides: "
                f"{a_CN.shape[1]}, {b_CN.shape[1]}"
            )
        total += float((a_CN - b_CN).abs().mean(dim=1, dtype=torch.float64).sum())
    return total / DIRECTIONS


def _sorted_projections(x_ND: Tensor, directions_CD: Tensor) -> Tensor:
    """[C, N] of all ranks' patches, in ascending order."""
    projections_CN = directions_CD @ x_ND.T
    if world_size() > 1:
        parts = all_gather(projections_CN.T.contiguous())
        projections_CN = torch.cat(parts).T.contiguous()
    if projections_CN.device.type == "cpu":
        # numpy sorts values alone, with vector instructions; PyTorch sorts indices along.
        return torch.from_numpy(np.sort(projections_CN.numpy(), axis=1))
    return projections_CN.sort(dim=1).values
