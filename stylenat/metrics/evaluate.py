"""Scores of a generator, or of other images, against a data set, and how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from stylenat.files import sha256_of, user_path
from stylenat.metrics import swd
from stylenat.metrics.collect import Collector, FeatureCollector, collect, generated, read
from stylenat.metrics.features import RESIZE, FeatureNetwork
from stylenat.metrics.reference import (
    PROTOCOL_VERSION,
    SUBSET_SEED,
    load_reference,
    reference_features,
    subset,
)
from stylenat.metrics.scores import Scores
from stylenat.metrics.swd import PatchCollector
from stylenat.metrics.table import (
    NETWORK_NEEDS,
    Collected,
    measure,
    require_enough,
    require_file_suffices,
    rows_of,
)
from stylenat.metrics.weights import find_weights
from stylenat.models import Generator
from stylenat.precision import name_of
from stylenat.sampling import SEED_LIMIT


class Evaluator:
    """Measures generators against one data set, whose statistics are taken once, when it is built.

    `metrics`: names from `choices.METRICS`. `num` images are generated and compared with `num`
    images of the data set, drawn with a fixed seed, or with all if it has fewer. None is mirrored.
    `mode`, `weights` and `trust_weights` choose the feature network (see `find_weights`).
    `reference` is an .npz file in place of `data`, only for fid. `seed` chooses other generated
    images: seed s takes the seeds from `s * num` on. `network` is a feature network that has been
    loaded before.

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
        network: FeatureNetwork | None = None,
    ) -> None:
        self.num, self.mode, self.seed, self.batch = num, mode, seed, batch
        self.device, self.workers, self.progress = torch.device(device), workers, progress
        check_settings(metrics, num=num, mode=mode, seed=seed)
        self.rows = rows_of(metrics)
        self.needs = {row.needs for row in self.rows}
        self._check_reference(data, reference)
        self.data, self.network = data, network
        if self.network is None and self.needs & NETWORK_NEEDS:
            found = find_weights(mode, weights, trust=trust_weights)
            self.network = FeatureNetwork(mode, found, self.device)
        if data is None:
            assert reference is not None
            assert self.network is not None
            file = user_path(reference)
            self.theirs = Collected(gaussian=load_reference(file, self.network))
            self.reference: dict[str, Any] = {"file": file.name, "sha256": sha256_of(file)}
        else:
            indices = subset(len(data), num)
            self.theirs = self._collect_reference(data, indices)
            self.reference = {**_about(data, indices), "mirror": False}

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
            "dtype": name_of(dtype),
            **({} if which is None else {"classes": which}),
        }
        return self._score(
            batches, self.num, generator.resolution, subject, "Generated images", stopped
        )

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
        indices = subset(len(images), self.num)
        require_enough(self.rows, len(indices), "of the images to be scored")
        subject = _about(images, indices)
        side = 0 if self.theirs.patches is None else swd.side_of(images)
        batches = read(images, indices, batch=self.batch, workers=self.workers)
        place = _places(images, indices)
        return self._score(batches, len(indices), side, subject, "Images", place=place)

    def _check_reference(self, data: ImageSource | None, reference: str | Path | None) -> None:
        if (data is None) == (reference is None):
            raise ValueError("scores need either a data set or a file of reference statistics")
        if data is None:
            require_file_suffices(self.rows)
        else:
            require_enough(self.rows, min(len(data), self.num), "of the data set")

    def _collect_reference(self, data: ImageSource, indices: Sequence[int]) -> Collected:
        patches = features = None
        # Patches come first, since SWD may refuse the images.
        if "patches" in self.needs:
            num = min(len(indices), swd.MOST_IMAGES)
            place, side = _places(data, indices), swd.side_of(data)
            patches = PatchCollector(side, num, seed=0, device=self.device, place=place)
            batches = read(data, indices[:num], batch=self.batch, workers=self.workers)
            collect(batches, num, [patches], description=self._bar("Data, patches"))
        if self.network is not None:
            features = reference_features(
                data,
                indices,
                self.network,
                keep=self._keeps_features,
                batch=self.batch,
                workers=self.workers,
                description=self._bar("Data, features"),
            )
        if features is None:
            return Collected(patches=patches)
        return Collected(features.gaussian, features.all_ND, patches)

    @property
    def _keeps_features(self) -> bool:
        return "features_ND" in self.needs

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
    ) -> Scores:
        patches = features = None
        collectors: list[Collector] = []
        if self.theirs.patches is not None:
            patches = self.theirs.patches.counterpart(side, num, place=place)
            collectors.append(patches)
        if self.network is not None:
            features = FeatureCollector(self.network, keep=self._keeps_features)
            collectors.append(features)
        bar = self._bar(description)
        collect(batches_BHW3, num, collectors, description=bar, stopped=stopped)
        ours = Collected(patches=patches)
        if features is not None:
            found = features.finish()
            ours = Collected(found.gaussian, found.all_ND, patches)
        values = measure(self.rows, ours, self.theirs)
        # Every rank gets the same bits, whatever its hardware.
        return Scores(from_main(values), self._protocol(subject))

    def _protocol(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        protocol: dict[str, Any] = {
            "stylenat_version": __version__,
            "version": PROTOCOL_VERSION,
            "images": dict(subject),
            "reference": dict(self.reference),
            "device": _device_name(self.device),
        }
        if self.network is not None:
            protocol["features"] = {
                "mode": self.mode,
                "resize": RESIZE[self.mode],
                "network_sha256": self.network.weights.sha256,
                "network_is_published": self.network.weights.is_published,
            }
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


def _about(images: ImageSource, indices: Sequence[int]) -> dict[str, Any]:
    """Which images these are, for the protocol."""
    return {
        "num": len(indices),
        "of": len(images),
        "fingerprint": images.fingerprint(),
        "subset_seed": SUBSET_SEED,
    }


def _places(images: ImageSource, indices: Sequence[int]) -> Callable[[int], str]:
    """A function: where the image at a position of `indices` is, for messages."""
    return lambda position: images.place(indices[position])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
