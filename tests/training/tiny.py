"""A run of two small networks on 16x16 faces, and its command line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import torch

from stylenat.config import RunConfig, from_dict, save_config
from stylenat.training.loop import train

ROOT = Path(__file__).resolve().parents[2]

DILATED = [{"heads": 1, "kernel_size": 3}, {"heads": 1, "kernel_size": 3, "dilation": 2}]
TINY = {
    "model": {
        "generator": {
            "levels": [
                {"resolution": 4, "channels": 8, "heads": 2, "blocks": 1, "attention": "global"},
                {"resolution": 8, "channels": 8, "heads": 2, "blocks": 1, "attention": DILATED},
                {"resolution": 16, "channels": 8, "heads": 2, "blocks": 1, "attention": DILATED},
            ],
            "z_dim": 8,
            "style_dim": 8,
            "mapping_layers": 2,
        },
        "discriminator": {
            "levels": [{"resolution": 4, "channels": 8}, {"resolution": 8, "channels": 8}]
        },
    },
    "data": {"path": "faces:64", "workers": 0},
    "train": {
        "total_kimg": 0.04,
        "batch": 8,
        "lr_g": 1e-3,
        "lr_d": 1e-3,
        "r1_every": 2,
        "decay_from_kimg": 0.064,
        "ema_halflife_nimg": 20,
        "log_every_nimg": 8,
        "snapshot_every_kimg": 0.016,
        "sample_grid": [2, 2],
    },
}


def tiny(**sections: dict[str, object]) -> RunConfig:
    """The tiny run with some keys changed: tiny(train={"batch": 4})."""
    data = {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {**TINY, **sections}}
    return from_dict(RunConfig, data)


def write_tiny(folder: Path) -> Path:
    """tiny.yaml, for commands."""
    path = folder / "tiny.yaml"
    save_config(tiny(), path)
    return path


def command(*arguments: object, ranks: int = 1) -> list[str]:
    """The command line of `stylenat` in a process of its own, or by torchrun in several."""
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return [*launcher, "stylenat", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def stylenat(*arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments, ranks=ranks),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def train_to(config: RunConfig, run: Path, *kimgs: float, ranks: int = 1) -> Path:
    """Train to each of these lengths: on one rank in this process, on several in new ones."""
    for kimg in kimgs:
        longer = dataclasses.replace(config.train, total_kimg=kimg)
        part = dataclasses.replace(config, train=longer)
        if ranks == 1:
            assert train(part, run, torch.device("cpu")) is None
            continue
        path = run.parent / f"{run.name}.yaml"
        save_config(part, path)
        done = stylenat("train", path, "--run-dir", run, "--device", "cpu", ranks=ranks)
        assert done.returncode == 0, done.stderr
    return run
