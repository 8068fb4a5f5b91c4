"""One pass over images, generated or read, that collects what metrics need from all ranks.

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
from stylenat.distributed import all_gather, all_reduce_sum_, interleaved, own_share
from stylenat.metrics.features import FeatureNetwork
from stylenat.metrics.frechet import Gaussian, Moments
from stylenat.models import Generator as Network
from stylenat.progress import progress_bar
from stylenat.sampling import generate


class Collector(Protocol):
    """Takes batches of uint8 images [B, H, W, 3] and their positions among all images.

    Tensors on `device` can be exchanged between ranks: NCCL takes only tensors on a GPU.
    """

    device: torch.device

    def add(self, images_BHW3: Tensor, positions: Sequence[int]) -> None: ...


class Stopped(Exception):
    """A pass over images ended before its end, on all ranks, because one of them was told to."""


@dataclass(frozen=True)
class Features:
    """Features of all ranks' images: their Gaussian, and all of them, [N, D] float32, if kept."""

    count: int
    gaussian: Gaussian
    all_ND: Tensor | None


class FeatureCollector:
    """Collects the features of images, as the feature network gives them."""

    def __init__(self, network: FeatureNetwork, *, keep: bool) -> None:
        self.network = network
        self.device = network.device
        self.moments = Moments(network.dim, network.device)
        self.kept: list[Tensor] | None = [] if keep else None

    def add(self, images_BHW3: Tensor, positions: Sequence[int]) -> None:
        features_BD = self.network(images_BHW3)
        self.moments.add(features_BD)
        if self.kept is not None:
            self.kept.append(features_BD)

    def finish(self) -> Features:
        """Called by all ranks, once."""
        kept_ND = None
        if self.kept is not None:
            empty = torch.empty(0, self.network.dim, device=self.device)
            kept_ND = interleaved(all_gather(torch.cat([empty, *self.kept])))
        gaussian = self.moments.gaussian()
        return Features(int(self.moments.count), gaussian, kept_ND)


def collect(
    batches_BHW3: Generator[Tensor, None, None],
    num: int,
    collectors: Sequence[Collector],
    *,
    description: str | None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Feed this rank's batches of `num` images; a progress bar if there is a description.

    Whatever reads the batches has ended when this returns or raises.
    Raises Stopped, on all ranks, if `stopped` was true on one of them between two batches.
    """
    positions = own_share(range(num))
    seen, is_stopped = 0, False
    with closing(batches_BHW3), bar_of(description, len(positions)) as advance:
        for images_BHW3 in batches_BHW3:
            own = positions[seen : seen + len(images_BHW3)]
            for collector in collectors:
                collector.add(images_BHW3, own)
            seen += len(images_BHW3)
            advance(len(images_BHW3))
            if is_stopped := stopped():
                break
    counts = torch.tensor([seen, is_stopped], device=collectors[0].device)
    total, ranks_stopped = map(int, all_reduce_sum_(counts))
    if ranks_stopped:
        raise Stopped
    assert total == num, f"{num} images were asked for, and {total} came"


def bar_of(description: str | None, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar of this many steps; none if there is no description."""
    if description is None:
        return nullcontext(lambda steps: None)
    return progress_bar(description, total)


def generated(
    network: Network,
    first_seed: int,
    num: int,
    labels: Sequence[int] | None = None,
    *,
    batch: int,
    **settings: Any,
) -> Generator[Tensor, None, None]:
    """This rank's share of `num` generated images, uint8 [B, H, W, 3]: seeds from `first_seed`.

    `labels` are the classes of all of them, if the network has classes.
    """
    seeds = [first_seed + position for position in own_share(range(num))]
    own_labels = None if labels is None else own_share(labels)
    yield from generate(network, seeds, own_labels, batch=batch, **settings)


def read(
    source: ImageSource, indices: Sequence[int], *, batch: int, workers: int
) -> Generator[Tensor, None, None]:
    """This rank's share of the data set's images at `indices`, uint8 [B, H, W, 3], in order."""
    return read_batches(source, own_share(indices), batch=batch, workers=workers)
