"""Image files -> what a classifier sees of them, as the published models were evaluated.

Legend: B batch, S side of the network's images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylenat.backbones.config import ImageConfig
from stylenat.data.images import MOST_PIXELS, ImageError, RefusedImage, decode, refuse_bytes
from stylenat.files import user_path


def prepare(image: Image.Image, config: ImageConfig) -> Image.Image:
    """The image that the network sees, [S, S], RGB.

    The shorter side is scaled to `config.scaled_side`, bicubically, and the centre is kept. Raises
    RefusedImage for a shape so long that it would have more than 89,478,485 pixels on the way.
    """
    width, height = image.size
    short, scaled = min(width, height), config.scaled_side
    if short != scaled:
        size = (scaled * width // short, scaled * height // short)
        if size[0] * size[1] > MOST_PIXELS:
            raise RefusedImage(f"is too long to be scaled to {scaled}: {width}x{height}")
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - config.size) / 2) for side in image.size)
    return image.crop((left, top, left + config.size, top + config.size))


def read_image(path: Path, config: ImageConfig, *, upright: bool = True) -> np.ndarray:
    """What the network sees of an image file, uint8 [S, S, 3].

    Raises OSError for a file that can't be read, and ImageError, one sentence, for one that is no
    image. `upright`: as `decode`.
    """
    path = user_path(path)
    try:
        refuse_bytes(path.stat().st_size)
        return np.asarray(prepare(decode(path.read_bytes(), upright=upright), config))
    except RefusedImage as error:
        raise ImageError(str(path), str(error)) from error


def normalise(pixels_BSS3: Tensor, config: ImageConfig) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S], on the device that the pixels are on."""
    mean, std = (
        torch.tensor(values, device=pixels_BSS3.device).view(3, 1, 1)
        for values in (config.mean, config.std)
    )
    return (pixels_BSS3.permute(0, 3, 1, 2).float() / 255 - mean) / std
