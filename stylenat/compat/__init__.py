"""A drop-in for NATTEN before 0.20: old code runs unmodified on a current PyTorch, on CPU and GPU.

`python -m stylenat.compat SCRIPT` runs a program with it; `stylenat.compat.install()` puts it into
this process. docs/natten.md shows what to type for the projects that use NATTEN.
"""

from __future__ import annotations

from stylenat.compat.levels import DEFAULT, LEVELS, settings
from stylenat.compat.package import put

__all__ = ["LEVELS", "install", "patch_transformers"]


def install(level: str = DEFAULT, *, pad: bool | None = None, deferred: bool = True) -> None:
    """Make `import natten` give NATTEN of that level, whatever is installed.

    `level` names the generation that the code was written for: 0.14 (or 0.14.4 for what came before
    0.14.5), 0.15 or 0.17. `pad` says whether modules pad maps smaller than the window, where
    the level should not decide. With `deferred`, the weights of a call wait until something looks
    at them, so that qk, softmax and av become one fused operation; results are the same.

    Call it before anything imports natten or transformers. The same call again does nothing.
    Raises ValueError for an unknown level, and RuntimeError if a natten is imported already.
    """
    put(settings(level, pad, deferred))


def patch_transformers() -> None:
    """Mend Dinat of Hugging Face transformers 4.54 and later, which fails by itself.

    Replaces the forward of its attention by one that does what 4.53 did. Raises RuntimeError, one
    sentence, for a version that works without, or that has no Dinat.
    """
    from stylenat.compat.dinat import patch

    patch()
