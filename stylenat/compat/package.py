"""The package `natten` as Python sees it: its modules by level, their finder, its distribution.

Nothing here imports PyTorch: modules are filled when a program imports them, so that a process
that never asks for NATTEN pays nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from stylenat.compat.levels import Settings, set_current
from stylenat.compat.names import modules

MARK = "__stylenat_compat__"  # on the module `natten`; its value is the settings
HOME = "stylenat.compat"

# Our modules that have the names of `natten`; the classes of modules are made for the level.
SOURCES = ("functional", "autograd", "context", "autotuner", "flops", "utils")


def _find(name: str, chosen: Settings) -> Any:
    """What `name` stands for in any module of `natten`."""
    if name.startswith("NeighborhoodAttention") and not name.endswith("Function"):
        return importlib.import_module(f"{HOME}.modules").module_class(name, chosen)
    sources = (importlib.import_module(f"{HOME}.{source}") for source in SOURCES)
    return next(getattr(source, name) for source in sources if name in source.__dict__)


def fill(module: ModuleType, chosen: Settings) -> None:
    """Give a module of `natten` its names."""
    table = modules(chosen.level)
    made = {name: _find(name, chosen) for name in table[module.__name__]}
    module.__dict__.update(made)
    module.__doc__ = f"NATTEN {chosen.level.version}, as stylenat.compat stands in for it."
    module.__dict__["__all__"] = sorted(made)
    if module.__name__ == "natten":
        module.__dict__["__version__"] = chosen.level.version
        module.__dict__[MARK] = chosen
        # NATTEN's own __init__ imports nearly all of them: code asks for `natten.functional`, or
        # whether there is a `natten.context`.
        for name in table:
            importlib.import_module(name)


class Distribution(importlib.metadata.Distribution):
    """The installed distribution `natten`: a name and a version, and no files."""

    def __init__(self, version: str) -> None:
        self._version = version

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: natten\nVersion: {self._version}\n"

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(f"stylenat.compat's natten has no files: {path}")


class Finder:
    """Finds the modules of `natten`, loads them, and knows their distribution."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen = chosen
        self.names = modules(chosen.level)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.names:
            return None
        is_package = any(other.startswith(f"{name}.") for other in self.names)
        return ModuleSpec(name, self, origin=HOME, is_package=is_package)  # type: ignore[arg-type]

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        name = getattr(context, "name", None)
        if name is None or name.lower() == "natten":
            yield Distribution(self.chosen.level.version)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        fill(module, self.chosen)

    def invalidate_caches(self) -> None:
        """There are none."""


def installed() -> Settings | None:
    """What the drop-in of this process was installed with."""
    return next((finder.chosen for finder in sys.meta_path if isinstance(finder, Finder)), None)


def put(chosen: Settings) -> None:
    """Put `natten` into this process.

    Raises RuntimeError if another `natten` is imported already, or the drop-in with other settings.
    """
    if (before := installed()) is not None:
        if before == chosen:
            return
        raise RuntimeError(
            f"stylenat.compat is installed already, at {before}, and can't change to {chosen}: "
            "start another process for it"
        )
    if (loaded := sys.modules.get("natten")) is not None:
        version = getattr(loaded, "__version__", "of unknown version")
        raise RuntimeError(
            f"natten {version} is imported already, and a process can hold only one: call "
            "stylenat.compat.install before anything imports natten, or start the program with "
            "python -m stylenat.compat"
        )
    set_current(chosen)
    sys.meta_path.insert(0, Finder(chosen))
