"""Read what other people's files hold, without running anything of it.

A checkpoint is a zip archive of a pickle, which can name any function to call, and of raw tensor
data, whose checksums PyTorch does not check. So we check the archive, list the functions that the
pickle names, refuse all but PyTorch's own and an inert Namespace, and only then load it with
`weights_only`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from stylenat.files import naming
from stylenat.text import first_line, listed, printable

ZIP_MAGIC = b"PK\x03\x04"
NAMESPACE = "argparse.Namespace"
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError)


class InertNamespace:
    """Stands in for `argparse.Namespace`: keeps the fields, runs nothing."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("a Namespace must hold names and values")
        vars(self).update(state)


def fields(section: object) -> dict[str, Any]:
    """The named values of a dict or a Namespace; empty for anything else."""
    held = vars(section) if isinstance(section, InertNamespace) else section
    if not isinstance(held, dict):
        return {}
    # Not held.items(): a crafted OrderedDict can carry an attribute of that name.
    return {name: value for name, value in dict.items(held) if isinstance(name, str)}


def is_plain(value: object) -> bool:
    """Whether a value is a dense tensor whose every element is stored in the file."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def load_untrusted(path: Path, *, mapped: bool = True) -> object:
    """What `torch.save` wrote to a file. No function that the file names is run.

    Tensors that are `mapped` need the file for as long as they are used. Raises as `read_official`,
    which says what is refused.
    """
    _check_archive(path)
    with safe_globals([(InertNamespace, NAMESPACE)]):
        with _unpickling(path):
            unsafe = sorted(get_unsafe_globals_in_checkpoint(path))
        if unsafe:
            raise ValueError(
                f"{path} is refused: loading it would call {listed(unsafe)}, and a checkpoint "
                f"needs nothing but PyTorch's own functions and {NAMESPACE}"
            )
        with _unpickling(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _check_archive(path: Path) -> None:
    with naming(path), path.open("rb") as file:
        start = file.read(len(ZIP_MAGIC))
    if not start:
        raise ValueError(f"{path} is empty")
    if start != ZIP_MAGIC:
        raise ValueError(
            f"{path} is not a PyTorch checkpoint in zip format; older formats run code on loading "
            "and are refused: if you trust the file, save it again with PyTorch 1.6 or later"
        )
    fault = None
    try:
        with zipfile.ZipFile(path) as archive:
            fault = _fault(archive.infolist(), path.stat().st_size)
            if fault is None and (damaged := archive.testzip()) is not None:
                fault = f"is damaged: {damaged} fails its checksum"
    except DAMAGE as error:
        raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error
    if fault is not None:
        raise ValueError(printable(f"{path} {fault}"))


def _fault(members: list[zipfile.ZipInfo], file_bytes: int) -> str | None:
    """What PyTorch would not have written into the archive's directory; None if nothing."""
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        return "is refused: two members of the archive have one name"
    if any(member.compress_type or member.flag_bits & 1 for member in members):
        return "is refused: PyTorch stores its data neither compressed nor encrypted"
    claimed = sum(max(member.file_size, member.compress_size) for member in members)
    if claimed > file_bytes:
        return f"is refused: its members claim {claimed:,} bytes in a file of {file_bytes:,}"
    inner = {PurePosixPath(name).name for name in names if name.count("/") == 1}
    if "data.pkl" not in inner:
        return "is a zip archive, but no PyTorch checkpoint: it has no data.pkl"
    if "constants.pkl" in inner:
        return "is a TorchScript program, not a checkpoint"
    return None


@contextmanager
def _unpickling(path: Path) -> Iterator[None]:
    try:
        yield
    # A crafted stream can make an unpickler raise anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error


def misfits(
    expected: Mapping[str, Sequence[int]],
    found: Mapping[str, Any],
    **others: Sequence[str],
) -> str:
    """How the tensors `found` differ from the expected ones, whose shapes are given.

    `2 missing (a, b); 1 of another shape (c [3] instead of [4])`; empty if nothing does. `others`
    are further faults and the names that they concern: `left_over` in place of all names that are
    not expected, or `not_finite=["a"]`.
    """
    left_over = others.pop("left_over", [name for name in found if name not in expected])
    faults: dict[str, Sequence[str]] = {
        "missing": [name for name in expected if name not in found],
        "left over": left_over,
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if isinstance(found.get(name), Tensor) and found[name].shape != torch.Size(shape)
        ],
        **{what.replace("_", " "): names for what, names in others.items()},
    }
    return "; ".join(
        f"{len(names)} {what} ({listed(names)})" for what, names in faults.items() if names
    )
