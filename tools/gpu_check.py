"""Everything that needs a GPU, in one command: scripts/gpu_check.sh.

This process imports PyTorch and the tables of benchmarks alone. If a requirement is missing, what
needs it is skipped, in a sentence, and the rest runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tools.gpu_parts import PIP_NAMES, Task, parts
from tools.natten_build import NattenBuild
from tools.targets import verdicts

BENCH = ("op", "tune", "generator", "training", "backbones")
GRACE_SECONDS = 60.0  # from the interrupt to the end of a process that writes what it has
BUILD_SECONDS = 3 * 3600.0  # that the part natten waits for its build, if no limit is given


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
        check = Check(Path(folder), options.out, on_cpu=options.cpu, part_seconds=options.seconds)
        chosen = options.parts or list(check.parts)
        if "natten" in chosen:
            check.natten.start()
        for name in chosen:
            for part in BENCH if name == "bench" else (name,):
                check.run(part)
        check.summarise()
    return 1 if check.failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ("bench", *parts(Path(), Path(), on_cpu=True))
    parser = argparse.ArgumentParser(
        prog="scripts/gpu_check.sh",
        description="Correctness, speed and five minutes of training on this machine's GPU. "
        "The part bench stands for op, tune, generator and training.",
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"which parts to run, of {', '.join(names)}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_check"), metavar="DIR", help="where results go"
    )
    parser.add_argument(
        "--seconds", type=float, help="stop each part after this time (default: no limit)"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="rehearse at tiny sizes on the CPU instead"
    )
    options = parser.parse_args(arguments)
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds must be positive: {options.seconds:g}")
    for name in options.parts:
        if name not in names:
            parser.error(f"unknown part '{name}'; choose from {', '.join(names)}")
    return options


class Check:
    """Runs parts; what they print, their tables and the summary go to `out`.

    Tables in `out` from earlier runs count for the targets, too. Each part is stopped after
    `part_seconds`, if given.
    """

    def __init__(
        self, work: Path, out: Path, *, on_cpu: bool, part_seconds: float | None = None
    ) -> None:
        self.work, self.out, self.reports = work, out, out / "reports"
        self.on_cpu, self.part_seconds = on_cpu, part_seconds
        self.parts = parts(work, self.reports, on_cpu=on_cpu)
        self.natten = NattenBuild.from_environment()
        self.lines: list[str] = []
        self.failed = False
        out.mkdir(parents=True, exist_ok=True)

    def run(self, part: str) -> None:
        """One part's tasks, in order; what they print goes to a file, in short to the summary."""
        start = time.monotonic()
        deadline = start + (math.inf if self.part_seconds is None else self.part_seconds)
        if part == "natten":
            wait = BUILD_SECONDS if self.part_seconds is None else self.part_seconds / 2
            problem = self.natten.wait(start + wait)
            if problem is not None:
                self._note(part, f"skipped: {problem}")
                return
        with (self.out / f"{part}.txt").open("a") as file:
            for task in self.parts[part]:
                self._run(part, task, deadline, file)
        if part == "train":
            self._keep_run()

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

    def _keep_run(self) -> None:
        """Copy the training run to `out`, without its checkpoints, which are large."""
        kept = self.out / "train"
        shutil.rmtree(kept, ignore_errors=True)
        if (self.work / "run").exists():
            shutil.copytree(
                self.work / "run", kept, ignore=shutil.ignore_patterns("checkpoints", "*lock*")
            )

    def _tables(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.reports.glob("*.json"))]

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
