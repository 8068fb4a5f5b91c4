"""The machine and its software: what `stylenat doctor` shows and every measurement records."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from stylenat import __version__
from stylenat.memory import is_memory_kept

SECONDS = 30  # that another program may take to answer
DRIVER = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def label(device: torch.device) -> str:
    """A device in a file's name: cpu, h200, a100-sxm4-80gb."""
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device).lower().removeprefix("nvidia ")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, threads, commit and time of a measurement."""
    return {
        "device": label(device),
        "processor": _processor(),
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "freed_memory_is_kept": is_memory_kept(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "natten": version("natten"),
        "stylenat": __version__,
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _output(*DRIVER),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    name = fields.get("model name") or platform.machine()
    return f"{name} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _commit() -> str | None:
    """The checkout's commit, with a + if its code differs; None outside a checkout.

    The variable STYLENAT_COMMIT names it for a copy of the files that has come without git's.
    """
    git = ("git", "-C", str(Path(__file__).parents[1]))
    commit = _output(*git, "rev-parse", "--short", "HEAD")
    if commit is None:
        return os.environ.get("STYLENAT_COMMIT")
    changed = _output(*git, "status", "--porcelain", "--", "stylenat", "ops", "configs")
    return f"{commit}+" if changed else commit


def first_line(*command: str) -> str:
    """The first line that another program prints. Raises OSError, in its words, if it fails."""
    if shutil.which(command[0]) is None:
        raise OSError(f"none found: there is no {command[0]}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OSError(f"{command[0]} failed: {error}") from error
    said = done.stdout.strip() or done.stderr.strip() or f"{command[0]} said nothing"
    if done.returncode or not done.stdout.strip():
        raise OSError(said.splitlines()[0])
    return said.splitlines()[0]


def _output(*command: str) -> str | None:
    try:
        return first_line(*command)
    except OSError:
        return None
