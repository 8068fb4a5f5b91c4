"""The statistics of a run: a line for every `train.log_every_nimg` images, and for every pause.

Losses are averaged on the device. Their means are asked for when a line is due, and the line is
written one step later, when they have arrived, so that the process never waits for the step that it
has just started.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from stylenat.config import RunConfig
from stylenat.distributed import is_main
from stylenat.training.augmenting import ada_statistics
from stylenat.training.holdout import HeldOut
from stylenat.training.report import Averages, Clock, Means, TrainingBar, line_of, peak_memory_gb
from stylenat.training.run_folder import RunFolder
from stylenat.training.services import Services
from stylenat.training.state import TrainingState

log = logging.getLogger(__name__)


class Statistics:
    """Collects losses, and writes lines to stats.jsonl, the log, the bar and the services."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        services: Services,
        bar: TrainingBar,
        clock: Clock,
        held_out: HeldOut | None,
    ) -> None:
        self.config, self.folder, self.services = config, folder, services
        self.bar, self.clock, self.held_out = bar, clock, held_out
        self.averages = Averages()
        self.pending: tuple[dict[str, Any], Means] | None = None

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take in the losses of one step."""
        self.averages.add(losses)

    def begin_line(self, state: TrainingState) -> None:
        """Ask for the means since the last line, and keep the rest of the line until `write`.

        A collective of all ranks.
        """
        assert self.pending is None
        if self.held_out is not None:
            self.averages.add(self.held_out.logits(state, self.config.train))
        entry = {
            "step": state.step,
            "nimg": state.nimg,
            **ada_statistics(state),
            "lr_g": state.optimizer_g.param_groups[0]["lr"],
            "lr_d": state.optimizer_d.param_groups[0]["lr"],
            "images_per_second": self.clock.lap(state.nimg),
            "seconds": self.clock.seconds,
            "memory_gb": peak_memory_gb(state.G.const.device),
        }
        self.pending = entry, self.averages.take()

    def write(self) -> None:
        """Write the line that was begun, if one was. It waits only for its means."""
        if self.pending is None:
            return
        (begun, means), self.pending = self.pending, None
        place = ("step", "nimg")
        entry = {name: begun.pop(name) for name in place} | means.read() | begun
        line = line_of(entry, self.config.train.total_nimg)
        self.bar.show(entry["nimg"], text=line.split("  ", 1)[1].rsplit("  ", 1)[0])
        log.debug(line)
        if is_main():
            self.folder.append_stats(entry)
            self.services.add(entry)
