"""Scores of a generator, or of other images, against a data set; with the protocol beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Generator as Batches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat import __version__
from stylenat.choices import METRICS, MODES
from stylenat.data import ImageSource
from stylenat.distributed import from_main
from stylenat.files import sha256_of, user_path
from stylenat.metrics import kid, precision_recall, swd
from stylenat.metrics.collect import (
    Collector,
    FeatureCollector,
    Features,
    PatchCollector,
    collect,
    generated,
    read,
)
from stylenat.metrics.features import RESIZE, FeatureNetwork
from stylenat.metrics.frechet import Gaussian, frechet_distance
from stylenat.metrics.reference import (
    PROTOCOL_VERSION,
    SUBSET_SEED,
    load_reference,
    reference_features,
    subset,
)
from stylenat.metrics.scores import Scores
from stylenat.metrics.weights import find_weights
from stylenat.models import Generator
from stylenat.sampling import SEED_LIMIT

FEWEST = {"fid": 2, "kid": 2, "pr": precision_recall.NEIGHBOURS + 1, "swd": 1}


class Evaluator:
    """Measures generators against one data set, whose own side is taken once, when it is built.

    `metrics` out of fid, kid, pr and swd. `num` images are generated and compared with `num` of the
    data set, drawn with a seed of their own; with all where it has fewer. No mirroring. `mode`,
    `weights` and `trust_weights` choose the feature network (see `find_weights`). `reference` is an
    .npz file in place of `data`, for fid alone. `seed` chooses other generated images: run s takes
    the seeds from `s * num`.

    To be built and called by all ranks of a process group together; every rank gets the same
    scores. Raises ValueError, before anything is generated, for an unknown metric, a network that
    is not there and cannot be fetched, too few images or too small ones, and OSError for a file
    that cannot be read.
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
    ) -> None:
        self.metrics = tuple(metrics)
        self.num, self.mode, self.seed, self.batch = num, mode, seed, batch
        self.device, self.workers, self.progress = torch.device(device), workers, progress
        self._check(data, reference)
        self.network: FeatureNetwork | None = None
        if set(self.metrics) - {"swd"}:
            found = find_weights(mode, weights, trust=trust_weights)
            self.network = FeatureNetwork(mode, found, self.device)
        self.reference: dict[str, Any] = {}
        self.gaussian: Gaussian | None = None
        self.features: Features | None = None
        self.patches: PatchCollector | None = None
        if data is None:
            assert reference is not None
            assert self.network is not None
            file = user_path(reference)
            self.gaussian = load_reference(file, self.network)
            self.reference = {"file": file.name, "sha256": sha256_of(file)}
        else:
            self._measure_reference(data)

    def __call__(
        self,
        generator: Generator,
        *,
        truncation_psi: float = 1.0,
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores:
        """Scores of `num` generated images, none of which is written anywhere.

        Raises Stopped, on all ranks, soon after `stopped` has become true on one of them.
        """
        first_seed = self.seed * self.num
        settings = {"truncation_psi": truncation_psi, "dtype": dtype}
        batches = generated(generator, first_seed, self.num, batch=batch or self.batch, **settings)
        subject = {
            "num": self.num,
            "seeds": f"{first_seed}-{first_seed + self.num - 1}",
            "seed_scheme": "torch",
            "truncation_psi": truncation_psi,
            "dtype": str(dtype).removeprefix("torch."),
        }
        return self._score(
            batches, self.num, generator.resolution, subject, "Generated images", stopped
        )

    def score_images(self, images: ImageSource) -> Scores:
        """Scores of a data set's images in place of generated ones: `num`, or all."""
        indices = subset(len(images), self.num)
        self._require_enough(len(indices), "of the images to be scored")
        subject = {
            "num": len(indices),
            "of": len(images),
            "fingerprint": images.fingerprint(),
            "subset_seed": SUBSET_SEED,
        }
        side = 0 if self.patches is None else _side(images)
        batches = read(images, indices, batch=self.batch, workers=self.workers)
        place = _places(images, indices)
        return self._score(batches, len(indices), side, subject, "Images", place=place)

    def _check(self, data: ImageSource | None, reference: str | Path | None) -> None:
        check_settings(self.metrics, num=self.num, mode=self.mode, seed=self.seed)
        if (data is None) == (reference is None):
            raise ValueError("scores need either a data set or a file of reference statistics")
        if data is None and self.metrics != ("fid",):
            raise ValueError(
                "reference statistics are for fid alone; kid, pr and swd need a data set: "
                f"{', '.join(self.metrics)}"
            )
        if data is not None:
            self._require_enough(min(len(data), self.num), "of the data set")

    def _require_enough(self, count: int, which: str) -> None:
        _require_enough(self.metrics, count, which)

    def _measure_reference(self, data: ImageSource) -> None:
        indices = subset(len(data), self.num)
        self.reference = {
            "num": len(indices),
            "of": len(data),
            "fingerprint": data.fingerprint(),
            "subset_seed": SUBSET_SEED,
            "mirror": False,
        }
        # First, since it may refuse the images.
        if "swd" in self.metrics:
            num = min(len(indices), swd.MOST_IMAGES)
            place = _places(data, indices)
            self.patches = PatchCollector(_side(data), num, seed=0, device=self.device, place=place)
            batches = read(data, indices[:num], batch=self.batch, workers=self.workers)
            collect(batches, num, [self.patches], description=self._bar("Data, swd"))
        if self.network is not None:
            self.features = reference_features(
                data,
                indices,
                self.network,
                keep=self._keeps_features,
                batch=self.batch,
                workers=self.workers,
                description=self._bar("Data, features"),
            )
            self.gaussian = self.features.gaussian

    @property
    def _keeps_features(self) -> bool:
        return bool({"kid", "pr"} & set(self.metrics))

    def _bar(self, description: str) -> str | None:
        return description if self.progress else None

    def _score(
        self,
        batches_B3HW: Batches[Tensor, None, None],
        num: int,
        side: int,
        subject: Mapping[str, Any],
        description: str,
        stopped: Callable[[], bool] = lambda: False,
        place: Callable[[int], str] = "image {}".format,
    ) -> Scores:
        collectors: list[Collector] = []
        features = patches = None
        if self.patches is not None:
            if side != (other := self.patches.resolution):
                raise ValueError(
                    f"swd takes images of one size: {side}x{side} against the data's "
                    f"{other}x{other}"
                )
            most = min(num, self.patches.num)
            patches = PatchCollector(side, most, seed=1, device=self.device, place=place)
            collectors.append(patches)
        if self.network is not None:
            features = FeatureCollector(self.network, keep=self._keeps_features)
            collectors.append(features)
        bar = self._bar(description)
        collect(batches_B3HW, num, collectors, description=bar, stopped=stopped)
        values = {} if features is None else self._feature_scores(features.finish())
        if patches is not None and self.patches is not None:
            values |= swd_scores(patches, self.patches)
        # To the last bit the same on every rank, whatever its hardware.
        return Scores(from_main(values), self._protocol(subject))

    def _feature_scores(self, features: Features) -> dict[str, float]:
        values = {}
        if "fid" in self.metrics:
            assert self.gaussian is not None
            values["fid"] = frechet_distance(features.gaussian, self.gaussian)
        if self._keeps_features:
            assert self.features is not None
            ours_ND, theirs_ND = features.all_ND, self.features.all_ND
            assert ours_ND is not None
            assert theirs_ND is not None
            if "kid" in self.metrics:
                values["kid"] = kid.kernel_distance(ours_ND, theirs_ND)
            if "pr" in self.metrics:
                precision, recall = precision_recall.precision_recall(ours_ND, theirs_ND)
                values |= {"precision": precision, "recall": recall}
        return values

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
        settings = {
            "kid": {"subsets": kid.SUBSETS, "subset_size": kid.SUBSET_SIZE, "seed": 0},
            "pr": {"k": precision_recall.NEIGHBOURS},
            "swd": {
                "images_at_most": swd.MOST_IMAGES,
                "patches_per_image": swd.PATCHES_PER_IMAGE,
                "directions": swd.DIRECTIONS,
            },
        }
        return protocol | {name: settings[name] for name in self.metrics if name in settings}


def check_settings(metrics: Sequence[str], *, num: int, mode: str, seed: int) -> None:
    """Raises ValueError for what can be refused before any network or image is there."""
    if not metrics:
        raise ValueError(f"there must be a metric: one or more of {', '.join(METRICS)}")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"unknown metric '{name}'; choose from {', '.join(METRICS)}")
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}: {mode}")
    _require_enough(metrics, num, "generated (num)")
    if seed < 0:
        raise ValueError(f"the seed must be at least 0: {seed}")
    if (seed + 1) * num > SEED_LIMIT["torch"]:
        raise ValueError(f"the seed is too large for {num:,} images: (seed + 1) * num > 2**63")


def _require_enough(metrics: Sequence[str], count: int, which: str) -> None:
    for name in metrics:
        if count < FEWEST[name]:
            raise ValueError(f"{name} takes at least {FEWEST[name]} images {which}: {count}")


def _places(images: ImageSource, indices: Sequence[int]) -> Callable[[int], str]:
    """Where the image at a position is, of those at `indices`."""
    return lambda position: images.place(indices[position])


def swd_scores(ours: PatchCollector, theirs: PatchCollector) -> dict[str, float]:
    """`swd_R` of every level R, times 1000, and `swd`, their mean; called by all ranks."""
    values = {
        f"swd_{side}": 1000
        * swd.sliced_wasserstein(ours.level(place, ours.num), theirs.level(place, ours.num), seed=0)
        for place, side in enumerate(ours.patches.resolutions)
    }
    return {"swd": sum(values.values()) / len(values), **values}


def _side(images: ImageSource) -> int:
    """The images' side. Raises ValueError unless the first one is square."""
    _, height, width = images.read(0).shape
    if height != width:
        raise ValueError(f"swd takes square images: the first one is {width}x{height}")
    return int(height)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
