"""Packages that only some functions here need, and that may be absent."""

from __future__ import annotations

import importlib
from typing import Any


def extra_module(name: str, *, package: str, extra: str) -> Any:
    """The module of a package that an extra of ours brings.

    Raises ValueError, naming the extra, if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this needs {package}, which is not installed: pip install {package}, or "
            f"stylenat[{extra}]"
        ) from error
