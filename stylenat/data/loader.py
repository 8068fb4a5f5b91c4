"""Batches of images, read ahead by worker processes, in an order that the seed alone decides.

Position p in a training run's stream of images, counted over all ranks from 0, shows image
`permutation(seed, p // N)[p % N]` of N, flipped if a hash of (seed, p) is odd. If an image can't be
read, the next one of the epoch that can be read takes its place; after the last comes the first. So
neither the number of ranks or workers nor an interruption changes what a run sees.

Legend: B images of a batch, H height, W width, N images of the data set.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylenat.data.images import ImageError
from stylenat.data.plan import BatchPlan
from stylenat.data.pool import in_order
from stylenat.data.source import ImageSource, random_state
from stylenat.text import listed

Sample = tuple[int, bool]  # index, flipped
REPLACED = "another image is shown in its place"  # the end of a warning
Bad = dict[int, str]  # images that can't be read, by index: a sentence each


class Batch(NamedTuple):
    """Images, uint8 [B, H, W, 3], and their classes, int64 [B], if classes were asked for."""

    pixels_BHW3: Tensor
    labels_B: Tensor | None


log = logging.getLogger(__name__)


def training_batches(source: ImageSource, **settings: Any) -> Generator[Tensor, None, None]:
    """The images alone of `labelled_batches`, which takes the same settings."""
    return _pixels(labelled_batches(source, None, **settings))


def _pixels(batches: Generator[Batch, None, None]) -> Generator[Tensor, None, None]:
    with closing(batches):
        for batch in batches:
            yield batch.pixels_BHW3


def labelled_batches(
    source: ImageSource,
    labels_N: np.ndarray | None,
    *,
    seed: int,
    batch: int,
    start_nimg: int = 0,
    mirror: bool = True,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    max_bad: int = 100,
    pin_memory: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[Batch, None, None]:
    """This rank's share of each batch of an endless run: uint8 [batch / world_size, H, W, 3].

    With `labels_N`, the class of every image of the data set, it comes with those of its images.

    The run has seen `start_nimg` images, of all ranks, before. Rank r has samples r,
    r + world_size, ... of a batch. Half the images are mirrored. Each of `workers` processes reads
    ahead; with 0, this process reads. They end with the iterator, or with this process. No global
    random generator is used.

    An image that can't be read is named once, in the log (by other ranks than 0 in a warning), and
    replaced. Raises ValueError for a batch that the ranks can't share equally, and, later, one
    sentence for more than `max_bad` such images on this rank, or for one of another size; OSError
    and Interrupted (if `stopped` becomes true while a batch is waited for) as `in_order` does.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("batch", batch, 1),
        ("start_nimg", start_nimg, 0),
        ("workers", workers, 0),
        ("max_bad", max_bad, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}: {value}")
    plan = BatchPlan(batch, rank=rank, world_size=world_size)
    positions = (
        plan.own_share(range(first, first + batch)) for first in itertools.count(start_nimg, batch)
    )
    reader = _TrainingBatches(source, seed, labels_N, mirror=mirror, max_bad=max_bad)
    tell = log.warning if rank == 0 else warnings.warn  # the log is rank 0's
    loaded = _load(reader, positions, workers=workers, stopped=stopped)
    return _tolerating(loaded, source, max_bad, tell, pin_memory=pin_memory)


def read_batches(
    source: ImageSource, indices: Sequence[int], *, batch: int, workers: int = 2
) -> Generator[Tensor, None, None]:
    """The images of the indices, in order: uint8 [B, H, W, 3], `batch` at a time, then the rest.

    A batch has one size: where the size changes, another one begins. Raises ValueError, one
    sentence, for an image that can't be read, and OSError as `in_order` does.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1: {batch}")
    chosen = (indices[start : start + batch] for start in range(0, len(indices), batch))
    return _tensors(_load(_ChosenBatches(source), chosen, workers=workers))


def _tensors(loaded: Generator[list[np.ndarray], None, None]) -> Generator[Tensor, None, None]:
    with closing(loaded):
        for parts in loaded:
            yield from map(torch.from_numpy, parts)


def training_samples(
    positions: Iterable[int], seed: int, length: int, *, mirror: bool
) -> list[Sample]:
    """Which image of `length` stands at each position of the run, and whether it is flipped."""
    return [(_index_at(p, seed, length), mirror and _coin(seed, p)) for p in positions]


def _index_at(position: int, seed: int, length: int, step: int = 0) -> int:
    """The image at a position, or `step` places later in its epoch; after the last, the first."""
    epoch, place = divmod(position, length)
    return int(_permutation(seed, epoch, length)[(place + step) % length])


@functools.lru_cache(maxsize=2)  # a batch lies in one epoch or two; if few images, in many
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return random_state(seed, epoch).permutation(length)


def _coin(seed: int, position: int) -> bool:
    return bool(hashlib.blake2b(f"{seed} {position}".encode(), digest_size=1).digest()[0] & 1)


def _tolerating(
    loaded: Generator[Any, None, None],
    source: ImageSource,
    max_bad: int,
    tell: Callable[[str], None],
    *,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
    """The batches, until more than `max_bad` images can't be read; each of these is named once."""
    known: Bad = {}
    with closing(loaded):
        for batch_BHW3, labels_B, bad in loaded:
            for index in sorted(bad.keys() - known.keys()):
                tell(f"{bad[index]}; {REPLACED}")
            known |= bad
            if len(known) > max_bad:
                raise _too_many(known, source, max_bad)
            pixels = torch.from_numpy(batch_BHW3)
            labels = None if labels_B is None else torch.from_numpy(labels_B)
            yield Batch(pixels.pin_memory() if pin_memory else pixels, labels)


