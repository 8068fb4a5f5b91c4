"""A trained generator out of what holds one: an exported file, a run, a published checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from stylenat.config.files import user_path
from stylenat.export import as_device, load_generator
from stylenat.legacy import convert_checkpoint
from stylenat.models import Generator

SNAPSHOTS = ("best", "last")
MODEL_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, which: str = "best"
) -> Generator:
    """The generator in an export, a run folder or an official checkpoint: float32, in eval mode.

    Of a run, its best snapshot (its last where none is marked best yet), or its last. Where w_avg
    is unknown it is estimated, on the CPU, so that every device truncates towards the same w.
    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    one that holds no generator and for a run without snapshots.
    """
    device = as_device(device)
    file = model_file(path, which=which)
    if file.suffix == ".safetensors" or _looks_like_safetensors(file):
        generator = load_generator(file)
    else:
        converted = convert_checkpoint(file, which="g_ema")
        assert isinstance(converted, Generator)
        generator = converted
    generator.float()
    if int(generator.w_avg_samples) == 0:
        generator.store_w_avg()
    return generator.to(device).eval()


def model_file(path: str | Path, *, which: str = "best") -> Path:
    """The file that `load_model` reads: `path` itself, or a snapshot of the run that it is."""
    if which not in SNAPSHOTS:
        raise ValueError(f"the snapshot must be one of {', '.join(SNAPSHOTS)}: {which}")
    path = user_path(path)
    if not path.is_dir():
        return path
    if not _is_run(path):
        raise ValueError(f"{path} is a folder, but no run: it holds no config.yaml")
    folder = path / "snapshots"
    best = folder / "best.safetensors"
    if which == "best" and best.is_file():
        return best
    numbered = [file for file in folder.glob("*.safetensors") if file.stem.isdecimal()]
    if not numbered:
        raise ValueError(f"{path} is a run without a model yet: no {folder}/*.safetensors")
    return max(numbered, key=lambda file: int(file.stem))


def is_model(path: str | Path) -> bool:
    """Whether `path` is for `load_model`: a run folder, or a file named as models are."""
    path = user_path(path)
    return _is_run(path) if path.is_dir() else path.suffix.lower() in MODEL_SUFFIXES


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _looks_like_safetensors(path: Path) -> bool:
    """Eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
