"""Load a trained generator from an exported file, a run, a published checkpoint or the Hub."""

from __future__ import annotations

from pathlib import Path

import torch

from stylenat import layout
from stylenat.choices import SNAPSHOTS
from stylenat.export import as_device
from stylenat.export import load_generator as load_export
from stylenat.files import naming, user_path
from stylenat.hub import is_hub_name, name_of, pull
from stylenat.layout import RunPaths, numbered
from stylenat.legacy import convert_checkpoint
from stylenat.models import Generator
from stylenat.untrusted import ZIP_MAGIC

MODEL_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_generator(
    path: str | Path, device: str | torch.device = "cpu", *, which: str = "best"
) -> Generator:
    """The generator that a file or a run holds, in eval mode, in the dtype that it has there.

    `path`: an exported file, a run folder, a training state of a run, a published checkpoint, or
    `hf:user/name[@revision]` on the Hub (see `stylenat.hub`).
    `which`: the snapshot of a run folder, `best` (the last one if none is marked best yet) or
    `last`. If w_avg is unknown it is estimated on the CPU, so that every device truncates towards
    the same w. Raises OSError for a file that cannot be read, and ValueError, one sentence that
    names it, for a file without a generator and a run without snapshots.
    """
    device = as_device(device)
    return _ready(_load(model_file(path, which=which)), device)


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, which: str = "best"
) -> Generator:
    """As `load_generator`, in float32, for pictures and scores."""
    device = as_device(device)
    return _ready(_load(model_file(path, which=which)).float(), device)


def model_name(file: Path) -> str:
    """What outputs call a model's file: its path, or `hf:user/name@commit` of one from the Hub."""
    return name_of(file) or str(file)


def _load(file: Path) -> Generator:
    try:
        return _read(file)
    except ValueError as error:
        if (name := name_of(file)) is not None:  # the path of the cache would say little
            raise ValueError(f"{name}: {error}") from error
        raise


def _read(file: Path) -> Generator:
    if file.suffix.lower() in (".yaml", ".yml"):
        raise ValueError(f"{file} is a configuration, not a model: give the run's folder")
    with naming(file), file.open("rb") as opened:
        start = opened.read(9)
    is_zip = start.startswith(ZIP_MAGIC)
    if is_zip and file.suffix == ".safetensors":  # torch.load goes by the name
        raise ValueError(f"{file} is a PyTorch file: rename it to {file.stem}.pt")
    # Eight bytes of length, then JSON.
    if start[8:] == b"{" or file.suffix == ".safetensors":
        return load_export(file)
    if start and not is_zip and start[:1] != b"\x80":  # an old pickle goes on, to be refused as one
        raise ValueError(f"{file} is no model: neither a safetensors file nor a checkpoint")
    converted = convert_checkpoint(file, which="g_ema")
    assert isinstance(converted, Generator)
    return converted


def _ready(generator: Generator, device: torch.device) -> Generator:
    if int(generator.w_avg_samples) == 0:
        generator.store_w_avg()
    return generator.to(device).eval()


def model_file(path: str | Path, *, which: str = "best") -> Path:
    """The file that `load_generator` reads: `path` itself, a snapshot of the run that it is, or the
    cache's file of a model on the Hub."""
    if which not in SNAPSHOTS:
        raise ValueError(f"the snapshot must be one of {', '.join(SNAPSHOTS)}: {which}")
    if is_hub_name(path):
        return pull(path)
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
    """Whether `load_generator` takes `path`: it belongs to a run, or is named as models are."""
    if is_hub_name(path):
        return True
    path = user_path(path)
    if path.is_dir():
        return _is_run(path) or _is_part_of_run(path)
    return path.suffix.lower() in MODEL_SUFFIXES


def _is_run(path: Path) -> bool:
    return RunPaths(path).config.is_file()


def _is_part_of_run(path: Path) -> bool:
    """Whether a folder is the `snapshots` or `checkpoints` of a run."""
    place = path.absolute()
    return place.name in (layout.SNAPSHOTS, layout.CHECKPOINTS) and _is_run(place.parent)
