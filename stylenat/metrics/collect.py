"""One pass over images, generated or read: what the metrics need of them, gathered from all ranks.

Image i of all (its position) is seen by rank `i % world_size`; results are in the order of the
positions, and the same for every batch size and number of ranks.

Legend: B batch, H height, W width, N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stylenat.data import ImageSource, read_batches
from stylenat.distributed import all_gather, all_reduce_sum_, rank, world_size
from stylenat.metrics.features import FeatureNetwork
from stylenat.metrics.frechet import Gaussian, Moments
from stylenat.metrics.swd import Patches, normalised
from stylenat.models import Generator as Network
from stylenat.progress import progress_bar
from stylenat.sampling import generate


class Collector(Protocol):
    """Takes in batches of uint8 images [B, 3, H, W] with their positions among all."""

    def add(self, images_B3HW: Tensor, positions: Sequence[int]) -> None: ...


class Stopped(Exception):
    """A pass over images ended before its end, on all ranks, because one of them was told to."""


@dataclass(frozen=True)
class Features:
    """Of all ranks' images: their Gaussian, and where asked for all of them, [N, D] float32."""

    count: int
    gaussian: Gaussian
    all_ND: Tensor | None


class FeatureCollector:
    """The feature network's view of the images."""

    def __init__(self, network: FeatureNetwork, *, keep: bool) -> None:
        self.network = network
        self.moments = Moments(network.dim, network.device)
        self.kept: list[Tensor] | None = [] if keep else None

    def add(self, images_B3HW: Tensor, positions: Sequence[int]) -> None:
        features_BD = self.network(images_B3HW)
        self.moments.add(features_BD)
        if self.kept is not None:
            self.kept.append(features_BD)

    def finish(self) -> Features:
        """Called by all ranks, once."""
        kept_ND = None
        if self.kept is not None:
            empty = torch.empty(0, self.network.dim, device=self.network.device)
            kept_ND = interleaved(all_gather(torch.cat([empty, *self.kept])))
        gaussian = self.moments.gaussian()
        return Features(int(self.moments.count), gaussian, kept_ND)


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

    def add(self, images_B3HW: Tensor, positions: Sequence[int]) -> None:
        height, width = images_B3HW.shape[2:]
        if (height, width) != (self.resolution, self.resolution):
            raise ValueError(
                f"swd takes images of one size, {self.resolution}x{self.resolution}: "
                f"{self.place(positions[0])} is {width}x{height}; make them one size with "
                "`stylenat prepare`"
            )
        first = [place for place, position in enumerate(positions) if position < self.num]
        if first:
            taken_B3HW = images_B3HW[first].to(self.device)
            self.patches.add(taken_B3HW, [positions[place] for place in first])

    def level(self, place: int, num: int) -> Tensor:
        """This rank's part of the first `num` images' patches [N, D] at a level, normalised by all
        ranks' mean and deviation; called by all ranks."""
        taken = self.patches.first(place, len(own_positions(num)))
        return normalised(taken.to(self.device))


def own_positions(num: int) -> range:
    """The positions that this rank sees."""
    return range(rank(), num, world_size())


def interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Ranks' rows, each at the positions of its rank, in the order of the positions."""
    whole = parts[0].new_empty(sum(len(part) for part in parts), *parts[0].shape[1:])
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


def collect(
    batches_B3HW: Generator[Tensor, None, None],
    num: int,
    collectors: Sequence[Collector],
    *,
    description: str | None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Feed this rank's batches of `num` images; a progress bar where there is a description.

    Whatever reads the batches has ended when this returns or raises.
    Raises Stopped, on all ranks, where `stopped` was true on one of them between two batches.
    """
    positions = own_positions(num)
    seen, is_stopped = 0, False
    with closing(batches_B3HW), _bar(description, len(positions)) as advance:
        for images_B3HW in batches_B3HW:
            own = positions[seen : seen + len(images_B3HW)]
            for collector in collectors:
                collector.add(images_B3HW, own)
            seen += len(images_B3HW)
            advance(len(images_B3HW))
            if is_stopped := stopped():
                break
    counts = torch.tensor([seen, is_stopped], device=_collective_device(collectors))
    total, ranks_stopped = map(int, all_reduce_sum_(counts))
    if ranks_stopped:
        raise Stopped
    assert total == num, f"{num} images were asked for, and {total} came"


def _bar(description: str | None, total: int) -> AbstractContextManager[Callable[[int], None]]:
    if description is None:
        return nullcontext(lambda steps: None)
    return progress_bar(description, total)


def _collective_device(collectors: Sequence[Collector]) -> torch.device:
    """Where ranks can talk to each other: NCCL takes tensors on a GPU alone."""
    for collector in collectors:
        if isinstance(collector, FeatureCollector):
            return collector.network.device
        if isinstance(collector, PatchCollector):
            return collector.device
    return torch.device("cpu")


def generated(
    network: Network, first_seed: int, num: int, *, batch: int, **settings: Any
) -> Generator[Tensor, None, None]:
    """This rank's share of `num` generated images, uint8 [B, 3, H, W]: seeds from `first_seed`."""
    seeds = [first_seed + position for position in own_positions(num)]
    for images_BHW3 in generate(network, seeds, batch=batch, **settings):
        yield images_BHW3.permute(0, 3, 1, 2).contiguous()


def read(
    source: ImageSource, indices: Sequence[int], *, batch: int, workers: int
) -> Generator[Tensor, None, None]:
    """This rank's share of the data set's images at `indices`, uint8 [B, 3, H, W], in order."""
    own = [int(indices[position]) for position in own_positions(len(indices))]
    return read_batches(source, own, batch=batch, workers=workers)
