"""Read a published checkpoint without running anything that it holds.

A checkpoint is a zip archive: a pickle, which can name any function to call, and raw tensor data,
whose checksums PyTorch does not look at. So: check the archive, list the functions that the pickle
names, refuse all but PyTorch's own and an inert Namespace, and only then load it, `weights_only`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from stylenat.config.files import naming, user_path
from stylenat.config.words import first_line, listed, printable

ZIP_MAGIC = b"PK\x03\x04"
NAMESPACE = "argparse.Namespace"
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class OfficialCheckpoint:
    """What a published file holds that conversion needs, as it is there.

    `state_dicts`: for each of `g_ema`, `g` and `d` that it has, tensors by their official names.
    `args`: the settings of its training by name, sections among them; may be empty.
    """

    path: Path
    state_dicts: Mapping[str, Mapping[str, Any]]
    args: Mapping[str, Any]


class InertNamespace:
    """Stands in for `argparse.Namespace`: keeps the fields, runs nothing."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("a Namespace must hold names and values")
        vars(self).update(state)


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Open a published checkpoint; its tensors stay in the file, mapped, until they are used.

    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    one that is not PyTorch's zip format, is damaged (every member's CRC is checked), claims more
    data than it has, names a function or class other than a state dict's and `argparse.Namespace`,
    or holds no networks.
    """
    path = user_path(path)
    # Mapped: optimizer states cost nothing, and no claimed size reaches past the file.
    return official(path, load_untrusted(path))


def official(path: Path, content: object) -> OfficialCheckpoint:
    """What `load_untrusted` gave of a published checkpoint. Raises ValueError for anything else."""
    top = fields(content)
    networks = fields(top.get("state_dicts", top))
    state_dicts = {name: fields(networks.get(name)) for name in ("g_ema", "g", "d")}
    state_dicts = {name: tensors for name, tensors in state_dicts.items() if tensors}
    if not state_dicts and "mapping_network.layers.0.weight" in top:
        raise ValueError(
            f"{path} holds a generator's tensors without its configuration: write it with "
            "stylenat.save_generator"
        )
    if not state_dicts:
        raise ValueError(
            f"{path} is no StyleNAT or StyleSwin checkpoint: it holds none of g_ema, g and d, "
            "neither at the top nor under state_dicts"
        )
    return OfficialCheckpoint(path, state_dicts, fields(top.get("args")))


def fields(section: object) -> dict[str, Any]:
    """The named values of a dict or a Namespace; none of anything else."""
    held = vars(section) if isinstance(section, InertNamespace) else section
    if not isinstance(held, dict):
        return {}
    # Not held.items(): a crafted OrderedDict can carry an attribute of that name.
    return {name: value for name, value in dict.items(held) if isinstance(name, str)}


def is_plain(value: object) -> bool:
    """Whether a value is a tensor whose every element is in the file: dense, no view of fewer."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def load_untrusted(path: Path, *, mapped: bool = True) -> object:
    """What `torch.save` wrote to a file; nothing that it names is run.

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
    """What in the archive's directory PyTorch would not have written."""
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
