"""Scores of a generator, or of other images, against a data set, and how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Batches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat import __version__
from stylenat.choices import MODES
from stylenat.data import ImageSource, class_labels
from stylenat.data.source import random_state
from stylenat.distributed import from_main
from stylenat.metrics import swd
from stylenat.metrics.collect import (
    Collector,
    FeatureCollector,
    bar_of,
    collect,
    generated,
    read,
)
from stylenat.metrics.features import KINDS, FeatureNetwork, open_network, takes_file
from stylenat.metrics.path_length import Walk
from stylenat.metrics.reference import PROTOCOL_VERSION, about, collect_reference, places, subset
from stylenat.metrics.scores import Scores
from stylenat.metrics.table import (
    Collected,
    Metric,
    cautions,
    keeps_all,
    measure,
    require_enough,
    require_file_suffices,
    rows_of,
)
from stylenat.models import Generator
from stylenat.precision import for_images, name_of
from stylenat.sampling import SEED_LIMIT


class Evaluator:
    """Measures generators against one data set, whose statistics are taken once, when it is built.

    `metrics`: names from `choices.METRICS`. `num` images are generated and compared with `num`
    images of the data set, drawn with a fixed seed, or with all if it has fewer. None is mirrored.
    `mode` chooses between the networks of Inception. `weights` is a file for the one network that
    the metrics need, and `trust_weights` lets it be a program (see `find_weights`). `reference` is
    an .npz file in place of `data`, for Fréchet distances alone. Metrics that compare nothing need
    neither. `seed` chooses other generated images: seed s takes the seeds from `s * num` on.
    `networks` are feature networks that have been loaded before, by space.

    A generator with classes makes images of classes drawn from those of the data, or of all classes
    equally often if the data have none, or of one class.

    All ranks of a process group must build and call it together; every rank gets the same scores.
    Raises ValueError, before anything is generated, for an unknown metric, a network that can
    neither be found nor downloaded, too few images or too small ones, and OSError for a file that
    cannot be read.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        data: ImageSource | None,
        *,
        num: int = 50_000,
        mode: str = "legacy_pytorch",
        weights: str | Path | None = None,
        trust_weights: bool = False,
        reference: str | Path | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        batch: int = 32,
        workers: int = 2,
        progress: bool = True,
        networks: Mapping[str, FeatureNetwork] | None = None,
    ) -> None:
        self.num, self.mode, self.seed, self.batch = num, mode, seed, batch
        self.device, self.workers, self.progress = torch.device(device), workers, progress
        check_settings(metrics, num=num, mode=mode, seed=seed)
        self.rows = rows_of(metrics)
        self.data = data
        self._check_reference(reference)
        self.networks = dict(networks or self._open_networks(weights, trust_weights))
        self.theirs, self.reference = collect_reference(
            self.rows,
            self.networks,
            data,
            reference,
            num=num,
            batch=batch,
            workers=workers,
            device=self.device,
            bar=self._bar,
        )

    def __call__(
        self,
        generator: Generator,
        *,
        truncation_psi: float = 1.0,
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
        of_class: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores:
        """Scores of `num` generated images, of one class if it is given. No image is written.

        Raises Stopped, on all ranks, soon after `stopped` has become true on one of them.
        """
        first_seed = self.seed * self.num
        settings = {"truncation_psi": truncation_psi, "dtype": dtype}
        labels, which = self._labels(generator.config.classes, of_class)
        batches = generated(
            generator, first_seed, self.num, labels, batch=batch or self.batch, **settings
        )
        subject = {
            "num": self.num,
            "seeds": f"{first_seed}-{first_seed + self.num - 1}",
            "seed_scheme": "torch",
            "truncation_psi": truncation_psi,
            "dtype": name_of(for_images(dtype, self.device)),
            **({} if which is None else {"classes": which}),
        }
        walk = Walk(
            generator,
            num=self.num,
            first_seed=first_seed,
            labels=labels,
            truncation_psi=truncation_psi,
            batch=batch or self.batch,
            bar=lambda total: bar_of(self._bar("Path lengths"), total),
            stopped=stopped,
        )
        side = generator.resolution
        return self._score(batches, self.num, side, subject, "Generated images", stopped, walk=walk)

    def _labels(
        self, classes: int, of_class: int | None
    ) -> tuple[list[int] | None, str | int | None]:
        """The class of each generated image, and how they were chosen, for the protocol."""
        if not classes:
            return None, None
        if of_class is not None:
            return [of_class] * self.num, of_class
        if self.data is None or self.data.label(0) is None:
            return [position % classes for position in range(self.num)], "all equally often"
        labels_N = class_labels(self.data, classes)
        drawn = random_state(self.seed).randint(len(labels_N), size=self.num)
        return labels_N[drawn].tolist(), "as in the data"

    def score_images(self, images: ImageSource) -> Scores:
        """Scores of a data set's images in place of generated ones: `num`, or all."""
        walks = [row.name for row in self.rows if row.needs == "walk"]
        if walks:
            raise ValueError(f"{walks[0]} is measured inside a model, and these are images")
        indices = subset(len(images), self.num)
        require_enough(self.rows, len(indices), "of the images to be scored")
        subject = about(images, indices)
        side = 0 if self.theirs.patches is None else swd.side_of(images)
        batches = read(images, indices, batch=self.batch, workers=self.workers)
        place = places(images, indices)
        return self._score(batches, len(indices), side, subject, "Images", place=place)

    def _check_reference(self, reference: str | Path | None) -> None:
        if self.data is not None and reference is not None:
            raise ValueError("scores need either a data set or a file of reference statistics")
        if self.data is not None:
            require_enough(self._comparing, min(len(self.data), self.num), "of the data set")
        elif reference is not None:
            require_file_suffices(self.rows)
        elif self._comparing:
            raise ValueError(
                f"{self._comparing[0].name} needs a data set or a file of reference statistics to "
                "compare with"
            )

    @property
    def _comparing(self) -> list[Metric]:
        return [row for row in self.rows if row.compares]

    def _open_networks(
        self, weights: str | Path | None, trust: bool
    ) -> Iterator[tuple[str, FeatureNetwork]]:
        """The feature networks of the metrics, by space."""
        spaces = [space for space in dict.fromkeys(row.space for row in self.rows) if space]
        with_file = [space for space in spaces if takes_file(space)]
        if weights is not None and len(with_file) != 1:
            raise ValueError(
                f"the weights {weights} must be for one network, and the metrics "
                f"{', '.join(row.name for row in self.rows)} read {len(with_file)}: measure them "
                "one by one, or put the files into the cache"
            )
        for space in spaces:
            file = weights if space in with_file else None
            yield space, open_network(space, self.mode, self.device, file, trust=trust)

    def cautions(self, num: int) -> list[str]:
        """What one should know before trusting the scores of `num` images, a sentence each."""
        fewer = min(num, (self.reference or {}).get("num", num))
        dims = {space: network.dim for space, network in self.networks.items()}
        return cautions(self.rows, fewer, dims)

    def _bar(self, description: str) -> str | None:
        return description if self.progress else None

    def _score(
        self,
        batches_BHW3: Batches[Tensor, None, None],
        num: int,
        side: int,
        subject: Mapping[str, Any],
        description: str,
        stopped: Callable[[], bool] = lambda: False,
        place: Callable[[int], str] = "image {}".format,
        walk: Walk | None = None,
    ) -> Scores:
        patches = None
        collectors: list[Collector] = []
        if self.theirs.patches is not None:
            patches = self.theirs.patches.counterpart(side, num, place=place)
            collectors.append(patches)
        features = {
            space: FeatureCollector(network, keep=keeps_all(self.rows, space))
            for space, network in self.networks.items()
        }
        collectors += features.values()
        if collectors:
            bar = self._bar(description)
            collect(batches_BHW3, num, collectors, description=bar, stopped=stopped)
        found = {space: collector.finish() for space, collector in features.items()}
        values = measure(self.rows, Collected(found, patches), self.theirs, walk)
        # Every rank gets the same bits, whatever its hardware.
        return Scores(from_main(values), self._protocol(subject))

    def _protocol(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        protocol: dict[str, Any] = {
            "stylenat_version": __version__,
            "version": PROTOCOL_VERSION,
            "images": dict(subject),
            "device": _device_name(self.device),
        }
        if self.reference is not None:
            protocol["reference"] = dict(self.reference)
        if self.networks:
            protocol["features"] = {
                space: {
                    **({"mode": self.mode} if space.startswith("inception") else {}),
                    "resize": KINDS[network.kind].resize,
                    "network_sha256": network.weights.sha256,
                    "network_is_published": network.weights.is_published,
                }
                for space, network in self.networks.items()
            }
        if found := self.cautions(subject["num"]):
            protocol["cautions"] = found
        return protocol | {row.name: dict(row.settings) for row in self.rows if row.settings}


def check_settings(metrics: Sequence[str], *, num: int, mode: str, seed: int) -> None:
    """Raises ValueError for settings that can be refused without a network or an image."""
    rows = rows_of(metrics)
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}: {mode}")
    require_enough(rows, num, "generated (num)")
    if seed < 0:
        raise ValueError(f"the seed must be at least 0: {seed}")
    if (seed + 1) * num > SEED_LIMIT["torch"]:
        raise ValueError(f"the seed is too large for {num:,} images: (seed + 1) * num > 2**63")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
