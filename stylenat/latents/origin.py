"""Whether a file of ws or directions belongs to the model that it is used with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylenat.text import shortened


def check_shape(path: Path, what: str, found: Sequence[Any], expected: Sequence[int]) -> None:
    """Raises ValueError unless both pairs of num_ws and style_dim agree."""
    if found != expected:
        raise ValueError(
            f"{path} does not fit the model: it holds {what} for {found[0]} blocks and style_dim "
            f"{found[1]}, and the model has {expected[0]} and {expected[1]}"
        )


def check_origin(path: Path, sha256: str, model_sha256: str, *, any_model: bool) -> None:
    """Raises ValueError if the file was made with another model, unless `any_model` allows it."""
    if sha256 != model_sha256 and not any_model:
        raise ValueError(
            f"{path} was made with another model, of SHA-256 {shortened(sha256[:12])}... and not "
            f"{model_sha256[:12]}...: --any-model uses it all the same"
        )
