"""What rank 0 writes as a run goes. A full disk ends it only where there would be nothing left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from stylenat.config import RunConfig
from stylenat.data import ImageSource
from stylenat.metrics import Scores
from stylenat.training import show
from stylenat.training.checkpoint import checkpoints, save_checkpoint
from stylenat.training.run_folder import RunFolder
from stylenat.training.services import Services
from stylenat.training.state import TrainingState

MOST_FAILED_SAVES = 3  # in a row

log = logging.getLogger(__name__)


class Outputs:
    """Checkpoints, samples, snapshots, scores and curves of the state as it is at each call."""

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

    @property
    def snapshot(self) -> Path:
        return self.folder.snapshots / f"{self.state.nimg:09d}.safetensors"

    def start(self, source: ImageSource) -> None:
        """A look at the data, and at what the networks make before the first step."""
        config, samples = self.config.train, self.folder.samples
        show.save_real_grid(source, config, samples / "reals.png")
        show.save_grid(self.state.G_ema, config, samples / f"{0:09d}.png")

    def save(self, seconds: float, *, must_succeed: bool) -> None:
        """A checkpoint, with the seconds trained so far.

        Where it cannot be written, the run goes on to the next one. Raises OSError where it must
        succeed, and the third time in a row.
        """
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
        """A checkpoint of the steps taken, if there are any new ones, whatever comes of it."""
        saved = checkpoints(self.folder.checkpoints)
        if self.state.nimg and (not saved or int(saved[0].stem) < self.state.nimg):
            with going_on_without("the checkpoint"):
                self.save(seconds, must_succeed=True)

    def show(self, *, must_succeed: bool) -> None:
        """The sample grid and the snapshot; raises OSError where the snapshot must succeed."""
        config, state = self.config.train, self.state
        with going_on_without("the samples"):
            show.save_grid(state.G_ema, config, self.folder.samples / f"{state.nimg:09d}.png")
        with nullcontext() if must_succeed else going_on_without("the snapshot"):
            show.save_snapshot(state.G_ema, self.folder, state.nimg, keep=config.keep_snapshots)

    def is_shown(self, *, is_measured: bool) -> bool:
        """Whether this state's snapshot was written, and its scores where it is measured."""
        if not self.snapshot.exists():
            return False
        return not is_measured or self.folder.is_measured(self.state.nimg)

    def keep_scores(self, scores: Scores) -> None:
        """A line in stats.jsonl, the protocol in it; the snapshot stays if it is the best yet."""
        entry = {
            "step": self.state.step,
            "nimg": self.state.nimg,
            "metrics": dict(scores.values),
            "rank": scores.rank_by(self.config.metrics.names[0]),
            "protocol": dict(scores.protocol),
        }
        self.folder.append_stats(entry)
        self.services.add({"nimg": self.state.nimg, **scores.values})
        with going_on_without("the best snapshot"):
            show.keep_if_best(self.folder.ranks(), self.snapshot, self.folder)

    def draw(self) -> None:
        with going_on_without("the curves"):
            show.draw_progress(self.folder)

    def mark_stopped(self, reason: str) -> None:
        with going_on_without("the file `stopped`"):
            self.folder.mark_stopped(reason, step=self.state.step, nimg=self.state.nimg)


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """An OSError of the block is a warning: training does not end for its sake."""
    try:
        yield
    except OSError as error:
        log.warning("%s could not be written: %s; training goes on", what, error.strerror or error)
