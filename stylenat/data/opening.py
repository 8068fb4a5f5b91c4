"""The one way to open a data set: an ImageSource of whatever the path names."""

from __future__ import annotations

import re

from stylenat.choices import FILTERS, Filter
from stylenat.data.cifar import ARCHIVES, FOLDERS, CIFARSource
from stylenat.data.images import RefusedImage
from stylenat.data.listing import refuse_run_folder
from stylenat.data.lsun import DATABASE, LSUNSource, MultiResolutionSource, stored_resolutions
from stylenat.data.readers import FolderSource, ZipSource
from stylenat.data.source import FacesSource, ImageSource, ScaledSource, SizedSource, split_off
from stylenat.files import user_path
from stylenat.text import shown

KINDS = (
    "a folder of images, a .zip, the folder of an LMDB, cifar-10-python.tar.gz, "
    "cifar-100-python.tar.gz or faces:N"
)
FACES = "faces:"
MOST_FACES = 100_000_000


def open_images(
    path: str,
    *,
    resolution: int | None = None,
    resize: Filter | None = None,
    max_images: int | None = None,
    seed: int = 0,
) -> ImageSource:
    """The images of a folder, zip, LMDB or CIFAR archive, or `faces:N` for N drawn faces.

    With `resolution`, every image must have that size, or is scaled and cropped to it if `resize`
    names a filter. `max_images` takes that many at random. `seed` decides which ones, and which
    faces are drawn. Raises ValueError, one sentence, for a data set that can't be used or whose
    first images can't be read, and OSError for a path that can't be opened.
    """
    for name, value in (("resolution", resolution), ("max_images", max_images)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be positive: {value}")
    check_seed(seed)
    if resize is not None and resize not in FILTERS:
        raise ValueError(f"resize must be one of {', '.join(FILTERS)}: {resize}")
    if resize is not None and resolution is None:
        raise ValueError(f"resize={resize} needs a resolution to scale to")
    source = open_unscaled(path, wanted=resolution, exactly=resize is None, seed=seed)
    if max_images is not None and max_images < len(source):
        source, _ = split_off(source, max_images, seed)
    if resolution is not None:
        if resize is not None:
            source = ScaledSource(source, resolution=resolution, resize=resize)
        elif not isinstance(source, FacesSource):
            source = SizedSource(source, resolution=resolution)
    source.readable(0)  # otherwise the first error would come after the networks are built
    return source


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that is negative, or has more than 63 bits."""
    if seed < 0:
        raise ValueError(f"seed must not be negative: {seed}")
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2**63: {shown(seed)}")


def open_unscaled(path: str, *, wanted: int | None, exactly: bool, seed: int) -> ImageSource:
    """The images as they are stored.

    Of several stored resolutions the `wanted` one is taken. If it is not there and need not be met
    `exactly`, the next larger one is taken, or the largest. Raises what `open_images` raises.
    """
    if path.startswith(FACES):
        return _faces(path, wanted, seed)
    place = user_path(path)
    if place.name == DATABASE and place.is_file():
        place = place.parent
    if place.is_dir():
        refuse_run_folder(path, place)
        if (place / DATABASE).is_file():
            try:
                return _lmdb(str(place), wanted, exactly)
            except RefusedImage as reason:
                raise ValueError(f"{path}: its index {reason}") from reason
        for name in (place.name, *FOLDERS):
            folder = place if name == place.name else place / name
            if name in FOLDERS and folder.is_dir():
                return CIFARSource(str(folder))
        return FolderSource(str(place))
    with place.open("rb"):  # raises OSError naming the file
        pass
    if place.name in ARCHIVES:
        return CIFARSource(str(place))
    if place.suffix.lower() == ".zip":
        return ZipSource(str(place))
    raise ValueError(f"{path} is no data set; give {KINDS}")


def _faces(path: str, resolution: int | None, seed: int) -> ImageSource:
    count = path.removeprefix(FACES)
    if not (re.fullmatch("[0-9]{1,9}", count) and 1 <= int(count) <= MOST_FACES):
        raise ValueError(
            f"faces:N needs a whole number of faces from 1 to {MOST_FACES:,}: {path[:80]}"
        )
    if resolution is None:
        raise ValueError(f"{path} has no size of its own; give a resolution")
    return FacesSource(int(count), resolution=resolution, seed=seed)


def _lmdb(path: str, wanted: int | None, exactly: bool) -> ImageSource:
    stored = stored_resolutions(path)
    if not stored:
        return LSUNSource(path)
    if wanted in stored:
        return MultiResolutionSource(path, wanted)
    if len(stored) == 1 and wanted is None:
        return MultiResolutionSource(path, stored[0])
    if wanted is None or exactly:
        raise ValueError(
            f"{path} holds images of {', '.join(map(str, stored))}: the resolution must be one of "
            f"them, and is {wanted}; or scale while reading (data.resize=bilinear)"
        )
    return MultiResolutionSource(path, next((r for r in stored if r > wanted), stored[-1]))
