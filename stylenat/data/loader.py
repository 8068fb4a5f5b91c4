"""Batches of images, read ahead by worker processes, in an order that depends on nothing else.

Position p in a training run's stream of images, counted over all ranks from 0, shows image
`permutation(seed, p // N)[p % N]` of N, flipped if a hash of (seed, p) is odd. So neither the
number of ranks or workers nor where a run was interrupted changes what it sees.

Legend: B images of a batch, H height, W width.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stylenat.data.source import ImageSource, random_state

Sample = tuple[int, bool]  # index, flipped
PREFETCHED_BATCHES = 2  # a worker; they lie in shared memory, of which a container has little


def training_batches(
    source: ImageSource,
    *,
    seed: int,
    batch: int,
    start_nimg: int = 0,
    mirror: bool = True,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    pin_memory: bool = False,
) -> Generator[Tensor, None, None]:
    """This rank's share of each batch of an endless run: uint8 [batch / world_size, 3, H, W].

    The run has seen `start_nimg` images, of all ranks, before. Rank r has samples r,
    r + world_size, ... of a batch. Half the images are mirrored. Each of `workers` processes reads
    ahead; 0 reads in this one. Closing the iterator ends them. Draws from no global generator.

    Raises ValueError for a batch that the ranks can't share equally, and, later, one sentence for
    an image that can't be read.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("batch", batch, 1),
        ("start_nimg", start_nimg, 0),
        ("workers", workers, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}: {value}")
    if batch % world_size:
        raise ValueError(
            f"the batch must be a multiple of the number of ranks: {batch} on {world_size}"
        )
    assert 0 <= rank < world_size
    batches = (
        training_samples(range(p + rank, p + batch, world_size), seed, len(source), mirror=mirror)
        for p in itertools.count(start_nimg, batch)
    )
    return _load(source, batches, workers=workers, pin_memory=pin_memory)


def read_batches(
    source: ImageSource, indices: Sequence[int], *, batch: int, workers: int = 2
) -> Generator[Tensor, None, None]:
    """The images of the indices, in order: uint8 [B, 3, H, W], `batch` at a time, then the rest.

    Raises ValueError, one sentence, for an image that can't be read or differs in size from others
    of its batch.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1: {batch}")
    batches = (
        [(int(index), False) for index in indices[start : start + batch]]
        for start in range(0, len(indices), batch)
    )
    return _load(source, batches, workers=workers, pin_memory=False)


def training_samples(
    positions: Iterable[int], seed: int, length: int, *, mirror: bool
) -> list[Sample]:
    """Which image of `length` stands at each position of the run, and whether it is flipped."""
    return [
        (int(_permutation(seed, p // length, length)[p % length]), mirror and _coin(seed, p))
        for p in positions
    ]


@functools.lru_cache(maxsize=2)  # batches lie in one epoch, or two; of a tiny data set, in many
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return random_state(seed, epoch).permutation(length)


def _coin(seed: int, position: int) -> bool:
    return bool(hashlib.blake2b(f"{seed} {position}".encode(), digest_size=1).digest()[0] & 1)


def _load(
    source: ImageSource, batches: Iterable[list[Sample]], *, workers: int, pin_memory: bool
) -> Generator[Tensor, None, None]:
    loader = DataLoader(
        _Batches(source),
        batch_size=None,  # each item is a batch
        sampler=_Given(batches),
        collate_fn=_unchanged,
        num_workers=workers,
        worker_init_fn=_outlive_signals,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws a seed: not from the global generator
    )
    # The workers end with the loader's iterator, which this frame alone holds.
    for item in _naming_lost_workers(loader):
        if isinstance(item, Exception):
            raise item
        yield item


def _naming_lost_workers(loader: DataLoader) -> Iterator[Tensor | Exception]:
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that reads images was lost, for want of memory perhaps: {error}; lower "
            "data.workers"
        ) from error


class _Batches(Dataset[Tensor | Exception]):
    """Reads whole batches. An image's error is a result, since raised in a worker it would arrive
    as that worker's traceback."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, samples: list[Sample]) -> Tensor | Exception:
        try:
            return self._read(samples)
        except (ValueError, OSError) as error:
            return error.with_traceback(None)

    def _read(self, samples: list[Sample]) -> Tensor:
        images = [self.source.read(index) for index, _ in samples]
        batch_B3HW = np.empty((len(images), *images[0].shape), np.uint8)
        for slot, image_3HW, (index, flipped) in zip(batch_B3HW, images, samples, strict=True):
            if image_3HW.shape != slot.shape:
                (h, w), (height, width) = image_3HW.shape[1:], slot.shape[1:]
                first, this = self.source.place(samples[0][0]), self.source.place(index)
                raise ValueError(
                    f"images of one batch must have one size: {first} is {width}x{height}, and "
                    f"{this} is {w}x{h}"
                )
            slot[:] = image_3HW[..., ::-1] if flipped else image_3HW
        return torch.from_numpy(batch_B3HW)


class _Given(Sampler[list[Sample]]):
    """Batches that are known beforehand, or made when they are asked for."""

    def __init__(self, batches: Iterable[list[Sample]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.batches)


def _outlive_signals(_: int) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, reach all processes at once; the main one ends these."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _unchanged(item: Any) -> Any:
    return item
