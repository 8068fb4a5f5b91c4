"""The labels of `dataset.json`: what they may be, and which image each belongs to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stylenat.data.listing import INDEX, normal
from stylenat.data.source import Label
from stylenat.text import listed, shortened, shown

CLASS_NAMES = "class_names"  # in the block `stylenat`
MOST = 2**63  # PyTorch's and NumPy's integers end there


@dataclass(frozen=True)
class Labels:
    """`by_name`: the label of every image that has one. `missing`: labels without an image.

    `class_names`: what the classes 0, 1, ... are called; empty if that is not said.
    """

    by_name: dict[str, Label]
    missing: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def remarks(self, images: int) -> tuple[str, ...]:
        """How many images have a label, and which labels have no image; none without labels."""
        if not (self.by_name or self.missing):
            return ()
        have = "image has" if images == 1 else "images have"
        said = [f"{len(self.by_name):,} of {images:,} {have} a label in {INDEX}"]
        if self.missing:
            number = len(self.missing)
            ones = "1 image that is" if number == 1 else f"{number:,} images that are"
            said.append(f"{INDEX} labels {ones} not there: {listed(self.missing)}")
        return tuple(said)


def match_labels(content: Any, names: Sequence[str]) -> Labels:
    """The labels of a `dataset.json` for the images of these names.

    Names are compared as `normal` writes them. A label whose file is not there belongs to the image
    with the same name and another extension, if there is exactly one such image and one such label.
    Raises ValueError for labels that can't be used, and for two names that are the same.
    """
    labels = _checked(content)
    if not labels:
        return Labels({})
    files = _distinct(names, "names of images")
    by_name = {files[name]: label for name, label in labels.items() if name in files}
    rest = [name for name in labels if name not in files]
    of_rest, of_files = Counter(map(_stem, rest)), Counter(map(_stem, files))
    by_stem = {_stem(name): file for name, file in files.items() if file not in by_name}
    missing = []
    for name in rest:
        stem = _stem(name)
        if stem in by_stem and of_rest[stem] == of_files[stem] == 1:
            by_name[by_stem[stem]] = labels[name]
        else:
            missing.append(name)
    return Labels(by_name, tuple(sorted(missing)))


def class_names_of(about: Any) -> tuple[str, ...]:
    """The names of classes that the block `stylenat` of a `dataset.json` holds, if there are some.

    Raises ValueError unless they are different texts.
    """
    names = about.get(CLASS_NAMES) if isinstance(about, dict) else None
    if names is None:
        return ()
    are_texts = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
    if not are_texts or len(set(names)) < len(names):
        raise ValueError(
            f"{CLASS_NAMES} in {INDEX} must be a list of names that differ: {shown(names)}"
        )
    return tuple(names)


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _distinct(names: Iterable[str], what: str) -> dict[str, str]:
    """Every name by its normal form. Raises ValueError if two names have one form."""
    found: dict[str, str] = {}
    for name in names:
        plain = normal(name)
        if plain in found:
            raise ValueError(f"two {what} are the same: {listed([found[plain], name])}")
        found[plain] = name
    return found


def _checked(content: Any) -> dict[str, Label]:
    """Labels by normal name."""
    if content is None:
        return {}
    is_list = isinstance(content, list)
    for pair in content if is_list else ():
        is_list = is_list and isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
        if not is_list:
            raise ValueError(_pairs(pair))
    if not is_list:
        raise ValueError(_pairs(content))
    _distinct((str(name) for name, _ in content), f"names in {INDEX}")
    first: tuple[str, Label] | None = None
    for name, label in content:
        if reason := _fault(label):
            raise ValueError(f"the label of {_called(name)} in {INDEX} {reason}: {shown(label)}")
        first = first or (name, label)
        if _kind(label) != _kind(first[1]):
            raise ValueError(
                f"all labels in {INDEX} must be classes, or lists of one length: "
                f"{_called(first[0])} has {shown(first[1])}, and {_called(name)} {shown(label)}"
            )
    return {normal(name): label for name, label in content}


def _pairs(value: object) -> str:
    return (
        f"labels in {INDEX} must be pairs of a name and a number or list of numbers: {shown(value)}"
    )


def _called(name: str) -> str:
    return shortened(name) or "''"


def _fault(label: object) -> str:
    """What is wrong with a label: a predicate."""
    if isinstance(label, list):
        if not label:
            return "must not be an empty list"
        if not all(map(_is_finite, label)):
            return "must hold only finite numbers"
        return ""
    if isinstance(label, bool) or not isinstance(label, int):
        return "must be a class, a whole number without a point, or a list of numbers"
    if label < 0:
        return "must be a class from 0 up"
    return "" if label < MOST else "must be a class from 0 up, below 2**63"


def _is_finite(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < MOST
    return isinstance(value, float) and math.isfinite(value)


def _kind(label: Label) -> int | None:
    return len(label) if isinstance(label, list) else None
