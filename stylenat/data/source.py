"""What every data set offers, whatever its format; subsets and scaling on top of that.

Legend: H height, W width, R resolution.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from stylenat.choices import Filter
from stylenat.data.faces import DRAWING_VERSION, draw_face
from stylenat.data.images import ImageError, RefusedImage, scale_and_crop
from stylenat.text import printable, shell_word

MOST_UNREADABLE = 100  # images in a row; more than that are no accident

Label = int | list[float]  # StyleGAN's: a class, or numbers such as a camera's


class ImageSource(ABC):
    """A data set, by index. It can be pickled, and opens its files once in each process.

    A subclass defines `image`; everything that gives pixels calls it.

    `path`: as the user gave it. `resolution`: the side of every image, None if that is not
    known beforehand.
    """

    path: str
    resolution: int | None = None

    @property
    def title(self) -> str:
        """The data set's name, without the folders that it lies in."""
        return Path(self.path).resolve().name

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The picture, RGB. Raises ValueError, one sentence that names the image."""

    def read(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], RGB, 0..255, contiguous. Raises ValueError as `image` does."""
        image = self.image(index)
        assert image.mode == "RGB"
        return np.array(image)

    def readable(self, index: int) -> int:
        """The first index from this one on whose image can be read; after the last comes 0.

        Raises the first ImageError if 100 in a row can't be read, and other errors at once.
        """
        refused: ImageError | None = None
        for step in range(min(MOST_UNREADABLE, len(self))):
            found = (index + step) % len(self)
            try:
                self.image(found)
            except ImageError as error:
                refused = refused or error
            else:
                return found
        assert refused is not None
        raise refused

    @abstractmethod
    def name(self, index: int) -> str:
        """The name of the file within the folder, of the zip's member, or of the database's key."""

    def place(self, index: int) -> str:
        """Where the image is, for messages."""
        return printable(f"{self.path}: {self.name(index)}")

    def label(self, index: int) -> Label | None:
        """The image's label if the data set has labels."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that labels number from 0 up; empty if they have none."""
        return ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of the data: sentences on labels and on what was left out."""
        return ()

    @abstractmethod
    def fingerprint(self) -> str:
        """A hexadecimal hash that differs if the images differ; the images are not read for it."""

    def describe(self) -> str:
        """One line: name, number and size of the images."""
        size = f", {self.resolution}x{self.resolution}" if self.resolution else ""
        return f"{self.title}: {self._count()}{size}"

    def _count(self) -> str:
        return f"{len(self):,} image{'' if len(self) == 1 else 's'}"


def hashed(*parts: object) -> str:
    """SHA-256 of the parts' texts, each with its length."""
    return hashed_bytes(str(part).encode("utf-8", "surrogateescape") for part in parts)


def hashed_bytes(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class FacesSource(ImageSource):
    """The first `count` drawn faces of a seed; there is no file."""

    def __init__(self, count: int, *, resolution: int, seed: int) -> None:
        self.path = f"faces:{count}"
        self.count = count
        self.resolution: int = resolution
        self.seed = seed

    @property
    def title(self) -> str:
        return self.path

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        assert 0 <= index < self.count
        return Image.fromarray(draw_face(index, self.resolution, seed=self.seed))

    def name(self, index: int) -> str:
        return f"face {index}"

    def fingerprint(self) -> str:
        return hashed("faces", self.count, self.resolution, self.seed, DRAWING_VERSION)


class _Derived(ImageSource):
    """A data set made of another one's images."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.path = source.path
        self.resolution = source.resolution

    @property
    def title(self) -> str:
        return self.source.title

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Image.Image:
        return self.source.image(index)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def place(self, index: int) -> str:
        return self.source.place(index)

    def label(self, index: int) -> Label | None:
        return self.source.label(index)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.source.remarks

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def _count(self) -> str:
        return self.source._count()


class SubsetSource(_Derived):
    """The images of these indices, in the data set's order."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        super().__init__(source)
        self.indices = np.sort(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.source.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def place(self, index: int) -> str:
        return self.source.place(int(self.indices[index]))

    def label(self, index: int) -> Label | None:
        return self.source.label(int(self.indices[index]))

    def fingerprint(self) -> str:
        return hashed("subset", self.source.fingerprint(), self.indices.tolist())

    def _count(self) -> str:
        return f"{len(self):,} of {self.source._count()}"


class ScaledSource(_Derived):
    """Every image scaled and cropped to [R, R] while it is read."""

    def __init__(self, source: ImageSource, *, resolution: int, resize: Filter) -> None:
        super().__init__(source)
        self.resolution: int = resolution
        self.resize: Filter = resize

    def image(self, index: int) -> Image.Image:
        image = self.source.image(index)
        try:
            return scale_and_crop(image, self.resolution, self.resize)
        except RefusedImage as reason:
            raise ImageError(self.place(index), str(reason)) from reason

    def fingerprint(self) -> str:
        return hashed("scaled", self.source.fingerprint(), self.resolution, self.resize)

    def describe(self) -> str:
        return f"{super().describe()} ({self.resize})"


class SizedSource(_Derived):
    """A data set whose images must all be [R, R]; another size is refused when it is read."""

    def __init__(self, source: ImageSource, *, resolution: int) -> None:
        super().__init__(source)
        self.resolution: int = resolution

    def image(self, index: int) -> Image.Image:
        image = self.source.image(index)
        width, height = image.size
        side = self.resolution
        if (width, height) != (side, side):
            # No ImageError: nothing is wrong with the image, so another one must not replace it.
            command = f"stylenat prepare {shell_word(self.path)} DEST.zip --resolution {side}"
            raise ValueError(
                f"{self.place(index)} must be {side}x{side}: it is {width}x{height}; run "
                f"`{command}`, or scale while reading (data.resize=bilinear)"
            )
        return image


def split_off(source: ImageSource, count: int, *seeds: int) -> tuple[SubsetSource, SubsetSource]:
    """`count` images drawn at random with the seeds, and all the others."""
    shuffled = random_state(*seeds).permutation(len(source))
    return SubsetSource(source, shuffled[:count]), SubsetSource(source, shuffled[count:])


def random_state(*seeds: int) -> np.random.RandomState:
    """Random numbers of one or more non-negative seeds; no NumPy version changes this stream."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seeds)))
