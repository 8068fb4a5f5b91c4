"""Kills processes in the middle of saving, and looks at what they leave.

    python -m tests.training.kill_saves FOLDER KILLS SEED

Prints JSON: how many processes were killed, how many of them left something half done, and how
often the newest checkpoint was lost. Forks, so that PyTorch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from stylenat.training.checkpoint import (
    clean_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

KEEP = 2
FLOATS = 200_000


def save_on_and_on(folder: Path, nimg: int, saved: int) -> None:
    """Saves until it is killed, every state twice over; reports each that is complete."""
    while True:
        for _ in range(2):
            content = {"nimg": nimg, "x": torch.full((FLOATS,), float(nimg))}
            save_checkpoint(folder, content, keep=KEEP)
            os.write(saved, nimg.to_bytes(8, "little"))
        nimg += 8


def kill_one(folder: Path, nimg: int, seconds: float) -> int:
    """The last state that a process reported as saved before it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        save_on_and_on(folder, nimg, writing)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        reported = pipe.read()
    return int.from_bytes(reported[-8:], "little") if reported else nimg - 8


def main() -> None:
    folder, kills, random_instants = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, {"nimg": 8, "x": torch.full((FLOATS,), 8.0)}, keep=KEEP)
    lost, inexact, half_done, newest = 0, 0, 0, 8
    for _ in range(kills):
        reported = kill_one(folder, newest + 8, random_instants.uniform(0, 0.08))
        names = {path.name for path in folder.iterdir()}
        half_done += any(name.endswith(".tmp") for name in names) or len(names) != 2 * KEEP
        path = newest_checkpoint(folder)
        found = load_checkpoint(path)["x"] if path else torch.zeros(1)
        newest = int(path.stem) if path else 0
        lost += newest < reported or not bool((found == newest).all())
        # As the next start does, and the save after it.
        clean_checkpoints(folder, keep=KEEP)
        kept = len(list(folder.glob("*.pt"))), len(list(folder.iterdir()))
        inexact += kept != (min(KEEP, newest // 8), 2 * min(KEEP, newest // 8))
    result = {"kills": kills, "half done": half_done, "lost": lost, "inexact": inexact}
    print(json.dumps({**result, "saved": newest // 8}))


if __name__ == "__main__":
    main()
