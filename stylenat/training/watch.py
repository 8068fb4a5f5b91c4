"""Writes down the steps that were not taken, because a loss or gradient was NaN or infinite.

The optimizers decide on the device (`step_if_finite`). Here the same norms are read, one step
later, so that the process never waits for the step that it has just started.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stylenat.config import RunConfig
from stylenat.copies import Later
from stylenat.data import ImageSource
from stylenat.data.loader import training_samples
from stylenat.distributed import all_gather, is_main
from stylenat.training.run_folder import RunFolder, timestamp

MOST_IN_A_ROW = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """A step that has not been looked at yet."""

    step: int
    losses: dict[str, Tensor]
    is_taken: Later


class Watch:
    """Looks at every step, and writes those that were not taken to faults.jsonl."""

    def __init__(self, config: RunConfig, folder: RunFolder, source: ImageSource) -> None:
        self.config, self.folder, self.source = config, folder, source
        self.in_a_row = 0
        self.pending: _Step | None = None

    def record(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take in what step `step` reported, and look at the one before.

        A collective of all ranks. Raises ValueError as `check` does.
        """
        self.check()
        norms = [loss for name, loss in losses.items() if name.startswith("grad_norm")]
        self.pending = _Step(step, losses, Later(torch.stack(norms).isfinite().all()))

    def check(self) -> None:
        """Look at the last step, if that has not been done.

        A collective of all ranks. Raises ValueError if it is the tenth in a row that was not
        taken.
        """
        reported, self.pending = self.pending, None
        if reported is None:
            return
        if reported.is_taken.read():
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self._write_down(reported)
        if self.in_a_row >= MOST_IN_A_ROW:
            raise ValueError(
                f"training diverged: {self.in_a_row} steps in a row had a loss or gradient that is "
                f"not finite, the last one step {reported.step}, and were not taken; see "
                f"{self.folder.faults}; {self.folder.checkpoints} holds the last good state; lower "
                "train.lr_g and train.lr_d, or raise train.r1_gamma"
            )

    def _write_down(self, reported: _Step) -> None:
        of_ranks = all_gather(torch.stack(list(reported.losses.values())).float().reshape(1, -1))
        if not is_main():
            return
        values = torch.cat(of_ranks).T.tolist()
        losses = dict(zip(reported.losses, values, strict=True))
        strange = [name for name, of in losses.items() if not all(map(math.isfinite, of))]
        train = self.config.train
        positions = range(reported.step * train.batch, (reported.step + 1) * train.batch)
        samples = training_samples(
            positions, train.seed, len(self.source), mirror=self.config.data.mirror
        )
        self.folder.append_fault(
            {
                "time": timestamp(),
                "step": reported.step,
                "nimg": positions.start,
                "seed": train.seed,
                "in_a_row": self.in_a_row,
                "not_finite": strange,
                "losses": {name: list(map(_json_number, of)) for name, of in losses.items()},
                "images": [[index, self.source.name(index)] for index, _ in samples],
                "mirrored": [flipped for _, flipped in samples],
            }
        )
        log.warning(
            "step %d was not taken: %s not finite, %d in a row; its images and losses are in %s",
            reported.step,
            ", ".join(strange),
            self.in_a_row,
            self.folder.faults,
        )


def _json_number(value: float) -> float | str:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else str(value)
