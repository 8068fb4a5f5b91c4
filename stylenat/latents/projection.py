"""Projection: the w whose image is most like a given picture.

The method is that of StyleGAN2 (arXiv 1912.04958, appendix D), without its noise maps, which this
generator does not have: from the mean of w, Adam with a rate that rises, stays and falls, and at
first noise on w. Pivotal tuning (arXiv 2106.05744) then changes the generator around the w found.

Legend: N pictures, L blocks, S style_dim, R resolution.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Steps
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylenat.choices import LatentSpace, ProjectionLoss
from stylenat.files import replacing
from stylenat.latents.loaded import LoadedModel
from stylenat.latents.perceptual import Distance, perceptual_distance
from stylenat.models import Generator
from stylenat.models.pixels import to_rgb
from stylenat.precision import DTYPES, autocast
from stylenat.sampling import render

LATENTS = 10_000  # for the mean and the spread of w
PAIRS = 32  # of the model's images, whose distance is the yardstick
NOISE, NOISE_UNTIL = 0.05, 0.75  # of the spread of w; the part of the steps that it lasts
RISE, FALL = 0.05, 0.25  # parts of the steps in which the rate rises, and falls
LR, TUNING_LR = 0.1, 3e-4
PIXELS_WEIGHT = 10.0  # of the mean squared error beside a perceptual distance
PATH_LENGTH = 60  # positions that are kept on the way
FAR = 0.18  # of the distance between two images of the model


@dataclass(frozen=True)
class ProjectionSettings:
    """`space`: one w for all blocks (w), or one for each (w+). `tune`: steps of pivotal tuning.

    Raises ValueError for a number of steps that is none.
    """

    space: LatentSpace = "w+"
    loss: ProjectionLoss = "effnet"
    steps: int = 300
    tune: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tune < 0:
            raise ValueError(
                f"a projection takes at least 1 step, and 0 or more to tune: {self.steps} and "
                f"{self.tune}"
            )


@dataclass(frozen=True)
class Quality:
    """How well one picture was found.

    `psnr` in dB. `distance`: the perceptual one, or of pixels the mean squared error, in units of
    the distance between two images that the model makes. `sigmas`: how far w is from the mean of w,
    in standard deviations; that of the model's own images is near 1.
    """

    psnr: float
    distance: float
    sigmas: float

    @property
    def is_far(self) -> bool:
        """Whether the picture is far from what the model makes, so that it was not found."""
        return self.distance > FAR


@dataclass(frozen=True)
class Projection:
    """What was found for N pictures: ws [N, L, S], images uint8 [N, R, R, 3], and on the way, at
    up to 60 moments, the ws [moments, N, L, S]. `generator` is the tuned one if it was tuned."""

    ws: Tensor
    images: Tensor
    path: Tensor
    qualities: tuple[Quality, ...]
    generator: Generator


@dataclass(frozen=True)
class Progress:
    """Where a search stands after `step` steps; 0 while it measures the model's own images.

    `psnr`: the mean so far, in dB. `images`: what the PSNR is of, RGB [N, 3, R, R] from -1 to 1
    but for what a generator makes beyond, of w with noise. `ws` [N, L, S] has no noise.
    """

    step: int
    psnr: float
    images: Tensor
    ws: Tensor


def project(
    model: LoadedModel,
    pictures_NRR3: Tensor,
    settings: ProjectionSettings,
    *,
    report: Callable[[int, float], None] = lambda steps, psnr: None,
) -> Projection:
    """Find the ws of pictures, uint8 [N, R, R, 3], all at once.

    `report` is called with 1 and the mean PSNR so far, in dB, after every step. Raises ValueError
    if the loss's network is not there, and for a class that the model does not have.
    """
    searching = search(model, pictures_NRR3, settings)
    while True:
        try:
            progress = next(searching)
        except StopIteration as end:
            found: Projection = end.value
            return found
        if progress.step:
            report(1, progress.psnr)


def search(
    model: LoadedModel, pictures_NRR3: Tensor, settings: ProjectionSettings
) -> Steps[Progress, None, Projection]:
    """What `project` does, one step at a time, so that a caller can show it, or end it.

    It yields what it has found so far, and returns the projection. Raises ValueError as `project`.
    """
    generator = model.generator.requires_grad_(False)
    distance = perceptual_distance(settings.loss, generator.const.device)
    problem = _Problem(generator, pictures_NRR3, distance, model.settings.dtype_name)
    mean_S, spread, yardstick = yield from _statistics(model, problem)

    # Find w.
    count = len(pictures_NRR3)
    length = generator.num_ws if settings.space == "w+" else 1
    ws_NLS = mean_S.expand(count, length, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([ws_NLS], lr=LR)
    random = torch.Generator().manual_seed(settings.seed)
    kept, path = _moments(settings.steps), [ws_NLS.detach().clone()]
    for step in range(settings.steps):
        part = step / settings.steps
        optimizer.param_groups[0]["lr"] = LR * _rate(part)
        noise = torch.randn(ws_NLS.shape, generator=random).to(ws_NLS)
        size = NOISE * spread * max(0.0, 1 - part / NOISE_UNTIL) ** 2
        loss, psnr, images = problem.loss((ws_NLS + size * noise).expand(-1, generator.num_ws, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield Progress(step + 1, psnr, images, ws_NLS.detach().expand(-1, generator.num_ws, -1))
        if step + 1 in kept:
            path.append(ws_NLS.detach().clone())
    ws_NLS = ws_NLS.detach()
    full_NLS = ws_NLS.expand(-1, generator.num_ws, -1).contiguous()

    # Fit the generator to them, if that is asked for; then measure.
    tuned = generator
    if settings.tune:
        tuned = yield from _tuned(problem, full_NLS, settings)
    problem = _Problem(tuned, pictures_NRR3, distance, model.settings.dtype_name)
    sigmas_N = (ws_NLS - mean_S).square().sum(-1).mean(-1).sqrt() / spread
    qualities = problem.qualities(full_NLS, sigmas_N, yardstick)
    with torch.no_grad():
        images = torch.cat([render(tuned, ws) for ws in full_NLS.split(model.settings.batch)])
    path_full = torch.stack(path).expand(-1, -1, generator.num_ws, -1).cpu()
    return Projection(full_NLS.cpu(), images, path_full, qualities, tuned)


class _Problem:
    """The pictures that a generator's images shall be like, and how alike they are."""

    def __init__(
        self, generator: Generator, pictures_NRR3: Tensor, distance: Distance | None, dtype: str
    ) -> None:
        self.generator, self.distance, self.dtype = generator, distance, DTYPES[dtype]
        pixels = pictures_NRR3.permute(0, 3, 1, 2).to(generator.const.device)
        self.pictures = pixels.to(torch.float32) / 127.5 - 1
        self.features: list[Tensor] = []
        if distance is not None:
            with torch.no_grad():
                self.features = distance.features(self.pictures)

    def images(self, ws_NLS: Tensor) -> Tensor:
        """RGB images [N, 3, R, R], -1 to 1 but for what a generator makes beyond."""
        with autocast(ws_NLS.device, self.dtype):
            images = self.generator.synthesis(ws_NLS)
        return to_rgb(images, self.generator.config.pixel_space)

    def loss(self, ws_NLS: Tensor) -> tuple[Tensor, float, Tensor]:
        """The sum over all pictures, whose gradients are independent; the mean PSNR; the images."""
        images = self.images(ws_NLS)
        errors_N = (images - self.pictures).square().mean((1, 2, 3))
        loss = PIXELS_WEIGHT * errors_N.sum()
        if self.distance is not None:
            loss = loss + self.distance.between(self.distance.features(images), self.features).sum()
        return loss, float(_psnr(errors_N.detach()).mean()), images.detach()

    def apart(self, images: Tensor, others: Tensor) -> Tensor:
        """The distance [N] that a projection is judged by: perceptual, or of pixels if none is."""
        if self.distance is None:
            return (images - others).square().mean((1, 2, 3))
        features = self.distance.features
        return self.distance.between(features(images), features(others))

    @torch.no_grad()
    def qualities(self, ws_NLS: Tensor, sigmas_N: Tensor, yardstick: float) -> tuple[Quality, ...]:
        images = self.images(ws_NLS).clamp(-1, 1)
        psnr_N = _psnr((images - self.pictures).square().mean((1, 2, 3)))
        apart_N = self.apart(images, self.pictures) / yardstick
        rows = zip(psnr_N.tolist(), apart_N.tolist(), sigmas_N.tolist(), strict=True)
        return tuple(Quality(*row) for row in rows)


