"""Class labels in the networks: an embedding of them, and checks of the labels themselves.

Legend: B batch, C channels, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ops.checks import check_tensor, keep_whole, kind
from stylenat.text import listed, shown


def keep_classes(config: Any) -> None:
    """Raises ValueError unless a config's `classes` is a whole number, 0 (none) or at least 2."""
    keep_whole(config, "classes")
    if config.classes < 0 or config.classes == 1:
        raise ValueError(f"classes must be 0 for no classes, or at least 2: {config.classes}")


def keep_class_names(config: Any) -> None:
    """Raises ValueError unless `class_names` is empty, or holds one name for each class; a list
    becomes a tuple."""
    names = config.class_names
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"class_names must be a list of names, not {kind(names)}: {names!r}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"class_names must hold only names that are not empty: {name!r}")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"class_names must differ from each other: {listed(twice)}")
    if names and not config.classes:
        raise ValueError(f"class_names must be empty without classes: {listed(names)}")
    if names and len(names) != config.classes:
        raise ValueError(
            f"class_names must hold a name for each of {config.classes} classes, or none: "
            f"{len(names)} names"
        )
    object.__setattr__(config, "class_names", tuple(names))


def check_labels(labels: object, images: Tensor, *, classes: int, network: str) -> None:
    """Raises ValueError unless labels are int64 [B] on the device of `images` [B, ...], 0 to N - 1.

    A network without classes takes None. Values are looked at only on the CPU, since to ask a GPU
    would stall it.
    """
    if classes == 0:
        if labels is not None:
            raise ValueError(f"this {network} has no classes: call it without labels")
        return
    if labels is None:
        raise ValueError(
            f"this {network} has {classes} classes: give labels, a whole number from 0 to "
            f"{classes - 1} for each image"
        )
    check_tensor("labels", labels)
    assert isinstance(labels, Tensor)
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be int64 [B] = [{len(images)}]: {labels.dtype} {list(labels.shape)}"
        )
    if labels.device != images.device:
        raise ValueError(
            f"labels and the {network} must be on one device: {labels.device} and "
            f"{images.device}; use labels.to('{images.device}')"
        )
    # A fake tensor has no values, nor has one that is being compiled for.
    if labels.is_cpu and type(labels) is Tensor and not torch.compiler.is_compiling():
        wrong = labels[(labels < 0) | (labels >= classes)].tolist()
        if wrong:
            raise ValueError(
                f"labels must be from 0 to {classes - 1}, the {network}'s classes: {wrong[0]}"
            )


def class_index(text: str, *, classes: int, names: Sequence[str]) -> int:
    """The class of this name, or otherwise of this number. Raises ValueError if there is none."""
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < classes:
        return int(text)
    raise ValueError(f"there is no class {shown(text)}: {classes_in_words(classes, names)}")


def classes_in_words(classes: int, names: Sequence[str]) -> str:
    """Which classes a model has: their numbers, and their names if they have some."""
    said = f"this model has the classes 0 to {classes - 1}"
    named = [f"{index} {name}" for index, name in enumerate(names)]
    return f"{said}: {listed(named)}" if named else said
