"""Image files in a folder and in a zip, as StyleGAN lays them out: `dataset.json` holds labels."""

from __future__ import annotations

import functools
import itertools
import json
import os
import stat
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from stylenat.config.words import printable
from stylenat.data.images import EXTENSIONS, ImageError, RefusedImage, decode, refuse_bytes
from stylenat.data.source import ImageSource, Label, hashed

INDEX = "dataset.json"
# Of the other methods zipfile unpacks a whole member at once, whatever size it claims.
BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def is_image_name(name: str) -> bool:
    """By extension. Hidden files, such as macOS leaves beside every image in a zip, are none."""
    *folders, file = name.split("/")
    hidden = any(part.startswith(".") for part in (*folders, file))
    return not hidden and os.path.splitext(file)[1].lower() in EXTENSIONS  # noqa: PTH122 (a name)


class NamedFiles(ImageSource):
    """Encoded images by name, sorted; `dataset.json` among them may label them."""

    def __init__(self, path: str, names: Iterable[str]) -> None:
        self.path = path
        self.names = sorted(names)
        if not self.names:
            raise ValueError(f"{path} holds no images")

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """A file's content. Raises RefusedImage, or KeyError where there is none of that name."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def image(self, index: int) -> Image.Image:
        try:
            return decode(self.read_bytes(self.names[index]))
        except RefusedImage as reason:
            raise ImageError(self.place(index), str(reason)) from reason

    def label(self, index: int) -> Label | None:
        return self.labels.get(self.names[index])

    @functools.cached_property
    def labels(self) -> dict[str, Label]:
        """By name, as `dataset.json` has them. Raises ValueError for a malformed one."""
        content = self.index()
        try:
            return {name: _checked_label(label) for name, label in content.get("labels") or ()}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path}: labels in {INDEX} must be pairs of a name and a number or list of "
                f"numbers: {error}"
            ) from error

    def index(self) -> dict[str, Any]:
        """The content of `dataset.json`; empty without one. Raises ValueError if malformed."""
        try:
            content = json.loads(self.read_bytes(INDEX))
        except KeyError:
            return {}
        except RefusedImage as reason:
            raise ValueError(f"{self.path}: {INDEX} {reason}") from reason
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}: {INDEX} is malformed: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.path}: {INDEX} must hold an object with `labels`")
        return content


def _checked_label(label: object) -> Label:
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    if isinstance(label, list) and all(isinstance(x, int | float) for x in label):
        return label
    raise ValueError(f"unusable label {label!r:.80}")


class FolderSource(NamedFiles):
    """Every image file below a folder. Links are followed, unless they lead back up."""

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        super().__init__(path, _walk(self.root, "", (_identity(self.root),)))

    def place(self, index: int) -> str:
        return printable(str(self.root / self.names[index]))

    def read_bytes(self, name: str) -> bytes:
        file = self.root / name
        if name == INDEX and not file.exists():
            raise KeyError(name)
        try:
            state = file.stat()
            if not stat.S_ISREG(state.st_mode):  # a pipe would keep its reader waiting for ever
                raise RefusedImage("is no regular file")
            refuse_bytes(state.st_size)
            return file.read_bytes()
        except OSError as error:
            raise RefusedImage(f"can't be read: {error.strerror}") from error

    def fingerprint(self) -> str:
        files = ((name, *_size_and_time(self.root / name)) for name in (INDEX, *self.names))
        return hashed("folder", *itertools.chain.from_iterable(files))


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError:  # no index; or a broken link, named when it is read
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of image files relative to the data set's folder, with slashes.

    Raises OSError for a folder that can't be listed: else its images would be missing in silence.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if not Path(entry.path).is_dir():
                if is_image_name(entry.name):
                    yield prefix + entry.name
            elif not entry.name.startswith("."):
                identity = _identity(Path(entry.path))
                if identity not in above:
                    inner = f"{prefix}{entry.name}/"
                    yield from _walk(Path(entry.path), inner, (*above, identity))


class ZipSource(NamedFiles):
    """The image members of a zip, read in place."""

    def __init__(self, path: str) -> None:
        self.file = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        members = self.archive().namelist()
        names = {name for name in members if is_image_name(name)}
        for name in () if names else members:
            if name.endswith("data.mdb"):  # LSUN comes so
                raise ValueError(f"{path} holds an LMDB, {name}: unpack it, and name its folder")
        super().__init__(path, names)

    def archive(self) -> zipfile.ZipFile:
        """This process's own handle: a file position must not be shared with another process."""
        if self._archive is None or self._owner != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.file)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                sentence = f"{self.file} is no zip, or damaged: {error}"
                raise ValueError(printable(sentence)) from error
            self._owner = os.getpid()
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def read_bytes(self, name: str) -> bytes:
        archive = self.archive()
        member = archive.getinfo(name)
        refuse_bytes(member.file_size)
        if member.compress_type not in BOUNDED_METHODS:
            raise RefusedImage("is packed by another method than deflate; pack the zip anew")
        try:
            with archive.open(member) as file:
                return file.read(member.file_size)  # no more, whatever the data would unpack to
        except Exception as error:  # zlib's, lzma's, struct's, or for a wrong CRC zipfile's own
            raise RefusedImage(printable(f"is damaged within the zip: {error}")) from error

    def fingerprint(self) -> str:
        archive = self.archive()
        sums = sorted(
            (member.filename, member.CRC)
            for member in archive.infolist()
            if member.filename == INDEX or is_image_name(member.filename)
        )
        return hashed("zip", *itertools.chain.from_iterable(sums))
