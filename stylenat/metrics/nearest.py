"""Images beside the data: which training image is nearest to each, and which look most real.

Legend: N images, M images of the data, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.choices import Space
from stylenat.data import ImageSource
from stylenat.distributed import is_main
from stylenat.metrics.collect import bar_of, read
from stylenat.metrics.features import FeatureNetwork, open_network
from stylenat.metrics.precision_recall import distances_in_chunks, nearest_others, realism
from stylenat.metrics.reference import about, reference_features, subset
from stylenat.metrics.scoring import Protocol, open_subject
from stylenat.metrics.table import neighbors, rows_of
from stylenat.models import Generator
from stylenat.sampling import contact_sheet, generate, save_sheet

FEWEST = 4  # of the data: each half needs a nearest other image
SHEET_IMAGES, SHEET_COLUMNS = 64, 8


@dataclass(frozen=True)
class Nearest:
    """The nearest image of the data to each of N images.

    `indices_N` of the data, `distances_N` to it, and `others_N`: how far that image of the data is
    from its own nearest other one. All distances are between features.
    """

    indices_N: Tensor
    distances_N: Tensor
    others_N: Tensor

    @cached_property
    def share(self) -> float:
        """The share of images that are nearer to an image of the data than any other image of the
        data is to that one (arXiv 2102.08921, section 3.3: 1 minus authenticity)."""
        return float((self.distances_N < self.others_N).double().mean())

    @cached_property
    def order(self) -> list[int]:
        """The images, those first that are nearest for what surrounds them."""
        return (self.distances_N / self.others_N.clamp(min=1e-12)).argsort().tolist()


def nearest(images_ND: Tensor, data_MD: Tensor) -> Nearest:
    """The nearest image of the data to each image, by their features.

    Raises ValueError for fewer than 2 images of the data.
    """
    if len(data_MD) < 2:
        raise ValueError(f"nearest takes at least 2 images of the data: {len(data_MD)}")
    center_D = data_MD.mean(dim=0)
    images_ND, data_MD = images_ND - center_D, data_MD - center_D
    distances_N = images_ND.new_full((len(images_ND),), torch.inf)
    indices_N = torch.zeros(len(images_ND), dtype=torch.int64, device=images_ND.device)
    for rows, columns, distances in distances_in_chunks(images_ND, data_MD):
        found = distances.min(dim=1)
        is_nearer = found.values < distances_N[rows]
        distances_N[rows] = torch.where(is_nearer, found.values, distances_N[rows])
        indices_N[rows] = torch.where(is_nearer, found.indices + columns.start, indices_N[rows])
    others_M = nearest_others(data_MD, 1)
    return Nearest(indices_N, distances_N, others_M[indices_N])


def share_among_data(data_MD: Tensor) -> float:
    """What `Nearest.share` is for images that are no copies: one half of the data, drawn with a
    fixed seed, against the other half.

    Raises ValueError for fewer than 4 images.
    """
    if len(data_MD) < FEWEST:
        raise ValueError(f"nearest takes at least {FEWEST} images of the data: {len(data_MD)}")
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data_MD)))
    halves = order.to(data_MD.device).tensor_split(2)
    return nearest(data_MD[halves[0]], data_MD[halves[1]]).share


class Subject:
    """The images that are looked at: generated ones, seed by seed, or those of a data set."""

    def __init__(
        self,
        generator: Generator | None,
        source: ImageSource | None,
        *,
        num: int,
        seed: int,
        truncation_psi: float,
    ) -> None:
        self.generator, self.source, self.truncation_psi = generator, source, truncation_psi
        if generator is not None:
            self.numbers: Sequence[int] = range(seed * num, (seed + 1) * num)
        else:
            assert source is not None
            self.numbers = subset(len(source), num)

    def name(self, position: int) -> str:
        """`seed 3`, or the place of an image."""
        number = self.numbers[position]
        return f"seed {number}" if self.source is None else self.source.place(number)

    def batches(
        self, positions: Sequence[int], *, batch: int = 32, workers: int = 0
    ) -> Iterator[Tensor]:
        """uint8 pixels [B, H, W, 3] of the images at these positions."""
        numbers = [self.numbers[position] for position in positions]
        if self.generator is None:
            assert self.source is not None
            return read(self.source, numbers, batch=batch, workers=workers)
        classes = self.generator.config.classes
        labels = [number % classes for number in numbers] if classes else None
        return generate(
            self.generator, numbers, labels, batch=batch, truncation_psi=self.truncation_psi
        )


@dataclass(frozen=True)
class Looks:
    """A model's images and all images of the data, in one space of features."""

    network: FeatureNetwork
    subject: Subject
    images_ND: Tensor
    data: ImageSource
    indices: list[int]  # of the data, in the order of data_MD
    data_MD: Tensor

    def nearest_sheet(self, found: Nearest, pairs: int, *, columns: int) -> Tensor:
        """The `pairs` images that are nearest to the data for what surrounds them, each with the
        data's image on its right: uint8 [H', W', 3]."""
        order = found.order[:pairs]
        rows = found.indices_N[order].tolist()
        ours = torch.cat([*self.subject.batches(order)])
        theirs = torch.cat([*read(self.data, [self.indices[i] for i in rows], batch=32, workers=0)])
        if ours.shape != theirs.shape:
            height, width = theirs.shape[1:3]
            raise ValueError(
                f"images must have the data's size, {height}x{width}, to stand beside them: "
                f"{ours.shape[1]}x{ours.shape[2]}; give --resize"
            )
        return contact_sheet(torch.stack([ours, theirs], dim=1).flatten(0, 1), 2 * columns)

    def protocol(self) -> dict[str, Any]:
        """How the features were taken, for JSON."""
        return {
            "space": self.network.kind,
            "network_sha256": self.network.weights.sha256,
            "network_is_published": self.network.weights.is_published,
            "images": {
                "num": len(self.images_ND),
                "truncation_psi": self.subject.truncation_psi,
                "first": self.subject.name(0),
            },
            "data": about(self.data, self.indices),
        }


