"""Make a data set as StyleGAN has it: a zip of square PNG files of one size, `dataset.json`.

Legend: R resolution.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from stylenat.choices import CROPS, FILTERS, Crop, Filter
from stylenat.config.sections import MOST_WORKERS
from stylenat.data.classes import FolderLabels
from stylenat.data.images import ImageError, RefusedImage, scale_and_crop
from stylenat.data.labels import CLASS_NAMES
from stylenat.data.opening import check_seed, open_unscaled
from stylenat.data.partial import PartialZip, partial_folder
from stylenat.data.pool import available_processors, in_order
from stylenat.data.source import ImageSource, Label, split_off
from stylenat.files import (
    check_can_fill,
    check_can_write,
    naming,
    refuse_overwriting,
    user_path,
)
from stylenat.progress import progress_bar
from stylenat.text import listed, printable, shown

CHUNK = 8  # images per task
HOPELESS = 1000  # bad images beyond the permitted ones; then the work stops early
MOST_SIDE = 8192  # of the images to write; a square of it stays below the readers' limit
_FORMAT = 2  # of an unfinished zip


@dataclass(frozen=True)
class Settings:
    """What `prepare` does to an image.

    `crop`: `center` cuts the middle out of an image that is not square, `none` refuses it.
    `resize`: the filter that scales the short side to `resolution`.
    """

    resolution: int
    crop: Crop = "center"
    resize: Filter = "lanczos"

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution must be positive: {self.resolution}")
        if self.resolution > MOST_SIDE:
            raise ValueError(f"resolution must be at most {MOST_SIDE}: {shown(self.resolution)}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be {' or '.join(CROPS)}: {self.crop}")
        if self.resize not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}: {self.resize}")


@dataclass(frozen=True)
class Report:
    """What was made: `images` are in the zip, and `enlarged` of them were smaller.

    `skipped`: names and reasons. `resumed`: how many images an earlier run had looked at.
    `restarted`: whether an earlier run's work was given up, since its source or settings differed.
    `labelled`: how many of the images have a label in the source; the zip has labels only if all
    have. `remarks`: the source's, on labels and on files that are no images.
    """

    images: int
    enlarged: int
    skipped: tuple[tuple[str, str], ...]
    resumed: int
    restarted: bool
    labelled: int = 0
    remarks: tuple[str, ...] = ()


def prepare(
    source_path: str,
    dest: str | Path,
    settings: Settings,
    *,
    max_images: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    labels_from_folders: bool = False,
) -> Report:
    """Write the images of `source_path` to the zip `dest`, which appears when it is whole.

    `max_images` takes that many at random. `seed` decides which ones, and which faces are drawn. At
    most `max_bad` images may be unusable; they are left out. `workers` processes share the work, by
    default one per processor; their number changes no byte. With `labels_from_folders` the folder
    that an image lies in is its class. After an interruption, the same call continues.

    Raises ValueError or OSError, one sentence, for a source or place that can't be used, and for
    too many bad images.
    """
    dest = user_path(dest)
    _check_numbers(max_images=max_images, max_bad=max_bad, workers=workers, seed=seed)
    _check_dest(dest, source_path, overwrite=overwrite)
    source = open_unscaled(source_path, wanted=settings.resolution, exactly=False, seed=seed)
    if labels_from_folders:
        source = FolderLabels(source)
    source.label(0)  # raises now if the labels can't be used
    if max_images is not None and max_images < len(source):
        source, _ = split_off(source, max_images, seed)
    identity = {**dataclasses.asdict(settings), "source": source.fingerprint(), "format": _FORMAT}
    partial = PartialZip(dest, identity)
    resumed = len(partial.entries)
    try:
        _add_images(partial, source, settings, max_bad, workers)
        _refuse_bad(partial, len(source), max_bad)
        report = _report(partial, resumed, source.remarks)
        partial.finish(_about(source, settings, report, max_images, seed))
    finally:
        partial.close()
    return report


def _check_numbers(*, max_images: int | None, max_bad: int, workers: int | None, seed: int) -> None:
    check_seed(seed)
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be positive: {max_images}")
    if max_bad < 0:
        raise ValueError(f"max_bad must not be negative: {max_bad}")
    if workers is not None and not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers must be 0 to {MOST_WORKERS:,}: {shown(workers)}")


def _check_dest(dest: Path, source_path: str, *, overwrite: bool) -> None:
    """Check all that can be known of the place before the work begins."""
    if dest.suffix.lower() != ".zip":
        raise ValueError(f"DEST must be a .zip: {dest}")
    refuse_overwriting(dest, source_path)
    if not dest.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(dest.parent))
    if dest.exists() and not dest.is_dir() and not overwrite:
        raise ValueError(f"{dest} exists already; --overwrite replaces it")
    check_can_write(dest)
    partial = partial_folder(dest)
    if partial.is_dir():
        check_can_fill(partial)
    elif os.path.lexists(partial):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(partial))


@dataclass(frozen=True)
class _Made:
    """One image as a PNG file, or the reason why there is none."""

    name: str
    png: bytes = b""
    label: Label | None = None
    enlarged: bool = False
    skipped: str | None = None


def _add_images(
    partial: PartialZip, source: ImageSource, settings: Settings, max_bad: int, workers: int | None
) -> None:
    start, stop = len(partial.entries), len(source)
    chunks = [range(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]
    if workers is None:
        workers = available_processors()
    workers = min(workers, len(chunks))
    bad = sum(entry.skipped is not None for entry in partial.entries)
    # The processes come before the progress bar, whose thread might hold a lock in a fork.
    with (
        closing(in_order(_make_chunk, (source, settings), chunks, workers=workers)) as results,
        progress_bar(f"Preparing {printable(partial.dest.name)}", stop) as advance,
    ):
        advance(start)
        for made in results:
            for image in made:
                if image.skipped is not None:
                    partial.skip(image.name, image.skipped)
                    bad += 1
                else:
                    partial.add(image.name, image.png, label=image.label, enlarged=image.enlarged)
            partial.flush()
            advance(len(made))
            if bad > max_bad + HOPELESS:
                break


def _make_chunk(job: tuple[ImageSource, Settings], indices: range) -> list[_Made]:
    return [_make(*job, index) for index in indices]


def _make(source: ImageSource, settings: Settings, index: int) -> _Made:
    name, label = source.name(index), source.label(index)
    try:
        image = source.image(index)
        if settings.crop == "none" and image.width != image.height:
            raise RefusedImage(
                f"is not square: {image.width}x{image.height}; --crop center takes its middle"
            )
        enlarged = min(image.size) < settings.resolution
        image = scale_and_crop(image, settings.resolution, settings.resize)
    except ImageError as error:
        return _Made(name, skipped=error.reason)
    except RefusedImage as reason:
        return _Made(name, skipped=str(reason))
    return _Made(name, _png(image), label, enlarged)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(
        file, "PNG", compress_level=1
    )  # for a photograph a third of the time, and 7 % larger
    return file.getvalue()


def _refuse_bad(partial: PartialZip, total: int, max_bad: int) -> None:
    bad = [entry for entry in partial.entries if entry.skipped is not None]
    seen = len(partial.entries)
    if len(bad) > max_bad:
        reasons = partial.folder / "skipped.txt"
        lines = "".join(f"{printable(entry.name)} {entry.skipped}\n" for entry in bad)
        with naming(reasons):
            reasons.write_text(lines, encoding="utf-8")
        looked = f"{seen:,}" if seen == total else f"the first {seen:,}"
        raise ValueError(
            f"{len(bad):,} of {looked} images are bad, and --max-bad is {max_bad}: "
            f"{listed([f'{entry.name} {entry.skipped}' for entry in bad])}; all are listed in "
            f"{reasons}"
        )
    if len(bad) == seen:
        first = printable(bad[0].name)
        raise ValueError(f"none of {seen:,} images can be used: {first} {bad[0].skipped}")


def _report(partial: PartialZip, resumed: int, remarks: tuple[str, ...]) -> Report:
    skipped = [(e.name, e.skipped) for e in partial.entries if e.skipped is not None]
    return Report(
        images=len(partial.entries) - len(skipped),
        enlarged=sum(entry.enlarged for entry in partial.entries),
        skipped=tuple(skipped),
        resumed=resumed,
        restarted=partial.restarted,
        labelled=sum(e.skipped is None and e.label is not None for e in partial.entries),
        remarks=remarks,
    )


def _about(
    source: ImageSource, settings: Settings, report: Report, max_images: int | None, seed: int
) -> dict[str, Any]:
    """What `dataset.json` says of how the zip was made: names, but no paths of this machine."""
    is_labelled = source.class_names and report.labelled == report.images
    return {
        **({CLASS_NAMES: list(source.class_names)} if is_labelled else {}),
        "source": source.title,
        "resolution": settings.resolution,
        "crop": settings.crop,
        "filter": settings.resize,
        "max_images": max_images,
        "seed": seed,
        "images": report.images,
        "enlarged": report.enlarged,
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
    }
