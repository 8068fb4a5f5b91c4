"""Counts what would make the process wait for a GPU in steps of training; as a program, on ranks.

    torchrun --nproc-per-node 2 -m tests.training.waits FOLDER

On a CPU nothing waits, but the same operations run. A value that a `Later` has brought to the host
may be looked at, if its copy began in a step before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylenat.copies import Later
from stylenat.distributed import process_group
from stylenat.training import loop
from tests.training.tiny import tiny

# What gives the host a value, or has a shape that depends on values.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "is_pinned")
STEPS = 6


class Waits(TorchDispatchMode):
    """For each step, the operations that ask for a value of this very step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = -1
        self.found: dict[int, list[str]] = {}
        self.here: set[int] = set()  # memory of values that came to the host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in ASKING or masks:
            self.note(name, args[0])
        return func(*args, **(kwargs or {}))

    def note(self, name: str, tensor: Tensor) -> None:
        if tensor.untyped_storage().data_ptr() not in self.here:
            self.found.setdefault(self.step, []).append(name)


@contextmanager
def counting() -> Iterator[Waits]:
    """Within the block steps of `loop.train` are watched, with the optimizer that GPUs have."""
    waits = Waits()
    new, read, to_list = Later.__init__, Later.read, Tensor.tolist
    newest_state, next_batch = loop.newest_state, loop.Run.next_batch

    def new_later(later: Any, tensor: Tensor) -> None:
        new(later, tensor)
        later.since = waits.step

    def read_later(later: Any) -> Tensor:
        if later.since == waits.step:
            waits.found.setdefault(waits.step, []).append("Later.read")
        value = read(later)
        later.kept = value  # so that its memory is not used again
        waits.here.add(value.untyped_storage().data_ptr())
        return value

    def noted_list(tensor: Tensor) -> Any:
        waits.note("tolist", tensor)
        return to_list(tensor)

    def fused_state(*arguments: Any) -> Any:
        start = newest_state(*arguments)
        for optimizer in (start.state.optimizer_g, start.state.optimizer_d):
            optimizer.defaults["fused"] = optimizer.param_groups[0]["fused"] = True
        return start

    def counted_batch(run: Any, batches: Any) -> Any:
        waits.step += 1
        return next_batch(run, batches)

    with (
        mock.patch.object(Later, "__init__", new_later),
        mock.patch.object(Later, "read", read_later),
        mock.patch.object(Tensor, "tolist", noted_list),
        mock.patch.object(loop, "newest_state", fused_state),
        mock.patch.object(loop.Run, "next_batch", counted_batch),
        waits,
    ):
        yield waits


def waits_of_a_run(folder: Path, **train: object) -> dict[int, list[str]]:
    """What each step but the last waits for; the last one saves."""
    settings = {"total_kimg": STEPS * 8 / 1000, "snapshot_every_kimg": 1, **train}
    with counting() as waits:
        assert loop.train(tiny(train=settings), folder, torch.device("cpu")) is None
    assert waits.step == STEPS - 1
    return {step: names for step, names in waits.found.items() if 0 <= step < STEPS - 1}


def main() -> None:
    with process_group(torch.device("cpu")):
        found = waits_of_a_run(Path(sys.argv[1]))
        assert not found, found


if __name__ == "__main__":
    main()
