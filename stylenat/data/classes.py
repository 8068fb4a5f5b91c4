"""Classes of images: labels that number them, and folders that name them.

Legend: N images.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from stylenat.data.listing import normal
from stylenat.data.readers import NamedFiles
from stylenat.data.source import ImageSource, _Derived, hashed
from stylenat.text import listed, shown


def class_labels(source: ImageSource, classes: int) -> np.ndarray:
    """The class of every image, int64 [N], each of them from 0 to `classes` - 1.

    Raises ValueError, one sentence that names the data or the image, if labels are missing, are no
    classes, or are too large, and if the data name another number of classes.
    """
    labels = [source.label(index) for index in range(len(source))]
    missing = [index for index, label in enumerate(labels) if label is None]
    if len(missing) == len(labels):
        raise ValueError(
            f"{source.path} has no labels, and a model of {classes} classes needs one for each "
            "image: if they lie in folders, one for each class, `stylenat prepare SOURCE DEST.zip "
            "--resolution R --labels-from-folders` makes a data set with labels"
        )
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(labels):,} images have no label, and a model of {classes} "
            f"classes needs one for each: the first one is {source.place(missing[0])}"
        )
    for index, label in enumerate(labels):
        if not isinstance(label, int):
            raise ValueError(
                f"the label of {source.place(index)} must be a class, a whole number from 0 to "
                f"{classes - 1}: {shown(label)}"
            )
    found = np.array(labels, dtype=np.int64)
    if (largest := int(found.max())) >= classes:
        raise ValueError(
            f"the label of {source.place(int(found.argmax()))} must be from 0 to {classes - 1}, "
            f"since the model has {classes} classes: {largest}; the data need at least "
            f"model.classes={largest + 1}"
        )
    if source.class_names and len(source.class_names) != classes:
        named = len(source.class_names)
        raise ValueError(
            f"{source.path} names {named} classes, and the model has {classes}: set "
            f"model.classes={named}"
        )
    return found


class FolderLabels(_Derived):
    """Files in folders, each folder a class that has its name, numbered in the names' order.

    The folder is the first one of a file's name: `cats/grey/0.png` is one of `cats`. Raises
    ValueError for another kind of data set, files that lie in no folder, and fewer than two
    folders.
    """

    def __init__(self, source: ImageSource) -> None:
        if not isinstance(source, NamedFiles):
            raise ValueError(
                f"--labels-from-folders is for a folder or a zip of images: {source.path} is "
                "another kind of data set"
            )
        super().__init__(source)
        folders = [_folder(name) for name in source.names]
        loose = [name for name, folder in zip(source.names, folders, strict=True) if not folder]
        if loose:
            raise ValueError(
                f"--labels-from-folders needs every image in a folder that names its class: "
                f"{len(loose):,} of {len(folders):,} lie in none, {listed(loose)}"
            )
        self.counts = Counter(folders)
        if len(self.counts) < 2:
            raise ValueError(
                f"--labels-from-folders needs at least 2 folders in {source.path}: all images lie "
                f"in {folders[0]}"
            )
        self.left_out = source.left_out
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = [numbers[folder] for folder in folders]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.counts))

    def label(self, index: int) -> int:
        return self.labels[index]

    @property
    def remarks(self) -> tuple[str, ...]:
        named = [f"{name} ({self.counts[name]:,} images)" for name in self.class_names]
        return (f"{len(named)} classes: {listed(named)}", *self.left_out)

    def fingerprint(self) -> str:
        return hashed("folders", self.source.fingerprint())


def _folder(name: str) -> str:
    """The first folder of a file's name; empty if it lies in none."""
    folder, slash, _ = normal(name).partition("/")
    return folder if slash else ""
