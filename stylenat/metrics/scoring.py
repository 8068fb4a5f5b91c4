"""Scores of a model, a run or images that a user names, against data; by default a run's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylenat.choices import Filter
from stylenat.config import load_run_config
from stylenat.data import ImageSource, class_labels, open_images
from stylenat.data.opening import FACES
from stylenat.data.source import SubsetSource
from stylenat.files import user_path
from stylenat.hub import is_hub_name
from stylenat.layout import RunPaths
from stylenat.metrics.evaluate import Evaluator, check_settings
from stylenat.metrics.features import CLASSES, takes_file
from stylenat.metrics.scores import Scores
from stylenat.metrics.table import TABLE
from stylenat.models import Generator
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
    """The settings that are given (not None), on top of the run's own if `model` belongs to a run.

    A run's data settings hold only for its own data; for other data, only the seed of drawn faces.
    Its file of weights holds only for the network that its own metrics read, if they read one.
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
    files = _files_of(given.get("metrics", own.metrics))  # type: ignore[arg-type]
    own_files = _files_of(own.metrics)
    if not files or (own_files and files != own_files):
        own = replace(own, weights=None)
    if "reference" not in given and given.get("data", config.data.path) == config.data.path:
        data = config.data
        own = replace(own, data=data.path, resize=data.resize, max_images=data.max_images)
    return replace(own, **given)  # type: ignore[arg-type]


def _files_of(metrics: Sequence[str]) -> set[str]:
    """The networks that these metrics read from files of weights; unknown names read none."""
    spaces = {TABLE[name].space for name in metrics if name in TABLE}
    return {space.removesuffix(CLASSES) for space in spaces if space and takes_file(space)}


def run_of(model: str) -> RunPaths | None:
    """The run folder that `model` is, or whose snapshot or checkpoint it is."""
    if is_hub_name(model):
        return None
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

    Raises what `Evaluator`, `load_model` and `open_images` raise, and ValueError if images are to
    be compiled. `tell` gets what a user should know of the images. All ranks must call this.
    """
    generator, images, reference = open_subject(
        model, protocol, device, seed=seed, snapshot=snapshot, compiled=compiled, tell=tell
    )
    evaluator = _evaluator(
        protocol,
        reference,
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


def score_classes(
    model: str,
    protocol: Protocol,
    *,
    device: torch.device,
    snapshot: str = "best",
    trust_weights: bool = False,
    truncation_psi: float = 1.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    compiled: bool = False,
    tell: Callable[[str], None] = lambda remark: None,
    **reading: int,
) -> dict[str, Scores]:
    """Scores of each class of a model, by its name or number: `num` images of that class against
    the data's images of it.

    `reading`: batch and workers. Raises as `score` does, and ValueError for a model without
    classes, data without labels, and a class with too few images.
    """
    generator, _, data = open_subject(
        model, protocol, device, seed=seed, snapshot=snapshot, compiled=compiled, tell=tell
    )
    if generator is None or not generator.config.classes:
        raise ValueError(f"--per-class is for models with classes, and {model} has none")
    if data is None or protocol.reference is not None:
        raise ValueError("--per-class needs a data set with labels, and no file of statistics")
    settings = generator.config
    labels_N = class_labels(data, settings.classes)
    names = settings.class_names or tuple(map(str, range(settings.classes)))
    scores, networks = {}, None
    for label, name in enumerate(names):
        try:
            evaluator = _evaluator(
                protocol,
                SubsetSource(data, np.flatnonzero(labels_N == label)),
                trust_weights=trust_weights,
                device=device,
                seed=seed,
                networks=networks,
                **reading,
            )
        except ValueError as error:
            raise ValueError(f"class {name}: {error}") from error
        networks = evaluator.networks
        scores[name] = evaluator(
            generator, truncation_psi=truncation_psi, dtype=dtype, of_class=label
        )
    return scores


def _evaluator(protocol: Protocol, data: ImageSource | None, **settings: Any) -> Evaluator:
    """An evaluator by this protocol."""
    return Evaluator(
        protocol.metrics,
        data,
        num=protocol.num,
        mode=protocol.mode,
        weights=protocol.weights,
        **settings,
    )


def open_subject(
    model: str,
    protocol: Protocol,
    device: torch.device,
    *,
    seed: int,
    snapshot: str,
    compiled: bool,
    tell: Callable[[str], None],
) -> tuple[Generator | None, ImageSource | None, ImageSource | None]:
    """The generator or the images to be scored, and the data, which a file may stand in for.

    Raises OSError and ValueError for what cannot be read, before anything large is.
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
    return generator, images, reference


def _open_data(
    protocol: Protocol, side: int | None, images: ImageSource | None
) -> ImageSource | None:
    """The data, in the model's size, or in the images' size if the data are scaled or drawn."""
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
