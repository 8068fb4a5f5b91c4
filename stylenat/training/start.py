"""What a run needs before its first step: a plan of the batch, data, metrics, a state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from stylenat.config import RunConfig
from stylenat.data import Batch, ImageSource, class_labels, labelled_batches, open_images
from stylenat.data.plan import BatchPlan
from stylenat.data.source import split_off
from stylenat.distributed import (
    broadcast_,
    from_main,
    is_main,
    rank,
    run_on_main,
    world_size,
)
from stylenat.machine import environment
from stylenat.metrics import Evaluator
from stylenat.precision import set_tf32
from stylenat.text import listed
from stylenat.training.checkpoint import checkpoints, load_checkpoint, newest_checkpoint
from stylenat.training.run_folder import RunFolder
from stylenat.training.state import NETWORKS, TrainingState, new_state, parameters_in_words
from stylenat.training.transfer import Transfer, plan_transfer

HOLDOUT_STREAM = 1  # beside data.seed, so that not the images of data.max_images are drawn again

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """The state that a run starts from, the seconds trained before, and the data it had then.

    `data` is what `identity_of` gave; empty for a new run, and for checkpoints that have none.
    """

    state: TrainingState
    seconds: float
    data: dict[str, Any]


def plan_of(config: RunConfig) -> BatchPlan:
    """How a step's images are dealt to the ranks that there are. Raises as `BatchPlan` does."""
    return BatchPlan(
        config.train.batch,
        config.train.batch_gpu,
        config.model.discriminator.stddev_group,
        rank(),
        world_size(),
    )


class TrainingImages(NamedTuple):
    """The data set: all images, those that steps are taken on, and those held out of training.

    `labels_N`: the class of each image that steps are taken on, if the model has classes.
    """

    all: ImageSource
    trained: ImageSource
    held_out: ImageSource | None
    labels_N: np.ndarray | None = None


def open_training_images(config: RunConfig) -> TrainingImages:
    """The data set. Raises ValueError or OSError if there is none, too few images, or labels that
    are not those of the model's classes."""
    if config.data.path is None:
        raise ValueError(
            "data.path is not set: give data.path=FOLDER, a zip that `stylenat prepare` made, an "
            "LMDB, or faces:50000"
        )
    source = open_images(
        config.data.path,
        resolution=config.model.generator.resolution,
        resize=config.data.resize,
        max_images=config.data.max_images,
        seed=config.data.seed,
    )
    images = TrainingImages(source, source, None)
    if config.data.holdout:
        count = max(1, round(config.data.holdout * len(source)))
        held_out, trained = split_off(source, count, config.data.seed, HOLDOUT_STREAM)
        images = TrainingImages(source, trained, held_out)
    if len(images.trained) < config.train.batch:
        without = "" if images.held_out is None else " without those of data.holdout"
        raise ValueError(
            f"{config.data.path}: {len(images.trained)} images{without} are fewer than "
            f"train.batch, {config.train.batch}"
        )
    if not config.model.classes:
        return images
    return images._replace(labels_N=class_labels(images.trained, config.model.classes))


def described(images: TrainingImages) -> Iterator[str]:
    """What a user should know of the data set: a sentence on each matter."""
    yield images.trained.describe()
    if images.held_out is not None:
        yield f"{images.held_out.describe()} are held out of training"
    yield from images.trained.remarks


def open_batches(
    config: RunConfig,
    plan: BatchPlan,
    images: TrainingImages,
    state: TrainingState,
    stopped: Callable[[], bool],
) -> Generator[Batch, None, None]:
    """This rank's images of every step after `state`, as `labelled_batches` gives them."""
    return labelled_batches(
        images.trained,
        images.labels_N,
        seed=config.train.seed,
        batch=plan.batch,
        start_nimg=state.nimg,
        mirror=config.data.mirror,
        rank=plan.rank,
        world_size=plan.world_size,
        workers=config.data.workers,
        max_bad=config.data.max_bad,
        pin_memory=next(state.G.parameters()).is_cuda,
        stopped=stopped,
    )


def make_evaluator(
    config: RunConfig, source: ImageSource, device: torch.device
) -> Evaluator | None:
    """What measures the average generator. If it cannot, that is raised now, not hours later."""
    if not config.metrics.names:
        return None
    metrics = config.metrics
    evaluator = Evaluator(
        metrics.names,
        source,
        num=metrics.num,
        mode=metrics.mode,
        weights=metrics.weights,
        device=device,
        batch=min(config.train.batch, 32),
        workers=config.data.workers,
    )
    for caution in evaluator.cautions(metrics.num) if is_main() else ():
        log.warning("metrics: %s", caution)
    return evaluator


