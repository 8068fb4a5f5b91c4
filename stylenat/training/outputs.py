"""What rank 0 writes during a run. A full disk ends the run only if its work would be lost."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylenat import marks
from stylenat.config import RunConfig, TrainConfig
from stylenat.data import ImageSource
from stylenat.export import save_generator
from stylenat.files import replacing
from stylenat.metrics import Scores
from stylenat.models import Generator
from stylenat.sampling import contact_sheet, generate, save_sheet
from stylenat.training.augmenting import settle_signs
from stylenat.training.checkpoint import checkpoints, save_checkpoint
from stylenat.training.classes import grid_cells, grid_rows
from stylenat.training.run_folder import RunFolder
from stylenat.training.services import Services
from stylenat.training.state import TrainingState

MOST_FAILED_SAVES = 3  # in a row

PANELS = (
    ("losses", ("loss_d", "loss_g", "loss_consistency")),
    ("logits", ("real_logits", "fake_logits")),
    ("logits at one moment", ("trained_logits", "held_logits", "generated_logits")),
    ("gradient penalties, gradient norm", ("r1", "r2", "grad_norm_d")),
    ("learning rates", ("lr_g", "lr_d")),
    ("ADA: probability, mean sign of D", ("ada_p", "ada_r")),
)
LOGARITHMIC = ("gradient penalties, gradient norm",)

log = logging.getLogger(__name__)


class Outputs:
    """Writes checkpoints, samples, snapshots, scores and curves of the state as it is then."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        state: TrainingState,
        services: Services,
        data: dict[str, Any],
    ) -> None:
        self.config, self.folder, self.state, self.services = config, folder, state, services
        self.data = data
        self.failed_saves = 0

    def write_first_look(self, source: ImageSource, labels_N: np.ndarray | None) -> None:
        """Pictures of the data, and of what the generator makes before its first step."""
        path, classes = self.folder.reals, self.config.model.classes
        if labels_N is None:
            save_real_grid(source, self.config.train, path)
        else:
            save_grid_of_classes(source, labels_N, classes, self.config.train, path)
        save_grid(self.state.G_ema, self.config.train, self.folder.sample(0))

    def save(self, seconds: float, *, must_succeed: bool) -> None:
        """Write a checkpoint, with the seconds trained so far.

        If it cannot be written, the run goes on to the next one. Raises OSError if it must
        succeed, and if it is the third failure in a row.
        """
        settle_signs(self.state, self.config.train)
        content = {**self.state.state_dict(), "seconds": seconds, "data": self.data}
        try:
            save_checkpoint(
                self.folder.checkpoints, content, keep=self.config.train.keep_checkpoints
            )
        except OSError as error:
            self.failed_saves += 1
            if must_succeed or self.failed_saves >= MOST_FAILED_SAVES:
                raise
            log.warning(
                "no checkpoint at %.1f kimg: %s: %s; training goes on and tries again at the next "
                "(%d failed in a row; %d end it)",
                self.state.nimg / 1000,
                error.filename,
                error.strerror,
                self.failed_saves,
                MOST_FAILED_SAVES,
            )
        else:
            self.failed_saves = 0

    def save_before_an_error(self, seconds: float) -> None:
        """Write a checkpoint if there are new steps. A failure is logged, and not raised."""
        saved = checkpoints(self.folder.checkpoints)
        if self.state.nimg and (not saved or int(saved[0].stem) < self.state.nimg):
            with tolerating("the checkpoint"):
                self.save(seconds, must_succeed=True)

    def export(self, *, must_succeed: bool) -> None:
        """Write sample grid and snapshot. Raises OSError if the snapshot fails and must not."""
        config, state = self.config.train, self.state
        with tolerating("the samples"):
            save_grid(state.G_ema, config, self.folder.sample(state.nimg))
        with nullcontext() if must_succeed else tolerating("the snapshot"):
            save_snapshot(state.G_ema, self.folder, state.nimg, keep=config.keep_snapshots)

    def is_shown(self, *, is_measured: bool) -> bool:
        """Whether this state's snapshot was written, and its scores too if it is measured."""
        if not self.folder.snapshot(self.state.nimg).exists():
            return False
        return not is_measured or self.folder.is_measured(self.state.nimg)

    def keep_scores(self, scores: Scores) -> None:
        """Write scores and protocol to stats.jsonl; keep the snapshot if it is the best yet."""
        entry = {
            "step": self.state.step,
            "nimg": self.state.nimg,
            "metrics": dict(scores.values),
            "rank": scores.rank_by(self.config.metrics.names[0]),
            "protocol": dict(scores.protocol),
        }
        self.folder.append_stats(entry)
        self.services.add({"nimg": self.state.nimg, **scores.values})
        with tolerating("the best snapshot"):
            keep_if_best(self.folder.ranks(), self.folder.snapshot(self.state.nimg), self.folder)

    def draw(self) -> None:
        with tolerating("the curves"):
            draw_curves(self.folder.points(), self.folder.curves)

    def mark_stopped(self, reason: str) -> None:
        with tolerating("the file `stopped`"):
            self.folder.mark_stopped(reason, step=self.state.step, nimg=self.state.nimg)


