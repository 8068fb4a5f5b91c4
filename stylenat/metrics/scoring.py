"""Scores of what a user names: a model, a run or images, against data; a run's own by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stylenat.choices import Filter
from stylenat.config import load_run_config
from stylenat.data import ImageSource, open_images
from stylenat.data.opening import FACES
from stylenat.files import user_path
from stylenat.layout import RunPaths
from stylenat.metrics.evaluate import Evaluator, check_settings
from stylenat.metrics.scores import Scores
from stylenat.sampling import compile_synthesis, is_model, load_model


@dataclass(frozen=True)
class Protocol:
    """How scores are measured: what `Evaluator` and `open_images` call by these names."""

    data: str | None = None
    resize: Filter | None = None
    max_images: int | None = None
    data_seed: int = 0
    metrics: Sequence[str] = ("fid",)
    num: int = 50_000
    mode: str = "legacy_pytorch"
    weights: str | Path | None = None
    reference: str | Path | None = None


def protocol_of(model: str, **given: object) -> Protocol:
    """What is given (not None), on top of the run's own settings if `model` belongs to a run.

    Its data settings hold for its own data; of other data, the seed of drawn faces.
    """
    given = {name: value for name, value in given.items() if value is not None}
    run = run_of(model)
    if run is None:
        return replace(Protocol(), **given)  # type: ignore[arg-type]
    config = load_run_config(run.config)
    own = Protocol(
        data_seed=config.data.seed,
        metrics=config.metrics.names or Protocol.metrics,
        num=config.metrics.num,
        mode=config.metrics.mode,
        weights=config.metrics.weights,
    )
    if "reference" not in given and given.get("data", config.data.path) == config.data.path:
        data = config.data
        own = replace(own, data=data.path, resize=data.resize, max_images=data.max_images)
    return replace(own, **given)  # type: ignore[arg-type]


def run_of(model: str) -> RunPaths | None:
    """The run folder that `model` is, or whose snapshot or checkpoint it is."""
    path = user_path(model)
    for run in (RunPaths(path), RunPaths(path.parent.parent)):
        if run.config.is_file() and run.checkpoints.is_dir():
            return run
    return None


def score(
    model: str,
    protocol: Protocol,
    *,
    device: torch.device,
    snapshot: str = "best",
    trust_weights: bool = False,
    truncation_psi: float = 1.0,
    seed: int = 0,
    batch: int = 32,
    workers: int = 2,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    tell: Callable[[str], None] = lambda remark: None,
) -> Scores:
    """Scores of a model (anything that `load_model` takes) or of a data set's images.

    Raises what `Evaluator`, `load_model` and `open_images` raise, and ValueError if what is no
    model shall be compiled. `tell` gets what a user should know of the images. To be called by all
    ranks.
    """
    check_settings(protocol.metrics, num=protocol.num, mode=protocol.mode, seed=seed)
    for path in (protocol.data, protocol.weights, protocol.reference):
        if path is not None and not str(path).startswith(FACES):
            user_path(str(path)).stat()  # raises OSError, before anything large is read
    generator = load_model(model, device, which=snapshot) if is_model(model) else None
    images = open_images(model) if generator is None else None
    if compiled:
        if generator is None:
            raise ValueError(f"--compile is for models, but {model} is a set of images")
        compile_synthesis(generator)
    side = None if generator is None else generator.resolution
    reference = _open_data(protocol, side, images)
    for source in (images, reference):
        for remark in source.remarks if source is not None else ():
            tell(remark)
    evaluator = Evaluator(
        protocol.metrics,
        reference,
        num=protocol.num,
        mode=protocol.mode,
        weights=protocol.weights,
        trust_weights=trust_weights,
        reference=protocol.reference,
        device=device,
        seed=seed,
        batch=batch,
        workers=workers,
    )
    if generator is not None:
        return evaluator(generator, truncation_psi=truncation_psi, dtype=dtype)
    assert images is not None
    return evaluator.score_images(images)


def _open_data(
    protocol: Protocol, side: int | None, images: ImageSource | None
) -> ImageSource | None:
    """The data, of the model's side; of the images' side, if data must be made of some size."""
    if protocol.data is None:
        return None
    if images is not None and (protocol.resize or protocol.data.startswith("faces:")):
        side = images.image(0).height
    return open_images(
        protocol.data,
        resolution=side,
        resize=protocol.resize,
        max_images=protocol.max_images,
        seed=protocol.data_seed,
    )
