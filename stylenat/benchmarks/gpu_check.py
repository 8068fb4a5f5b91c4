"""Everything that needs a GPU, in one command: scripts/gpu_check.sh.

Imports PyTorch and this package's tables alone: where a requirement is missing, what needs it is
skipped, in a sentence, and the rest runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stylenat.benchmarks.gpu_parts import PART_SECONDS, PIP_NAMES, Task, parts
from stylenat.benchmarks.natten_build import NattenBuild
from stylenat.benchmarks.targets import verdicts

BENCH = ("op", "tune", "generator", "training")
GRACE_SECONDS = 25.0  # from the interrupt to the end of a process that writes what it has
RUN_FILES = ("config.yaml", "stats.jsonl", "log.txt", "progress.png", "samples", "snapshots")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; 0 where none failed."""
    options = _options(arguments)
    if not options.cpu and not torch.cuda.is_available():
        _say(
            "gpu_check needs an NVIDIA GPU, and PyTorch sees none here; --cpu goes through every "
            "part at tiny sizes."
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder), options.out, on_cpu=options.cpu)
        chosen = options.parts or list(check.parts)
        if "natten" in chosen:
            check.natten.start()
        for name in chosen:
            for part in BENCH if name == "bench" else (name,):
                check.run(part)
        check.summarise()
    return 1 if check.failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ("bench", *parts(Path(), on_cpu=True))
    parser = argparse.ArgumentParser(
        prog="scripts/gpu_check.sh",
        description="Correctness, speed and five minutes of training on this machine's GPU. "
        "bench is op, tune, generator and training. Every part stays under ten minutes.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; all")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), metavar="DIR")
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU, as a rehearsal")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in names:
            parser.error(f"unknown part '{name}'; choose from {', '.join(names)}")
    return options


class Check:
    """Runs parts; at most eight files come to lie in `out`, beside those of earlier runs."""

    def __init__(self, work: Path, out: Path, *, on_cpu: bool) -> None:
        self.work, self.out, self.on_cpu = work, out, on_cpu
        self.parts = parts(work, on_cpu=on_cpu)
        self.natten = NattenBuild.from_environment()
        self.lines: list[str] = []
        self.failed = False
        out.mkdir(parents=True, exist_ok=True)

    def run(self, part: str) -> None:
        """One part's tasks, in order; what they print goes to a file, in short to the summary."""
        log = self.out / f"{'bench' if part in BENCH else part}.txt"
        if part == "train":  # into the archive
            log = self.work / "train.txt"
        deadline = time.monotonic() + PART_SECONDS
        if part == "natten":
            problem = self.natten.wait(deadline - PART_SECONDS / 2)
            if problem is not None:
                self._note(part, f"skipped: {problem}")
                return
        with log.open("a") as file:
            for task in self.parts[part]:
                self._run(part, task, deadline, file)
        if part == "train":
            self._pack(log)
        self._merge_reports()

    def _run(self, part: str, task: Task, deadline: float, file: Any) -> None:
        missing = [name for name in task.needs if importlib.util.find_spec(name) is None]
        if missing:
            names = " ".join(PIP_NAMES.get(name, name) for name in missing)
            self._note(part, f"skipped: {task}: missing here: {names} (pip install {names})")
            return
        seconds = min(task.seconds, deadline - time.monotonic())
        if seconds <= 0:
            self._note(part, f"skipped: {task}: the part's time is over")
            return
        file.write(f"\n$ {task}\n")
        file.flush()
        start = time.monotonic()
        code, in_time = _call(task, seconds, file, self.natten.environment())
        took = f"{time.monotonic() - start:.0f} s"
        if not in_time:
            self.failed |= not task.may_stop
            self._note(part, f"stopped after {took}{'' if task.may_stop else ', too slow'}: {task}")
        elif code != 0:
            self.failed = True
            self._note(
                part, f"FAILED (exit code {code}, {took}): {task}; see {Path(file.name).name}"
            )
        else:
            self._note(part, f"done in {took}: {task}")

    def _note(self, part: str, text: str) -> None:
        self.lines.append(f"{part}: {text.replace(str(self.work), 'TMP')}")
        _say(self.lines[-1])

    def _merge_reports(self) -> None:
        """All tables of this and earlier runs in one file; a new one takes its namesake's place."""
        tables = {table["name"]: table for table in self._tables()}
        for path in sorted((self.work / "reports").glob("*.json")):
            table = json.loads(path.read_text())
            tables[table["name"]] = table
        if tables:
            (self.out / "bench.json").write_text(json.dumps([*tables.values()], indent=1) + "\n")

    def _tables(self) -> list[dict[str, Any]]:
        path = self.out / "bench.json"
        return json.loads(path.read_text()) if path.exists() else []

    def _pack(self, log: Path) -> None:
        """The training run without its checkpoints, and what it printed."""
        with tarfile.open(self.out / "train.tar.gz", "w:gz") as archive:
            archive.add(log, "train/train.txt")
            for name in RUN_FILES:
                if (self.work / "run" / name).exists():
                    archive.add(self.work / "run" / name, f"train/{name}")

    def summarise(self) -> None:
        """What ran, and which targets were met, into summary.txt and on the screen."""
        device = "the CPU, a rehearsal" if self.on_cpu else torch.cuda.get_device_name()
        lines = [f"gpu_check on {device}", *self.lines]
        if not self.on_cpu:
            lines += ["", "Targets", *(found := verdicts(self._tables()))]
            _say("\n".join(found))
        with (self.out / "summary.txt").open("a") as file:
            file.write("\n".join(lines) + "\n\n")


def _call(task: Task, seconds: float, output: Any, environment: dict[str, str]) -> tuple[int, bool]:
    """Exit code of the task's process, and whether it ended by itself.

    At its limit it is interrupted, and after a while killed with all its children.
    """
    process = subprocess.Popen(
        [sys.executable, *task.arguments],
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        return process.wait(seconds), True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(GRACE_SECONDS), False
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL, False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
