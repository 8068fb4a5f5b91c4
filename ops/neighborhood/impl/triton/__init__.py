"""Neighborhood attention in Triton: see launch.py for the operation, kernels.py for the kernels."""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ops.neighborhood.problem import HeadGroup

__all__ = ["attention", "missing"]


@functools.cache
def missing() -> str | None:
    """Why Triton can't be used in this process, in one sentence; None if it can."""
    try:
        import triton  # noqa: F401
    except (ImportError, OSError) as error:
        return f"Triton can't be imported ({error}); pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    # Triton compiles its launchers in C.
    if not any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")):
        return "Triton needs a C compiler (gcc or clang), and there is none"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Triton needs Python.h (Debian: apt-get install python3-dev), and there is none"
    return None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` tensors in float32, bfloat16 or float16."""
    from ops.neighborhood.impl.triton import launch

    return launch.attention(q, k, v, groups, rpb, scale)
