"""Check every member of a data set's zip."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from stylenat.data.images import ImageError
from stylenat.data.listing import INDEX
from stylenat.data.pool import available_processors, in_order
from stylenat.data.readers import ZipSource
from stylenat.files import user_path
from stylenat.progress import progress_bar
from stylenat.text import listed, printable, shown

CHUNK = 32  # images per task

Checked = tuple[tuple[int, int] | None, str]  # width and height, or None and the reason


@dataclass(frozen=True)
class Verified:
    """A zip whose images can all be read and have one size."""

    images: int
    width: int
    height: int
    labels: int
    remarks: tuple[str, ...] = ()


def verify(path: str, *, workers: int | None = None) -> Verified:
    """Read every member: checksums, images of one size, and what `dataset.json` says of them.

    Raises ValueError, one sentence that names the first faults, and OSError for a file that can't
    be opened.
    """
    source = ZipSource(str(user_path(path)))
    faults = _faults_of_index(source)
    count = len(source)
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    if workers is None:
        workers = available_processors()
    workers = min(workers, len(chunks))
    sizes: list[Checked] = []
    with (
        closing(in_order(_check_chunk, source, chunks, workers=workers)) as results,
        progress_bar(f"Verifying {printable(source.title)}", count) as advance,
    ):
        for checked in results:
            sizes += checked
            advance(len(checked))
    size = _expected_size(source, sizes)
    for name, (found, reason) in zip(source.names, sizes, strict=True):
        if found is None:
            faults.append(f"{name} {reason}")
        elif found != size:
            faults.append(f"{name} is {found[0]}x{found[1]}, not {size[0]}x{size[1]}")
    if faults:
        number = f"{len(faults):,} fault{'' if len(faults) == 1 else 's'}"
        raise ValueError(f"{path} has {number}: {listed(faults)}")
    return Verified(count, *size, labels=len(source.labels), remarks=source.remarks)


def _check_chunk(source: ZipSource, indices: range) -> list[Checked]:
    return [_check(source, index) for index in indices]


def _check(source: ZipSource, index: int) -> Checked:
    try:
        return source.image(index).size, ""
    except ImageError as error:
        return None, error.reason


def _expected_size(source: ZipSource, sizes: list[Checked]) -> tuple[int, int]:
    """The size that `stylenat prepare` noted, or otherwise that of the first image."""
    about = _about(source)
    if isinstance(about.get("resolution"), int):
        return about["resolution"], about["resolution"]
    return next((size for size, _ in sizes if size is not None), (0, 0))


def _about(source: ZipSource) -> dict[str, Any]:
    try:
        about = source.index().get("stylenat")
    except ValueError:  # which is a fault of its own
        return {}
    return about if isinstance(about, dict) else {}


def _faults_of_index(source: ZipSource) -> list[str]:
    """What is wrong with `dataset.json`; nothing if there is none."""
    try:
        missing = source.matched.missing
    except ValueError as error:
        return [str(error).removeprefix(f"{source.path}: ")]
    faults = []
    about = _about(source)
    if about.get("images", len(source)) != len(source):
        counted = about["images"]
        counted = f"{counted:,}" if isinstance(counted, int) else shown(counted)
        faults.append(f"{INDEX} counts {counted} images, and there are {len(source):,}")
    if missing:
        faults.append(f"{INDEX} labels images that are not there: {listed(missing)}")
    return faults
