"""The sections of a run's configuration beside its networks: data, training, metrics.

Schedules count training images (nimg, or kimg where they are long): neither the world size nor the
batch changes what they mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from stylenat.choices import (
    METRICS,
    METRICS_IN_WORDS,
    Augmentation,
    AugmentSet,
    Filter,
    Mode,
    Precision,
)
from stylenat.config.plain import PathText
from stylenat.text import shown

MOST_SEED = 2**63 - 1
MOST_KIMG = 1e12  # the images of a run then still count in 64 bits
MOST_BATCH = 1_000_000
MOST_WORKERS = 1024
MOST_MEASURED = 100_000_000  # images


def _require(section: Any, rule: str, *names: str, ok: Any) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not (
            (isinstance(value, int) or math.isfinite(value)) and ok(value)
        ):
            raise ValueError(f"{name} must be {rule}: {value}")


def _is_length(kimg: float) -> bool:
    return 0 < kimg <= MOST_KIMG


def _require_path(section: Any, name: str) -> None:
    """Path("") would be the current folder, and no path holds a null character."""
    value = getattr(section, name)
    if value == "":
        raise ValueError(f"{name} must not be empty")
    if value is not None and "\0" in value:
        raise ValueError(f"{name} must not hold a null character: {shown(value)}")


def _require_seed(section: Any) -> None:
    _require(section, "at least 0 and below 2**63", "seed", ok=lambda n: 0 <= n <= MOST_SEED)


@dataclass(frozen=True)
class DataConfig:
    """Where the training images come from.

    `path` is a folder, a zip, an LMDB, a CIFAR archive, or `faces:N` for N drawn faces. Images must
    have the networks' size; with `resize` (a filter) any image is scaled and cropped to it while it
    is read. `mirror` flips half of them. `max_images` takes a random subset of that many. `seed`
    decides which faces are drawn, which images `max_images` takes, and which are held out.
    `holdout` is the share of the images that no step trains on: what D says of them, beside what it
    says of the others, shows when it knows the training images by heart.
    `workers` processes read ahead; 0 reads in the training process. Up to `max_bad` images that
    can't be read are replaced by others; more end the run.
    """

    path: PathText | None = None
    resize: Filter | None = None
    mirror: bool = True
    max_images: int | None = None
    holdout: float = 0.0
    seed: int = 0
    workers: int = 2
    max_bad: int = 100

    def __post_init__(self) -> None:
        _require(self, "at least 1", "max_images", ok=lambda n: n >= 1)
        _require(self, "at least 0 and below 1", "holdout", ok=lambda share: 0 <= share < 1)
        _require_seed(self)
        _require(self, f"0 to {MOST_WORKERS:,}", "workers", ok=lambda n: 0 <= n <= MOST_WORKERS)
        _require(self, "at least 0", "max_bad", ok=lambda n: n >= 0)
        _require_path(self, "path")

    @property
    def is_drawn(self) -> bool:
        """Whether `seed` decides which images there are."""
        is_drawn = (self.path or "").startswith("faces:")
        return is_drawn or self.max_images is not None or self.holdout > 0


@dataclass(frozen=True)
class ConsistencyConfig:
    """Balanced consistency regularisation (bCR, arXiv 2002.04724): weights of the two terms."""

    real_weight: float = 10.0
    fake_weight: float = 10.0

    def __post_init__(self) -> None:
        _require(self, "at least 0", "real_weight", "fake_weight", ok=lambda x: x >= 0)


@dataclass(frozen=True)
class AdaConfig:
    """Adaptive augmentation (ADA, arXiv 2006.06676), which `train.augment=ada` turns on.

    `transforms` is the set of transformations. Their probability p starts at 0. It rises while the
    mean sign of D's logits of real images is above `target`, and falls otherwise, fast enough to
    reach 1 in `speed_kimg` (None: 500, or 100 if the run begins with a model). It never exceeds
    `p_max`.
    """

    transforms: AugmentSet = "bgc"
    target: float = 0.6
    speed_kimg: float | None = None
    p_max: float = 0.8

    def __post_init__(self) -> None:
        _require(self, "-1 to 1", "target", ok=lambda x: -1 <= x <= 1)
        _require(self, f"positive and at most {MOST_KIMG:g}", "speed_kimg", ok=_is_length)
        _require(self, "above 0 and at most 1", "p_max", ok=lambda p: 0 < p <= 1)


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe; the defaults are the published one of FFHQ-256.

    `seed` is that of the first weights, of the noise and of the images' order.
    `batch` counts the images of all ranks; `batch_gpu`, the images that a rank sees at once,
    accumulates gradients where it is smaller than the rank's share. `loss` is `logistic`
    (non-saturating, as published) or `relativistic` (RpGAN, arXiv 2501.05441). `augment` is what D
    sees every image through: `diffaugment` (arXiv 2006.10738) or `ada`. Gradient penalties,
    R1 on real images and R2 on generated ones, are taken every `r1_every` steps, in a step of
    their own and with that weight, and D's rate and betas are corrected for it (lazy
    regularisation: StyleGAN2, arXiv 1912.04958, appendix B); at 1 they join D's own step. Learning
    rates fall linearly to 0 from `decay_from_kimg` to `total_kimg`. The average generator forgets
    half in `ema_halflife_nimg` images, or in `ema_rampup` times the images seen where that is less.
    `init_from` is a model that a new run's networks begin with, as far as their tensors agree: a
    published .pt, a run folder, a training state, an exported generator, a folder that holds
    `model.safetensors` and may hold `discriminator.safetensors`, or `hf:user/name`. Frozen parts do
    not train: `freeze_d` levels of D and `freeze_g_high` levels of G, both from the image down,
    `freeze_g_low` levels of G from 4x4 up, its constant among them, and G's mapping network.
    `class_transition_kimg`, two lengths: up to the first one training ignores the classes of the
    images, and their weight rises linearly up to the second (Transitional-cGAN, arXiv 2201.06578).
    """

    total_kimg: float = 32_000
    batch: int = 32
    batch_gpu: int | None = None
    seed: int = 0
    init_from: PathText | None = None
    freeze_d: int = 0
    freeze_g_low: int = 0
    freeze_g_high: int = 0
    freeze_mapping: bool = False
    class_transition_kimg: tuple[float, float] | None = None

    loss: Literal["logistic", "relativistic"] = "logistic"
    consistency: ConsistencyConfig | None = ConsistencyConfig()
    augment: Augmentation = "none"
    ada: AdaConfig = AdaConfig()
    r1_gamma: float = 10.0
    r2_gamma: float = 0.0
    r1_every: int = 16
    grad_clip_d: float | None = 5.0

    lr_g: float = 5e-5
    lr_d: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.99
    decay_from_kimg: float | None = 24_800
    ema_halflife_nimg: float = 10_000
    ema_rampup: float | None = None

    precision: Precision = "float32"
    tf32: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    log_every_nimg: int = 4_000
    snapshot_every_kimg: float = 200
    keep_snapshots: int = 5
    keep_checkpoints: int = 2
    sample_grid: tuple[int, int] = (8, 8)
    sample_truncation_psi: float = 1.0
    wandb: Literal["off", "online", "offline"] = "off"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        batches = ("batch", "batch_gpu")
        _require(self, f"1 to {MOST_BATCH:,}", *batches, ok=lambda n: 1 <= n <= MOST_BATCH)
        counts = ("r1_every", "log_every_nimg")
        kept = ("keep_snapshots", "keep_checkpoints")
        _require(self, "at least 1", *counts, *kept, ok=lambda n: n >= 1)
        positive = ("lr_g", "lr_d", "grad_clip_d", "ema_rampup")
        _require(self, "positive", *positive, ok=lambda x: x > 0)
        lengths = ("total_kimg", "snapshot_every_kimg")
        _require(self, f"positive and at most {MOST_KIMG:g}", *lengths, ok=_is_length)
        _require_seed(self)
        frozen = ("freeze_d", "freeze_g_low", "freeze_g_high")
        _require(self, "at least 0", *frozen, ok=lambda n: n >= 0)
        not_negative = ("r1_gamma", "r2_gamma", "ema_halflife_nimg", "decay_from_kimg")
        _require(self, "at least 0", *not_negative, ok=lambda x: x >= 0)
        _require(self, "at least 0 and below 1", "beta1", "beta2", ok=lambda x: 0 <= x < 1)
        _require(self, "finite", "sample_truncation_psi", ok=lambda _: True)
        _require_path(self, "init_from")
        if self.init_from is not None and self.ema_rampup is not None:
            raise ValueError(
                "ema_rampup must be null with train.init_from, since a short average at the start "
                f"would forget the model's: {self.ema_rampup}"
            )
        self._check_transition()
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs must be false without train.compile: true")
        if min(self.sample_grid) < 1 or math.prod(self.sample_grid) > 10_000:
            raise ValueError(
                f"sample_grid must be columns and rows, 1 to 10,000 images: {self.sample_grid}"
            )

    def _check_transition(self) -> None:
        if self.class_transition_kimg is None:
            return
        first, last = self.class_transition_kimg
        if not 0 <= first < last <= MOST_KIMG:
            raise ValueError(
                "class_transition_kimg must be null, or two lengths from 0 up, the second above "
                f"the first: {list(self.class_transition_kimg)}"
            )

    @property
    def total_nimg(self) -> int:
        return round(self.total_kimg * 1000)


@dataclass(frozen=True)
class MetricsConfig:
    """What is measured during training; the first metric chooses the best snapshot.

    `names` out of `choices.METRICS`, `num` generated images, every `every_kimg`, and at the end.
    """

    names: tuple[str, ...] = ()
    every_kimg: float = 1000
    num: int = 50_000
    mode: Mode = "legacy_pytorch"
    weights: PathText | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in METRICS:
                raise ValueError(f"unknown metric {shown(name)}; choose from {METRICS_IN_WORDS}")
        _require(self, f"positive and at most {MOST_KIMG:g}", "every_kimg", ok=_is_length)
        _require(self, f"2 to {MOST_MEASURED:,}", "num", ok=lambda n: 2 <= n <= MOST_MEASURED)
        _require_path(self, "weights")
