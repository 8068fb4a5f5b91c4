"""StyleNAT: a style-based GAN with neighborhood attention.

`generator = stylenat.load_generator("ffhq256.safetensors")` loads a model: an exported file, a run
folder or one of its checkpoints, a published .pt, or `hf:user/name` on the Hugging Face Hub.
`generator(z)` gives images of latents, and `generator.to_uint8` their pixels.
"""

import importlib.util
import os
import sys

# Not typing's: while `python -m stylenat` runs this file, a typing.py in the folder would be found.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from stylenat.export import load_discriminator, save_discriminator, save_generator
    from stylenat.sampling import load_generator

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "load_discriminator",
    "load_generator",
    "save_discriminator",
    "save_generator",
]


def _foreign_ops() -> str | None:
    """The `ops` that `import ops` finds, if it is not the package beside this one."""
    loaded = sys.modules.get("ops")
    spec = getattr(loaded, "__spec__", None) if loaded else importlib.util.find_spec("ops")
    folders = list((spec and spec.submodule_search_locations) or ())
    own = os.path.join(os.path.dirname(__path__[0]), "ops")
    if [os.path.realpath(folder) for folder in folders] == [os.path.realpath(own)]:
        return None
    if loaded:
        return getattr(loaded, "__file__", None) or next(iter(folders), repr(loaded))
    # None if there is no `ops` at all; then Python itself says so.
    return (spec.origin or folders[0]) if spec else None


def _refuse_foreign_ops() -> None:
    """Raises ImportError, one sentence, if another program's `ops` is found before StyleNAT's."""
    if (other := _foreign_ops()) is None:
        return
    if "ops" in sys.modules:
        help_ = "a program can hold only one of them: rename that one, or use another process"
    else:
        help_ = (
            "start from another folder, use the `stylenat` command, set PYTHONSAFEPATH=1, or take "
            "that folder off PYTHONPATH"
        )
    sentence = (
        f"StyleNAT needs its own package `ops`, and Python has {other} under that name, with which "
        f"images would be wrong; {help_}"
    )
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program == "-m":  # `python -m stylenat`, while Python looks for it
        program = next((word for word in sys.orig_argv[1:] if not word.startswith("-")), "")
    if program.split(".")[0] == __name__:  # the command: no traceback
        raise SystemExit(f"Error: {sentence}")
    raise ImportError(sentence)


_refuse_foreign_ops()
# Imported now, so that later changes of sys.path can't lead to another `ops`.
import ops  # noqa: E402, F401


def __getattr__(name: str) -> object:
    """Load a function, and PyTorch with it, when it is first asked for."""
    if name == "load_generator":
        from stylenat.sampling import load_generator

        return load_generator
    if name in __all__:
        from stylenat import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
