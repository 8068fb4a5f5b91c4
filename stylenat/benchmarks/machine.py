"""The machine that is measured: its ceilings, hardware, versions and commit."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import stylenat
from stylenat.benchmarks.timing import CPU, measure
from stylenat.memory import is_memory_kept
from stylenat.precision import without_tf32


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in this run: matrix products, and copying of large tensors."""

    float32_flops: float
    bfloat16_flops: float
    copied_bytes: float

    def flops(self, dtype: torch.dtype) -> float:
        return self.float32_flops if dtype == torch.float32 else self.bfloat16_flops


@functools.cache
def measure_ceilings(device: torch.device = CPU) -> Ceilings:
    """FLOP/s of wide products, without TF32; bytes/s (read plus written) of copying.

    2048-wide and 256 MiB on a CPU; 4096-wide in float32, 8192-wide in bfloat16 and 2 GiB on a GPU.
    Measured once a process.
    """
    on_gpu = device.type == "cuda"

    def product(dtype: torch.dtype, width: int) -> float:
        a = torch.randn(width, width, device=device).to(dtype)
        return 2 * width**3 / measure(lambda: a @ a, repeats=5, device=device).least

    with without_tf32():
        float32_flops = product(torch.float32, 4096 if on_gpu else 2048)
        bfloat16_flops = product(torch.bfloat16, 8192 if on_gpu else 2048)
    source = torch.ones((512 if on_gpu else 64) * 2**20, device=device)
    target = torch.empty_like(source)
    copy = measure(lambda: target.copy_(source), repeats=5, device=device)
    return Ceilings(float32_flops, bfloat16_flops, 2 * 4 * source.numel() / copy.least)


def label(device: torch.device) -> str:
    """A device in a file's name: cpu, h200, a100-sxm4-80gb."""
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device).lower().removeprefix("nvidia ")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def environment(device: torch.device = CPU) -> dict[str, Any]:
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
        "triton": _version("triton"),
        "natten": _version("natten"),
        "stylenat": stylenat.__version__,
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
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _version(package: str) -> str | None:
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
    """The checkout's commit, with a + where its code differs; None outside a checkout.

    STYLENAT_COMMIT names it where a copy of the files travels without git's.
    """
    git = ("git", "-C", str(Path(__file__).parents[2]))
    commit = _output(*git, "rev-parse", "--short", "HEAD")
    if commit is None:
        return os.environ.get("STYLENAT_COMMIT")
    changed = _output(*git, "status", "--porcelain", "--", "stylenat", "ops", "configs")
    return f"{commit}+" if changed else commit


def _output(*command: str) -> str | None:
    """What a command printed, its first line; None where it is not there, fails or is silent."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
