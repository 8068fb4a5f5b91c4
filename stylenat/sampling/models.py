"""A trained generator out of what holds one: an exported file, a run, a published checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from stylenat import layout
from stylenat.choices import SNAPSHOTS
from stylenat.export import as_device
from stylenat.export import load_generator as load_export
from stylenat.files import naming, user_path
from stylenat.layout import RunPaths, numbered
from stylenat.legacy import convert_checkpoint
from stylenat.models import Generator
from stylenat.untrusted import ZIP_MAGIC

MODEL_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_generator(
    path: str | Path, device: str | torch.device = "cpu", *, which: str = "best"
) -> Generator:
    """The generator in whatever holds one, in eval mode, in the dtype that it has there.

    `path`: an exported file; a run folder, of which `which` says the snapshot, best (last if
    none is marked best yet) or last; a training state of a run; a published checkpoint. Where w_avg
    is unknown it is estimated, on the CPU, so that every device truncates towards the same w.
    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    one that holds no generator and for a run without snapshots.
    """
    device = as_device(device)
    return _ready(_read(model_file(path, which=which)), device)


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, which: str = "best"
) -> Generator:
    """As `load_generator`, in float32, for pictures and scores."""
    device = as_device(device)
    return _ready(_read(model_file(path, which=which)).float(), device)


def _read(file: Path) -> Generator:
    if file.suffix.lower() in (".yaml", ".yml"):
        raise ValueError(f"{file} is a configuration, not a model: give the run's folder")
    with naming(file), file.open("rb") as opened:
        start = opened.read(9)
    is_zip = start.startswith(ZIP_MAGIC)
    if is_zip and file.suffix == ".safetensors":  # PyTorch goes by the name
        raise ValueError(f"{file} is a PyTorch file: rename it to {file.stem}.pt")
    # Eight bytes of length, then JSON.
    if start[8:] == b"{" or file.suffix == ".safetensors":
        return load_export(file)
    if start and not is_zip and start[:1] != b"\x80":  # an old pickle is refused as such
        raise ValueError(f"{file} is no model: neither a safetensors file nor a checkpoint")
    converted = convert_checkpoint(file, which="g_ema")
    assert isinstance(converted, Generator)
    return converted


def _ready(generator: Generator, device: torch.device) -> Generator:
    if int(generator.w_avg_samples) == 0:
        generator.store_w_avg()
    return generator.to(device).eval()


def model_file(path: str | Path, *, which: str = "best") -> Path:
    """The file that `load_generator` reads: `path` itself, or a snapshot of the run that it is."""
    if which not in SNAPSHOTS:
        raise ValueError(f"the snapshot must be one of {', '.join(SNAPSHOTS)}: {which}")
    path = user_path(path)
    if not path.is_dir():
        return path
    if _is_part_of_run(path):
        raise ValueError(
            f"{path} is a part of a run: give one of its files, or the run, "
            f"{path.absolute().parent}"
        )
    if not _is_run(path):
        raise ValueError(f"{path} is a folder, but no run: it holds no config.yaml")
    run = RunPaths(path)
    if which == "best" and run.best.is_file():
        return run.best
    snapshots = numbered(run.snapshots, ".safetensors")
    if not snapshots:
        raise ValueError(f"{path} is a run without a model yet: no {run.snapshots}/*.safetensors")
    return snapshots[0]


def is_model(path: str | Path) -> bool:
    """Whether `path` is for `load_generator`: of a run, or a file named as models are."""
    path = user_path(path)
    if path.is_dir():
        return _is_run(path) or _is_part_of_run(path)
    return path.suffix.lower() in MODEL_SUFFIXES


def _is_run(path: Path) -> bool:
    return RunPaths(path).config.is_file()


def _is_part_of_run(path: Path) -> bool:
    """Whether a folder is a run's with its snapshots or its training states."""
    place = path.absolute()
    return place.name in (layout.SNAPSHOTS, layout.CHECKPOINTS) and _is_run(place.parent)
