"""What a classifier says of images, and how often it is right.

Legend: B batch, S side of the network's images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylenat.backbones.config import ImageConfig
from stylenat.backbones.network import NAT
from stylenat.backbones.preparing import normalise, read_image
from stylenat.data.listing import is_hidden, list_folder
from stylenat.data.pool import in_order
from stylenat.distributed import all_reduce_sum_, own_share
from stylenat.files import user_path
from stylenat.progress import progress_bar


def read_labels(path: Path) -> tuple[str, ...]:
    """The names of the classes in a text file, one per line, blank lines left out.

    Raises OSError if it can't be read, and ValueError if it holds no text or no names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: labels are one name per line") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise ValueError(f"{path} holds no labels: it must name one class per line")
    return labels


def check_classifies(network: NAT, labels: Sequence[str] = (), source: str = "") -> None:
    """Raises ValueError unless the network has a head, and the labels, if any, are as many."""
    classes = network.config.num_classes
    if not classes:
        raise ValueError("the model has no head, and tells no classes apart: it gives features")
    if labels and len(labels) != classes:
        raise ValueError(
            f"{source} has {len(labels)} labels, and the model tells {classes} classes apart: "
            "there must be one label for each class"
        )


@dataclass(frozen=True)
class Guess:
    """One class that an image may show: its number, and its probability."""

    index: int
    probability: float


def classify(network: NAT, paths: Sequence[Path], *, top: int = 5) -> list[list[Guess]]:
    """For each image file the `top` likeliest classes, or all if there are fewer; likeliest first.

    Raises OSError for a file that can't be read, and ValueError for one that is no image, and if
    the network has no head.
    """
    check_classifies(network)
    device = next(network.parameters()).device
    guesses = []
    for path in paths:
        pixels_1SS3 = torch.from_numpy(read_image(path, network.config.images).copy())[None]
        logits = _logits(network, pixels_1SS3.to(device))[0]
        best = logits.softmax(0).topk(min(top, len(logits)))
        guesses.append([Guess(int(i), float(p)) for p, i in zip(*best, strict=True)])
    return guesses


@dataclass(frozen=True)
class ImageFolder:
    """A folder that holds one folder for each class, in the order of their names, as ImageNet's.

    `images`: name below the folder and number of the class, of every image.
    """

    path: Path
    classes: tuple[str, ...]
    images: tuple[tuple[str, int], ...]

    @classmethod
    def open(cls, path: str | Path) -> ImageFolder:
        """Raises OSError if the folder can't be listed, and ValueError if it holds no image in a
        class's folder, or an image outside of one."""
        path = user_path(path)
        classes = sorted(f.name for f in path.iterdir() if f.is_dir() and not is_hidden(f.name))
        number = {name: index for index, name in enumerate(classes)}
        names = sorted(list_folder(path).images)
        if outside := [name for name in names if "/" not in name]:
            raise ValueError(
                f"{path} must hold one folder for each class, and images in these alone: "
                f"{outside[0]} lies outside of them"
            )
        if not names:
            raise ValueError(f"{path} holds no images: it needs one folder for each class")
        return cls(path, tuple(classes), tuple((n, number[n.split("/")[0]]) for n in names))


@dataclass(frozen=True)
class Accuracy:
    """Percentages of `count` images whose class was the first guess, or one of the first five.

    `seconds`: what reading and computing took together.
    """

    count: int
    top1: float
    top5: float
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.count / self.seconds


def measure_accuracy(
    network: NAT,
    folder: ImageFolder,
    *,
    batch: int = 64,
    workers: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Accuracy:
    """How often the network is right on a folder's images; a progress bar on a terminal.

    Images are not turned as their EXIF data say: those of the published numbers were not. To be
    called by all ranks, which share the images. Raises ValueError for an image that can't be used,
    and unless the folder has as many classes as the network.
    """
    check_classifies(network)
    if len(folder.classes) != network.config.num_classes:
        raise ValueError(
            f"{folder.path} has {len(folder.classes)} folders, and the model tells "
            f"{network.config.num_classes} classes apart: there must be one folder for each class"
        )
    device = next(network.parameters()).device
    own = [folder.images[i] for i in own_share(range(len(folder.images)))]
    tasks = [own[first : first + batch] for first in range(0, len(own), batch)]
    right = torch.zeros(3, dtype=torch.int64, device=device)  # images, first guesses, five guesses
    begin = time.perf_counter()
    batches = in_order(_read_batch, (folder.path, network.config.images), tasks, workers=workers)
    with closing(batches), progress_bar("images", len(own)) as advance:
        for pixels_BSS3, classes in batches:
            classes_B = torch.from_numpy(classes).to(device)
            pixels = torch.from_numpy(pixels_BSS3).to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits_BC = _logits(network, pixels)
            right += _right(logits_BC, classes_B)
            advance(len(classes))
    count, first, five = all_reduce_sum_(right).tolist()
    seconds = time.perf_counter() - begin
    return Accuracy(count, 100 * first / count, 100 * five / count, seconds)


def _read_batch(
    job: tuple[Path, ImageConfig], images: Sequence[tuple[str, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """In a process of its own: pixels [B, S, S, 3] and the numbers of their classes [B]."""
    folder, config = job
    pixels = [read_image(folder / name, config, upright=False) for name, _ in images]
    return np.stack(pixels), np.array([number for _, number in images])


@torch.inference_mode()
def _logits(network: NAT, pixels_BSS3: Tensor) -> Tensor:
    images_B3SS = normalise(pixels_BSS3, network.config.images)
    return network(images_B3SS.to(network.patch_embed.norm.weight.dtype)).float()


def _right(logits_BC: Tensor, classes_B: Tensor) -> Tensor:
    """How many images there are, and of how many the first guess, and one of the first five, is
    right: [3]."""
    best = logits_BC.topk(min(5, logits_BC.shape[1])).indices == classes_B[:, None]
    return torch.stack(
        [best.new_tensor(len(best), dtype=torch.int64), best[:, 0].sum(), best.sum()]
    )