@contextmanager
def tolerating(what: str) -> Iterator[None]:
    """Within the block an OSError becomes a warning, and training goes on."""
    try:
        yield
    except OSError as error:
        log.warning("%s could not be written: %s; training goes on", what, error.strerror or error)


# What is written.


def save_grid(generator: Generator, config: TrainConfig, path: Path) -> None:
    """A contact sheet of the average generator's images, always of seeds 0, 1, 2, ...

    With classes, it has at least a row per class of the first 32, each with the same seeds.
    """
    columns, rows = config.sample_grid
    classes, labels = generator.config.classes, None
    seeds: Sequence[int] = range(columns * rows)
    if classes:
        rows = grid_rows(rows, classes)
        labels, seeds = zip(*grid_cells(columns, rows, classes), strict=True)
    images = generate(
        generator,
        seeds,
        labels,
        batch=min(config.batch, 32),
        truncation_psi=config.sample_truncation_psi,
    )
    save_sheet(contact_sheet(torch.cat(list(images)), columns, rows), path)


def save_real_grid(source: ImageSource, config: TrainConfig, path: Path) -> None:
    """A contact sheet of images spread over the data set; a damaged one is replaced by the next."""
    columns, rows = config.sample_grid
    count = min(columns * rows, len(source))
    indices = [i * len(source) // count for i in range(count)]
    images = np.stack([source.read(source.readable(i)) for i in indices])
    save_sheet(contact_sheet(torch.from_numpy(images), columns, rows), path)


def save_grid_of_classes(
    source: ImageSource, labels_N: np.ndarray, classes: int, config: TrainConfig, path: Path
) -> None:
    """As `save_real_grid`, with a row per class; the cells of a class without images are black."""
    columns, rows = config.sample_grid[0], grid_rows(config.sample_grid[1], classes)
    empty = np.zeros_like(source.read(source.readable(0)))
    images = []
    for label, number in grid_cells(columns, rows, classes):
        of_class = np.flatnonzero(labels_N == label)
        if number >= len(of_class):
            images.append(empty)
            continue
        cells = min(len(of_class), columns * -(-rows // classes))
        index = int(of_class[number * len(of_class) // cells])
        images.append(source.read(source.readable(index)))
    save_sheet(contact_sheet(torch.from_numpy(np.stack(images)), columns, rows), path)


def save_snapshot(generator: Generator, folder: RunFolder, nimg: int, *, keep: int) -> Path:
    """Export the average generator, its w_avg included; the newest `keep` stay."""
    exported = copy.deepcopy(generator)
    exported.store_w_avg()
    path = folder.snapshot(nimg)
    save_generator(exported, path)
    folder.keep_snapshots(keep)
    return path


def keep_if_best(ranks: list[float], snapshot: Path, folder: RunFolder) -> None:
    """Copy the snapshot that was measured last to best.safetensors, unless another was better."""
    if ranks[-1] <= min(ranks) and snapshot.exists():
        with replacing(folder.best) as temporary:
            shutil.copyfile(snapshot, temporary)


def draw_curves(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw curves of the lines of stats.jsonl to a PNG, which is replaced atomically."""
    from matplotlib.figure import Figure

    metrics = sorted({name for entry in entries for name in entry.get("metrics", {})})
    panels = [*PANELS, *((name, (name,)) for name in metrics)]
    panels = [(title, names) for title, names in panels if _has_points(entries, names)]
    columns = min(3, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    for index, (title, names) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name in names:
            points = _points(entries, name)
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("kimg", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if title in LOGARITHMIC:
            axes.set_yscale("log")
        if len(names) > 1:
            axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={marks.KEY: marks.CURVES})


def _points(entries: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    flat = ({**entry, **entry.get("metrics", {})} for entry in entries)
    return [(entry["nimg"] / 1000, entry[name]) for entry in flat if name in entry]


def _has_points(entries: Sequence[dict[str, Any]], names: Sequence[str]) -> bool:
    return any(_points(entries, name) for name in names)
