"""Trains on a disk that is full for a while.

    python -m tests.training.fill_disk FOLDER WHOLE_RUN

FOLDER lies on a small file system; WHOLE_RUN holds the same run from a disk with room.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from stylenat.training import loop
from stylenat.training.checkpoint import checkpoints, newest_checkpoint
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import tiny

# Sixteen steps, a checkpoint every fourth. Two of these are not taken; stats.jsonl meanwhile grows
# over the 4096 bytes that such a file system gives out at once.
SETTINGS = {"total_kimg": 0.128, "snapshot_every_kimg": 0.032}
FULL_FROM_STEP, FREE_FROM_STEP = 6, 14


def main() -> None:
    folder, whole = map(Path, sys.argv[1:])
    filler = folder / "filler"

    def filling(state, *arguments: object, d_step=loop.d_step):
        if state.step == FULL_FROM_STEP:
            fill(filler)
        if state.step == FREE_FROM_STEP:
            # While it was full: the old checkpoint is there, and no part of any file.
            run = folder / "run"
            newest = newest_checkpoint(run / "checkpoints")
            assert newest is not None
            assert newest.stem == "000000032"
            assert not list(run.rglob("*.tmp"))
            filler.unlink()
        return d_step(state, *arguments)

    loop.d_step = filling
    config = tiny(train=SETTINGS)
    assert loop.train(config, folder / "run", torch.device("cpu")) is None
    assert not list(folder.rglob("*.tmp"))
    assert [p.stem for p in checkpoints(folder / "run" / "checkpoints")] == [
        "000000128",
        "000000032",
    ]
    assert statistics(folder / "run") == statistics(whole)
    assert final_state(folder / "run") == final_state(whole)


def fill(path: Path) -> None:
    """To the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


if __name__ == "__main__":
    main()
