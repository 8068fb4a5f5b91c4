"""Runs in processes of their own: started, watched, and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import ROOT, command, environment

# Cases much like others, and those that mostly wait.
thorough = pytest.mark.skipif(
    os.environ.get("STYLENAT_FAULTS") != "all", reason="STYLENAT_FAULTS=all runs it"
)

ENDLESS = ("train.total_kimg=1000", "train.snapshot_every_kimg=0.016")


class Job(subprocess.Popen[str]):
    """A process whose standard error goes to a file: a pipe that nobody reads would stop it."""

    def __init__(self, line: list[str], **settings: Any) -> None:
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - `started` closes it
        super().__init__(
            line,
            stdout=self.log,
            stderr=self.log,
            text=True,
            # The tests may run in a shell's background, whose processes ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **settings,
        )

    def end(self, *, seconds: float) -> tuple[float, str]:
        """How long it takes to end, and what it has printed."""
        start = time.monotonic()
        self.wait(timeout=seconds)
        self.log.seek(0)
        return time.monotonic() - start, self.log.read()


@contextlib.contextmanager
def started(
    *arguments: object, ranks: int = 1, launcher: tuple[str, ...] = (), **variables: str
) -> Iterator[Job]:
    """`stylenat` with these arguments; all that is left of it afterwards is killed."""
    line = command(*arguments, ranks=ranks)
    if launcher:
        place = line.index("-m", 2)
        line[place:place] = launcher
    environ = {**environment(), **variables}
    process = Job(line, cwd=ROOT, env=environ, start_new_session=True)
    try:
        yield process
    finally:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.log.close()


def wait_until(condition: Callable[[], Any], *, seconds: float) -> Any:
    """What `condition` returns, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def lines_of(run: Path) -> int:
    """How many lines the run's statistics have."""
    stats = run / "stats.jsonl"
    return len(stats.read_text().splitlines()) if stats.exists() else 0


def wait_for_steps(run: Path, count: int) -> None:
    """Until so many more steps have been logged."""
    target = lines_of(run) + count
    wait_until(lambda: lines_of(run) >= target, seconds=300)


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def descendants(parent: int) -> list[int]:
    return [pid for child in children(parent) for pid in (child, *descendants(child))]


def rank_process(launcher: int, rank: int) -> int:
    """The process of a rank that `launcher`, a torchrun, started."""
    for pid in children(launcher):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables:
                return pid
    raise AssertionError(f"torchrun {launcher} has no process of rank {rank}")
