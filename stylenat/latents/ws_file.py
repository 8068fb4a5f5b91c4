"""ws files: named ws of one model, as safetensors.

The tensor `ws` is [N, num_ws, S], float32. The metadata hold `stylenat_format`, `kind` (ws),
`names` (a JSON list), `model_sha256` (of the model's file) and `stylenat_version`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from stylenat import __version__
from stylenat.files import naming, replacing, user_path
from stylenat.latents.origin import check_origin, check_shape
from stylenat.sampling import NamedWs
from stylenat.text import printable, shown

FORMAT = 1
MOST_WS = 10_000
# A name becomes the name of a file, so it must not lead elsewhere.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
SUFFIX = ".safetensors"


def save_ws(styles: NamedWs, path: str | Path, *, model_sha256: str) -> None:
    """Write a ws file; `path` is replaced atomically.

    Styles of equal names are written once. Raises ValueError, one sentence, for what `load_ws`
    would refuse, and OSError if the file cannot be written.
    """
    path = user_path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"the name of a ws file must end in {SUFFIX}: {path}")
    rows = {name: row for row, name in enumerate(styles.names)}
    check_names(path, list(rows))
    ws_NLS = styles.ws[list(rows.values())].float().cpu().contiguous()
    metadata = {
        "stylenat_format": str(FORMAT),
        "stylenat_version": __version__,
        "kind": "ws",
        "names": json.dumps(list(rows)),
        "model_sha256": model_sha256,
    }
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors_bytes({"ws": ws_NLS}, metadata))


def load_ws(
    path: str | Path,
    *,
    model_sha256: str,
    num_ws: int,
    style_dim: int,
    any_model: bool = False,
) -> NamedWs:
    """The styles of a ws file, float32, if it was made with the model of this SHA-256.

    With `any_model` it is enough that the shapes fit. Raises OSError for a file that cannot be
    read, and ValueError, one sentence that names it, for any other file.
    """
    path = user_path(path)
    try:
        with naming(path), path.open("rb"), safe_open(path, framework="pt") as file:
            names, sha256 = _described(path, file.metadata() or {})
            shape = list(file.get_slice("ws").get_shape()) if "ws" in file.keys() else []  # noqa: SIM118
            if len(shape) != 3 or shape[0] != len(names):
                raise ValueError(
                    f"{path} is damaged: its ws must be [{len(names)}, num_ws, style_dim], as it "
                    f"has {len(names)} names: {shown(shape)}"
                )
            check_shape(path, "ws", (shape[1], shape[2]), (num_ws, style_dim))
            check_origin(path, sha256, model_sha256, any_model=any_model)
            ws_NLS = file.get_tensor("ws").clone()
    except SafetensorError as error:
        sentence = f"{path} is damaged, or no safetensors file: {error}"
        raise ValueError(printable(sentence)) from error
    if not ws_NLS.is_floating_point() or not bool(ws_NLS.float().isfinite().all()):
        raise ValueError(f"{path} must hold finite floating-point ws: {ws_NLS.dtype}, or NaN in it")
    return NamedWs(tuple(names), ws_NLS.to(torch.float32))


def check_names(path: Path, names: object) -> None:
    """Raises ValueError unless these are 1 to 10,000 different names that files can have."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the names in {path} must be a list of text: {shown(names)}")
    if not 1 <= len(names) <= MOST_WS:
        raise ValueError(f"{path} must hold 1 to {MOST_WS:,} ws: {len(names):,}")
    seen: set[str] = set()
    for name in names:
        if NAME.fullmatch(name) is None:
            raise ValueError(
                f"a name in {path} must be 1 to 80 letters, digits, dots, dashes and underscores, "
                f"the first a letter or digit: {shown(name)}"
            )
        if name in seen:
            raise ValueError(f"two ws in {path} have the name {name}")
        seen.add(name)


def _described(path: Path, metadata: Mapping[str, Any]) -> tuple[list[str], str]:
    """Names and the model's SHA-256 out of a file's metadata."""
    if metadata.get("kind") != "ws":
        found = shown(metadata.get("kind"))
        raise ValueError(f"{path} is no ws file, such as sample --save-w writes: kind is {found}")
    if metadata.get("stylenat_format") != str(FORMAT):
        raise ValueError(
            f"{path} has format {shown(metadata.get('stylenat_format'))}, and this StyleNAT, "
            f"{__version__}, reads {FORMAT}: update StyleNAT"
        )
    try:
        names = json.loads(metadata.get("names", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the names in {path} are not JSON: {error}") from error
    check_names(path, names)
    return names, str(metadata.get("model_sha256", ""))
