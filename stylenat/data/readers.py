"""Image files in a folder and in a zip, as StyleGAN lays them out: `dataset.json` holds labels."""

from __future__ import annotations

import functools
import itertools
import json
import os
import stat
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from stylenat import layout
from stylenat.data.images import ImageError, RefusedImage, decode, refuse_bytes
from stylenat.data.labels import Labels, class_names_of, match_labels
from stylenat.data.listing import INDEX, Listing, list_folder, normal
from stylenat.data.source import ImageSource, Label, hashed
from stylenat.marks import READ_BYTES
from stylenat.text import listed, printable

# With other methods zipfile unpacks a whole member at once, whatever size it claims.
BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class NamedFiles(ImageSource):
    """Encoded images, sorted by name; a `dataset.json` among them may hold labels."""

    def __init__(self, path: str, listing: Listing) -> None:
        self.path = path
        self.names = sorted(listing.images)
        self.index_name = listing.index
        self.left_out = listing.remarks()
        if not self.names:
            raise ValueError(": ".join([f"{path} holds no images", *self.left_out[:1]]))

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """A file's content. Raises RefusedImage."""

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

    @property
    def labels(self) -> dict[str, Label]:
        """The labels of the images, by name. Raises ValueError for labels that can't be used."""
        return self.matched.by_name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.matched.class_names

    @functools.cached_property
    def matched(self) -> Labels:
        """The labels of `dataset.json`. Raises ValueError if some can't be used."""
        content = self.index()
        try:
            labels = match_labels(content.get("labels"), self.names)
            return replace(labels, class_names=class_names_of(content.get("stylenat")))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    @property
    def remarks(self) -> tuple[str, ...]:
        try:
            return (*self.matched.remarks(len(self)), *self.left_out)
        except ValueError as error:  # of labels that nobody may ask for
            return (str(error), *self.left_out)

    def index(self) -> dict[str, Any]:
        """The content of `dataset.json`; empty without one. Raises ValueError if malformed."""
        if self.index_name is None:
            return {}
        try:
            content = json.loads(self.read_bytes(self.index_name))
        except RefusedImage as reason:
            raise ValueError(f"{self.path}: {INDEX} {reason}") from reason
        except (ValueError, RecursionError) as error:
            sentence = f"{self.path}: {INDEX} is malformed: {error}"
            raise ValueError(printable(sentence)) from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.path}: {INDEX} must hold an object with `labels`")
        return content


class FolderSource(NamedFiles):
    """Every image file below a folder. Links are followed, unless they lead back up."""

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        super().__init__(path, list_folder(self.root))

    def place(self, index: int) -> str:
        return printable(str(self.root / self.names[index]))

    def read_bytes(self, name: str) -> bytes:
        file = self.root / name
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
    except OSError:  # there is no index, or a broken link, which is named when it is read
        return -1, -1
    return state.st_size, state.st_mtime_ns


class ZipSource(NamedFiles):
    """The image members of a zip, read in place."""

    def __init__(self, path: str) -> None:
        self.file = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        members = [name for name in self.archive().namelist() if not name.endswith(("/", "\\"))]
        if twice := [name for name, count in Counter(members).items() if count > 1]:
            raise ValueError(f"{path} holds members of the same name: {listed(twice)}")
        listing = Listing()
        run_folders = _run_folders(members)
        for name in members:
            if not (run_folders and run_folders.intersection(_folders(name))):
                listing.add(name, self._first_bytes)
        listing.run_folders += run_folders
        for name in () if listing.images else members:
            if name.endswith("data.mdb"):  # LSUN is distributed like this
                sentence = f"{path} holds an LMDB, {name}: unpack it, and name its folder"
                raise ValueError(printable(sentence))
        super().__init__(path, listing)

    def _first_bytes(self, name: str) -> bytes:
        if self.archive().getinfo(name).compress_type not in BOUNDED_METHODS:
            return b""
        try:
            with self.archive().open(name) as file:
                return file.read(READ_BYTES)
        except Exception:  # named when the image is read
            return b""

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
            raise RefusedImage("is compressed by another method than deflate; make the zip again")
        try:
            with archive.open(member) as file:
                return file.read(member.file_size)  # no more, whatever the data would unpack to
        except Exception as error:  # from zlib, lzma or struct, or from zipfile for a wrong CRC
            raise RefusedImage(printable(f"is damaged within the zip: {error}")) from error

    def fingerprint(self) -> str:
        archive = self.archive()
        members = self.names if self.index_name is None else [*self.names, self.index_name]
        sums = sorted((member.filename, member.CRC) for member in map(archive.getinfo, members))
        return hashed("zip", *itertools.chain.from_iterable(sums))


def _folders(name: str) -> Iterator[str]:
    """The folders that a member lies in, from the outermost on."""
    name = normal(name)
    for end in (i for i, letter in enumerate(name) if letter == "/"):
        yield name[:end]


def _run_folders(members: Sequence[str]) -> set[str]:
    """The folders of a zip that `stylenat train` made."""
    configs, others = set(), set()
    has_config = any(name.endswith(layout.CONFIG) for name in members)
    for name in map(normal, members if has_config else ()):
        folder, _, file = name.rpartition("/")
        if file == layout.CONFIG:
            configs.add(folder)
        elif file == layout.STATS:
            others.add(folder)
        others.update(
            f.rpartition("/")[0] for f in _folders(name) if f.endswith(f"/{layout.CHECKPOINTS}")
        )
    return (configs & others) - {""}
