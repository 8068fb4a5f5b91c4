"""CIFAR-10 and CIFAR-100, the training images of the archives as distributed, with their labels.

The archives hold pickles. torchvision reads them, but only after their checksums were found to be
those of the published files.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from stylenat.data.source import ImageSource, hashed
from stylenat.files import cache_folder, private_folder, replacing

ARCHIVES = {"cifar-10-python.tar.gz": "CIFAR10", "cifar-100-python.tar.gz": "CIFAR100"}
LARGEST_MEMBER = 200_000_000  # bytes; the largest of the published ones has 155 million
FOLDERS = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}


class CIFARSource(ImageSource):
    """The 50,000 training images, 32x32, of an archive, or of the folder that it unpacks to.

    An archive is unpacked once, into the user's cache folder. Raises ValueError for a file that is
    not the published one, and OSError if it can't be unpacked.
    """

    def __init__(self, path: str) -> None:
        from torchvision.datasets.utils import check_integrity

        self.path = path
        self.resolution = 32
        given = Path(path)
        self.dataset = ARCHIVES.get(given.name) or FOLDERS[given.name]
        kind = self._kind()
        members = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        self.root = given.parent if given.is_dir() else cache_folder() / "cifar"
        for name, md5 in members:
            file = self.root / kind.base_folder / name
            if given.is_file() and not check_integrity(file, md5):
                _unpack(given, f"{kind.base_folder}/{name}", file)
            if not check_integrity(file, md5):
                raise ValueError(f"{path}: {name} is missing, damaged or not the published file")
        self.members = members
        self._opened: Any = None
        self._length = len(self._data())

    def _kind(self) -> Any:
        import torchvision

        return getattr(torchvision.datasets, self.dataset)

    def _data(self) -> Any:
        """torchvision's data set, read again in a process that was not forked."""
        if self._opened is None:
            self._opened = self._kind()(self.root, train=True, download=False)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __len__(self) -> int:
        return self._length

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._data().data[index])

    def name(self, index: int) -> str:
        return f"image {index}"

    def label(self, index: int) -> int:
        return int(self._data().targets[index])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._data().classes)

    def fingerprint(self) -> str:
        return hashed("cifar", self.dataset, *(md5 for _, md5 in self.members))


def _unpack(archive: Path, member: str, file: Path) -> None:
    """Copy one member out of an archive. Raises ValueError if it is damaged or too large."""
    private_folder(file.parent)
    try:
        with tarfile.open(archive) as tar, replacing(file) as temporary:
            content = tar.extractfile(member)
            if content is None:
                raise ValueError(f"{archive}: {member} is no file")
            size = tar.getmember(member).size
            if size > LARGEST_MEMBER:
                raise ValueError(f"{archive}: {member} is not the published file: {size:,} bytes")
            with temporary.open("wb") as handle:
                shutil.copyfileobj(content, handle)
    except (tarfile.TarError, EOFError, KeyError, zlib.error) as error:
        raise ValueError(f"{archive} is damaged, or no CIFAR archive: {error}") from error