def read_init_from(config: RunConfig, folder: RunFolder) -> Transfer | None:
    """What a new run takes from `train.init_from`; None on all ranks but the first.

    A run that has checkpoints continues from them: the model that it began with is not read again,
    and need no longer be there. Raises as `plan_transfer` does, on every rank.
    """
    transfers: list[Transfer | None] = [None]

    def read() -> None:
        if not checkpoints(folder.checkpoints):
            transfers[0] = plan_transfer(config)

    run_on_main(read)
    return transfers[0]


def newest_state(
    config: RunConfig, folder: RunFolder, device: torch.device, transfer: Transfer | None = None
) -> Start:
    """The newest whole checkpoint's state, or a fresh one with what it takes from a model."""
    state = new_state(config, device)
    path = run_on_main(lambda: newest_checkpoint(folder.checkpoints))
    if path is None:
        if config.train.init_from is not None:
            apply_on_all_ranks(transfer, state)
        return Start(state, 0.0, {})
    content = load_checkpoint(path)
    try:
        if "seconds" not in content:
            raise ValueError("the checkpoint has no seconds")
        state.load_state_dict(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    data = content.get("data")
    return Start(state, float(content["seconds"]), data if isinstance(data, dict) else {})


def apply_on_all_ranks(transfer: Transfer | None, state: TrainingState) -> None:
    """Copy what the first rank has read into every rank's networks, and log what was copied."""
    if transfer is not None:
        transfer.apply(state)
    for name in NETWORKS:
        broadcast_(getattr(state, name).state_dict().values())
    for line in from_main(None if transfer is None else transfer.report):
        log.info("init_from: %s", line)


def identity_of(source: ImageSource) -> dict[str, Any]:
    """What a checkpoint keeps of its data set, to notice when a run continues on another."""
    return {
        "title": source.title,
        "images": len(source),
        "fingerprint": source.fingerprint(),
    }


def warn_of_other_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn if a run continues on other images than those that it has seen."""
    if before and before.get("fingerprint") != now["fingerprint"]:
        was, found = (
            f"{data.get('title')}, {data.get('images')} images, fingerprint "
            f"{str(data.get('fingerprint'))[:16]}"
            for data in (before, now)
        )
        log.warning(
            "the data have changed since the last checkpoint: %s before, %s now; training goes on "
            "with what is there now",
            was,
            found,
        )


def described_start(
    config: RunConfig, plan: BatchPlan, images: TrainingImages, state: TrainingState, data: Any
) -> dict[str, Any]:
    """A line of starts.jsonl: when and where the run went on, on which data and machine."""
    return {
        "nimg": state.nimg,
        "data": {**data, "held_out": len(images.held_out or ())},
        "ranks": plan.world_size,
        "precision": config.train.precision,
        **environment(next(state.G.parameters()).device),
    }


def prepare_torch(config: RunConfig, state: TrainingState) -> None:
    """Set TF32 for the process, and compile the networks, as the config says.

    On a GPU, cuDNN also measures its algorithms for each new shape of a convolution, and keeps the
    fastest. Shapes stay the same throughout a run, but not those of ADA: it changes other images
    in each step.
    """
    set_tf32(allowed=config.train.tf32)
    if state.G.const.device.type == "cuda":
        torch.backends.cudnn.benchmark = config.train.augment != "ada"
    if config.train.compile:
        mode = "reduce-overhead" if config.train.cuda_graphs else None
        state.G.compile(mode=mode)
        state.D.compile(mode=mode)


def announce(
    config: RunConfig,
    plan: BatchPlan,
    images: TrainingImages,
    state: TrainingState,
    folder: RunFolder,
) -> None:
    """Log what is trained, on what and from where."""
    for name, optimizer in (("G", state.optimizer_g), ("D", state.optimizer_d)):
        log.info("%s: %s", name, parameters_in_words(getattr(state, name), optimizer))
    for sentence in described(images):
        log.info("data: %s", sentence)
    if images.labels_N is not None:
        unseen = np.setdiff1d(np.arange(config.model.classes), images.labels_N).astype(str)
        if len(unseen):
            log.warning("data: no training image is of class %s", listed(unseen.tolist()))
    log.info(
        "%d images per step on %d x %s, %s, to %g kimg, in %s",
        plan.batch,
        plan.world_size,
        next(state.G.parameters()).device.type,
        config.train.precision,
        config.train.total_kimg,
        folder.path,
    )
    if state.nimg:
        log.info("continuing from %.1f kimg", state.nimg / 1000)
