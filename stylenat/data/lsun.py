"""Images in an LMDB: LSUN as distributed, and the multi-resolution layout of StyleGAN2-pytorch.

LSUN: one encoded image per key; the keys are arbitrary bytes. Multi-resolution: keys
`{resolution}-{index:05d}`, and `length`, the number of images in decimal digits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylenat.data.images import ImageError, RefusedImage, decode
from stylenat.data.source import ImageSource, hashed, hashed_bytes
from stylenat.files import cache_folder, private_folder, replacing
from stylenat.progress import progress_bar

DATABASE = "data.mdb"
LENGTH = b"length"

# LMDB must not be opened twice in a process, so all data sets share its handles.
_open: dict[str, tuple[int, Any]] = {}


def environment(folder: str) -> Any:
    """This process's lmdb.Environment of a folder, read-only.

    Raises ValueError for a folder whose `data.mdb` is no LMDB or was cut short, and without the
    lmdb package. (LMDB maps the file: reading the missing part would end the process.)
    """
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ValueError(f"{folder}: an LMDB needs the lmdb package: pip install lmdb") from error
    path = str(Path(folder).resolve())
    owner, opened = _open.get(path, (0, None))
    if owner == os.getpid():
        return opened
    if opened is not None:  # inherited through a fork
        opened.close()
    try:
        opened = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise ValueError(f"{folder} is no readable LMDB: {error}") from error
    needed = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
    size = (Path(path) / DATABASE).stat().st_size
    if size < needed:
        opened.close()
        raise ValueError(f"{folder}/{DATABASE} is cut short: {size:,} of {needed:,} bytes")
    _open[path] = (os.getpid(), opened)
    return opened


@contextlib.contextmanager
def reading(folder: str) -> Iterator[Any]:
    """A transaction. Raises RefusedImage if LMDB finds the file damaged."""
    opened = environment(folder)
    import lmdb

    try:
        with opened.begin() as transaction:
            yield transaction
    except lmdb.Error as error:
        raise RefusedImage(f"is in a damaged part of {DATABASE}: {error}") from error


class LMDBSource(ImageSource):
    """Encoded images by key."""

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def key(self, index: int) -> bytes: ...

    def name(self, index: int) -> str:
        key = self.key(index)
        text = key.decode("ascii", "replace")
        return f"key {text if text.isprintable() and text.isascii() else '0x' + key.hex()}"

    def image(self, index: int) -> Image.Image:
        try:
            with reading(self.path) as transaction:
                data = transaction.get(self.key(index))
            if data is None:
                raise RefusedImage("is missing")
            return decode(data)
        except RefusedImage as reason:
            raise ImageError(self.place(index), str(reason)) from reason

    def _state(self) -> tuple[int, int, int]:
        """Size, time of change and number of entries."""
        state = (Path(self.path) / DATABASE).stat()
        return state.st_size, state.st_mtime_ns, environment(self.path).stat()["entries"]


class LSUNSource(LMDBSource):
    """A database whose every entry is an image, in the order of the keys."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.keys = _cached_keys(path, self._state())
        if not len(self.keys):
            raise ValueError(f"{path} holds no images")

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> bytes:
        return self.keys[index]

    def fingerprint(self) -> str:
        return hashed("lsun", *self._state(), self.keys.fingerprint())


class MultiResolutionSource(LMDBSource):
    """The images of one of the resolutions that the database holds."""

    resolution: int

    def __init__(self, path: str, resolution: int) -> None:
        super().__init__(path)
        self.resolution = resolution
        with reading(path) as transaction:
            self.length = int(transaction.get(LENGTH))
            if self.length < 1:
                raise ValueError(f"{path} holds no images")
            if transaction.get(self.key(self.length - 1)) is None:
                raise ValueError(
                    f"{path} is incomplete: it claims {self.length:,} images and lacks "
                    f"{self.name(self.length - 1)}"
                )
            entries = environment(path).stat()["entries"]
            if self.length > entries:
                raise ValueError(
                    f"{path} is incomplete: it claims {self.length:,} images and has {entries:,} "
                    "entries"
                )

    def __len__(self) -> int:
        return self.length

    def key(self, index: int) -> bytes:
        return b"%d-%05d" % (self.resolution, index)

    def fingerprint(self) -> str:
        return hashed("multi-resolution", *self._state(), self.length, self.resolution)


def stored_resolutions(path: str) -> list[int]:
    """The resolutions of a multi-resolution LMDB, ascending; none if it is of another kind."""
    found = []
    with reading(path) as transaction:
        if not (transaction.get(LENGTH) or b"").isdigit():
            return []
        cursor = transaction.cursor()
        at_entry = cursor.first()
        while at_entry:
            prefix, dash, _ = cursor.key().partition(b"-")
            if dash and prefix.isdigit():
                found.append(int(prefix))
            # The keys are sorted: go on to the first one after this prefix and its dash.
            at_entry = cursor.set_range(prefix + b"." if dash else cursor.key() + b"\0")
    return sorted(found)


class Keys:
    """Byte strings in one array: millions of Python objects would be copied into every worker."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self.data = data  # uint8, the strings one after another
        self.ends = ends  # int64, one per string

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes()

    def fingerprint(self) -> str:
        return hashed_bytes((self.data.tobytes(), self.ends.tobytes()))


def _cached_keys(path: str, state: tuple[int, int, int]) -> Keys:
    """All keys, from the user's cache folder if they were read before. Reading takes minutes."""
    identity = repr((str(Path(path).resolve()), *state))
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        file = cache_folder() / "lmdb_keys" / f"{digest}.npz"
    except OSError as error:  # no home
        _warn_that_keys_are_not_kept(path, str(error))
        return _read_keys(path, entries=state[2])
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Keys(stored["data"], stored["ends"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # absent, or damaged: it is made again
    keys = _read_keys(path, entries=state[2])
    try:
        private_folder(file.parent)
        with replacing(file) as temporary, temporary.open("wb") as handle:
            np.savez(handle, data=keys.data, ends=keys.ends)
    except OSError as error:
        _warn_that_keys_are_not_kept(path, f"{file.parent}: {error.strerror or error}")
    return keys


def _warn_that_keys_are_not_kept(path: str, reason: str) -> None:
    warnings.warn(
        f"the keys of {path} can't be kept, and are read each time: {reason}; set STYLENAT_CACHE",
        stacklevel=2,
    )


def _read_keys(path: str, *, entries: int) -> Keys:
    keys = []
    description = f"Reading the keys of {Path(path).name}"
    with reading(path) as transaction, progress_bar(description, entries) as advance:
        for key in transaction.cursor().iternext(values=False):
            keys.append(key)
            advance(1)
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    return Keys(np.frombuffer(b"".join(keys), np.uint8), ends)
