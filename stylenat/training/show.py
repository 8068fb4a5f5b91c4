"""What a run writes as it goes: sample grids, snapshots, curves. On rank 0 alone."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import torch

from stylenat.config import TrainConfig
from stylenat.data import ImageSource
from stylenat.export import save_generator
from stylenat.files import replacing
from stylenat.models import Generator
from stylenat.sampling import contact_sheet, generate, save_sheet
from stylenat.training.curves import draw_curves
from stylenat.training.run_folder import RunFolder


def save_grid(generator: Generator, config: TrainConfig, path: Path) -> None:
    """A contact sheet of the average generator's images of seeds 0, 1, ...: always the same."""
    columns, rows = config.sample_grid
    images = generate(
        generator,
        range(columns * rows),
        batch=min(config.batch, 32),
        truncation_psi=config.sample_truncation_psi,
    )
    save_sheet(contact_sheet(torch.cat(list(images)), columns, rows), path)


def save_real_grid(source: ImageSource, config: TrainConfig, path: Path) -> None:
    """A contact sheet of the data, evenly spaced over the set, the next for one that is damaged."""
    columns, rows = config.sample_grid
    count = min(columns * rows, len(source))
    indices = [i * len(source) // count for i in range(count)]
    images = np.stack([source.read(source.readable(i)) for i in indices])
    save_sheet(contact_sheet(torch.from_numpy(images), columns, rows), path)


def save_snapshot(generator: Generator, folder: RunFolder, nimg: int, *, keep: int) -> Path:
    """Export the average generator, its w_avg included; the newest `keep` stay."""
    exported = copy.deepcopy(generator)
    exported.store_w_avg()
    path = folder.snapshots / f"{nimg:09d}.safetensors"
    save_generator(exported, path)
    folder.keep_snapshots(keep)
    return path


def keep_if_best(ranks: list[float], snapshot: Path, folder: RunFolder) -> None:
    """Copy the snapshot, the last that was measured, to best.safetensors unless one was better."""
    if ranks[-1] <= min(ranks) and snapshot.exists():
        with replacing(folder.snapshots / "best.safetensors") as temporary:
            shutil.copyfile(snapshot, temporary)


def draw_progress(folder: RunFolder) -> None:
    draw_curves(folder.points(), folder.curves)