@torch.no_grad()
def _statistics(
    model: LoadedModel, problem: _Problem
) -> Steps[Progress, None, tuple[Tensor, float, float]]:
    """The mean [S] of w, its spread, and the median distance between two images of the model."""
    generator = model.generator
    z, labels = generator.fixed_latents(LATENTS), None
    if model.classes is not None:
        # Each class as often as the others.
        labels = torch.tensor(model.classes, device=z.device).repeat(
            -(-LATENTS // len(model.classes))
        )
        labels = labels[:LATENTS]
    w_NS = generator.mapping(z, labels)
    mean_S = w_NS.mean(0)
    spread = float((w_NS - mean_S).square().sum(1).mean().sqrt())
    distances = []
    for w_2S in w_NS[: 2 * PAIRS].split(2):
        ws_2LS = w_2S[:, None].expand(-1, generator.num_ws, -1)
        images = problem.images(ws_2LS).clamp(-1, 1)
        distances.append(float(problem.apart(images[:1], images[1:])))
        yield Progress(0, 0.0, images, ws_2LS)
    return mean_S, spread, sorted(distances)[PAIRS // 2]


def _tuned(
    problem: _Problem, ws_NLS: Tensor, settings: ProjectionSettings
) -> Steps[Progress, None, Generator]:
    """A copy of the generator, changed so that these ws give the pictures more exactly."""
    generator = copy.deepcopy(problem.generator)
    problem = copy.copy(problem)
    problem.generator = generator
    parameters = [generator.const, *generator.levels.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=TUNING_LR)
    for step in range(settings.tune):
        loss, psnr, images = problem.loss(ws_NLS)
        optimizer.zero_grad()
        (loss / len(ws_NLS)).backward()
        optimizer.step()
        yield Progress(settings.steps + step + 1, psnr, images, ws_NLS)
    return generator.requires_grad_(False)


def _psnr(errors_N: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of images that reach from -1 to 1."""
    return -10 * torch.log10((errors_N / 4).clamp(min=1e-10))


def _rate(part: float) -> float:
    """The learning rate over the highest one, after this part of all steps."""
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - part) / FALL))
    return falling * min(1.0, max(part, 1e-3) / RISE)


def _moments(steps: int) -> frozenset[int]:
    """The steps after which a position is kept: at most 59, evenly spread, and the last."""
    count = min(steps, PATH_LENGTH - 1)
    return frozenset(round(steps * (moment + 1) / count) for moment in range(count))


def path_frames(model: LoadedModel, path: Tensor, generator: Generator) -> Iterator[Tensor]:
    """A film of the way, uint8 [R, N * R, 3] a frame: the pictures' images side by side."""
    for ws_NLS in path:
        images = [render(generator, ws) for ws in ws_NLS.split(model.settings.batch)]
        yield torch.cat(torch.cat(images).unbind(), dim=1)


def save_qualities(path: Path, names: Sequence[str], qualities: Sequence[Quality]) -> None:
    """Write how well each picture was found, as JSON; `path` is replaced atomically."""
    rows = {
        name: {**asdict(quality), "is_far": quality.is_far}
        for name, quality in zip(names, qualities, strict=True)
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