def look(
    model: str,
    protocol: Protocol,
    *,
    space: Space,
    device: torch.device,
    trust_weights: bool = False,
    snapshot: str = "best",
    truncation_psi: float = 1.0,
    seed: int = 0,
    batch: int = 32,
    workers: int = 2,
    tell: Callable[[str], None] = lambda remark: None,
) -> Looks:
    """The features of `protocol.num` images of a model, or of a data set, and of all the data.

    Raises as `open_subject` and `open_network` do, and ValueError without data.
    """
    if protocol.data is None:
        raise ValueError("--data must name the images to look beside")
    generator, source, data = open_subject(
        model, protocol, device, seed=seed, snapshot=snapshot, compiled=False, tell=tell
    )
    assert data is not None
    network = open_network(space, protocol.mode, device, protocol.weights, trust=trust_weights)
    reading: dict[str, Any] = {"batch": batch, "workers": workers}
    indices = subset(len(data), len(data))
    reference = reference_features(
        data, indices, network, keep=True, description="Data, features", **reading
    )
    assert reference.all_ND is not None
    subject = Subject(generator, source, num=protocol.num, seed=seed, truncation_psi=truncation_psi)
    features = []
    batches = subject.batches(range(len(subject.numbers)), **reading)
    with closing(batches), bar_of("Images", len(subject.numbers)) as advance:  # type: ignore[type-var]
        for images_BHW3 in batches:
            features.append(network(images_BHW3))
            advance(len(images_BHW3))
    return Looks(network, subject, torch.cat(features), data, indices, reference.all_ND)


def write_realism_sheet(model: str, protocol: Protocol, path: Path, **settings: Any) -> list[str]:
    """Write the first 64 images as a sheet, the most real first; and a line that says which.

    Realism is that of arXiv 1904.06991, equation 4, in the space of the first metric that has one:
    1 and above lies on the data's manifold. `settings` are those of `look`. Called by all ranks.
    Raises as `look`, and ValueError if no metric compares features with data.
    """
    spaces = [row.space for row in rows_of(protocol.metrics) if row.compares and row.space]
    if not spaces:
        raise ValueError(
            "a ranking needs a score that compares features, such as fid or pr_effnet_lite0: "
            f"{', '.join(protocol.metrics)}"
        )
    space: Any = spaces[0]
    few = replace(protocol, num=min(protocol.num, SHEET_IMAGES))
    looks = look(model, few, space=space, **settings)
    realism_N = realism(looks.images_ND, looks.data_MD, k=neighbors(space))
    order = realism_N.argsort(descending=True).tolist()
    images_NHW3 = torch.cat([*looks.subject.batches(order)])
    if is_main():
        save_sheet(contact_sheet(images_NHW3, min(SHEET_COLUMNS, len(order))), path)
    ends = (f"{looks.subject.name(i)} ({float(realism_N[i]):.2f})" for i in (order[0], order[-1]))
    return [f"{path}: {len(order)} images, from {' to '.join(ends)} by realism"]
