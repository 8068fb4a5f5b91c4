"""StyleNAT: a style-based GAN with neighborhood attention.

`generator = stylenat.load_generator("ffhq256.safetensors")` loads a model; `generator(z)` gives
images of latents, and `generator.to_uint8` their pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylenat.export import (
        load_discriminator,
        load_generator,
        save_discriminator,
        save_generator,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "load_discriminator",
    "load_generator",
    "save_discriminator",
    "save_generator",
]


def __getattr__(name: str) -> Any:
    """Load a function with all that it needs, PyTorch above all, when it is first asked for."""
    if name in __all__:
        from stylenat import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