def _too_many(bad: Bad, source: ImageSource, max_bad: int) -> ValueError:
    if max_bad == 0:
        return ValueError(next(iter(bad.values())))
    return ValueError(
        f"{len(bad)} of {len(source):,} images can't be read, and at most {max_bad} may be "
        f"replaced: {listed(list(bad.values()))}; `stylenat prepare` makes a data set without them"
    )


def _load(
    reader: _Batches,
    batches: Iterable[Sequence[int]],
    *,
    workers: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[Any, None, None]:
    """What the reader gives for each batch; the processes start with the first batch."""
    with closing(in_order(_read, reader, batches, workers=workers, interrupted=stopped)) as read:
        yield from read


def _read(reader: _Batches, item: Sequence[int]) -> Any:
    return reader.read(item)


class _Batches(ABC):
    """Reads whole batches."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    @abstractmethod
    def read(self, item: Sequence[int]) -> Any: ...


class _ChosenBatches(_Batches):
    """Batches by the indices of their images, split where the size changes."""

    def read(self, item: Sequence[int]) -> list[np.ndarray]:
        images = [self.source.read(int(index)) for index in item]
        by_size = itertools.groupby(images, key=lambda image_HW3: image_HW3.shape)
        return [np.stack(list(same)) for _, same in by_size]


class _TrainingBatches(_Batches):
    """Batches by positions in the run: pixels, classes, and the images that could not be read."""

    def __init__(
        self,
        source: ImageSource,
        seed: int,
        labels_N: np.ndarray | None,
        *,
        mirror: bool,
        max_bad: int,
    ) -> None:
        super().__init__(source)
        self.seed, self.labels_N, self.mirror, self.max_bad = seed, labels_N, mirror, max_bad

    def read(self, item: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None, Bad]:
        bad: Bad = {}
        images = [self._image_at(position, bad) for position in item]
        flips = [self.mirror and _coin(self.seed, position) for position in item]
        # The classes of the images that are shown, which may stand in for others.
        shown = [index for index, _ in images]
        labels_B = None if self.labels_N is None else self.labels_N[shown]
        return self._stacked(images, flips), labels_B, bad

    def _stacked(self, images: list[tuple[int, np.ndarray]], flips: list[bool]) -> np.ndarray:
        """[B, H, W, 3] of indices and images. Raises ValueError unless they have one size."""
        (first, first_HW3), *_ = images
        batch_BHW3 = np.empty((len(images), *first_HW3.shape), np.uint8)
        for slot, (index, image_HW3), flipped in zip(batch_BHW3, images, flips, strict=True):
            if image_HW3.shape != slot.shape:
                (h, w), (height, width) = image_HW3.shape[:2], slot.shape[:2]
                raise ValueError(
                    f"images of one batch must have one size: {self.source.place(first)} is "
                    f"{width}x{height}, and {self.source.place(index)} is {w}x{h}"
                )
            slot[:] = image_HW3[:, ::-1] if flipped else image_HW3
        return batch_BHW3

    def _image_at(self, position: int, bad: Bad) -> tuple[int, np.ndarray]:
        """Index and pixels of the position's image, or of the epoch's next one that can be read."""
        count = len(self.source)
        for step in range(count):
            index = _index_at(position, self.seed, count, step)
            try:
                return index, self.source.read(index)
            except ImageError as error:
                bad[index] = str(error)
            if len(bad) > self.max_bad:
                break
        raise _too_many(bad, self.source, self.max_bad)
