"""Published checkpoints: where in the file their networks and settings are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylenat.files import user_path
from stylenat.untrusted import fields, load_untrusted


@dataclass(frozen=True)
class OfficialCheckpoint:
    """What conversion needs of a published file, unchanged.

    `state_dicts`: for each of `g_ema`, `g` and `d` that it has, tensors by their official names.
    `args`: the settings of its training by name, perhaps in sections; may be empty.
    """

    path: Path
    state_dicts: Mapping[str, Mapping[str, Any]]
    args: Mapping[str, Any]


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
    """The checkpoint in what `load_untrusted` gave. Raises ValueError if that is no such thing."""
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
