"""Which NATTEN the drop-in stands for: what a call to it can't reveal, and what the user chose."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "0.17"
VARIABLE = "STYLENAT_COMPAT"  # level, padding and deferral, for the Python processes of a program


@dataclass(frozen=True)
class Level:
    """One generation of NATTEN before 0.20.

    `version` is what the distribution and `natten.__version__` say. `has_bias`: modules have a
    relative positional bias unless they are told otherwise. `pads`: modules pad maps that are
    smaller than the window. `has_context`: there is `natten.context` with its switches.
    `kernel_first`: modules take the kernel size before the number of heads.
    """

    name: str
    version: str
    has_bias: bool
    pads: bool
    has_context: bool
    kernel_first: bool = False

    @property
    def has_3d(self) -> bool:
        return not self.name.startswith("0.14")


LEVELS = {
    level.name: level
    for level in (
        Level("0.14.4", "0.14.4", True, True, has_context=False, kernel_first=True),
        Level("0.14", "0.14.6", True, True, has_context=False),
        Level("0.15", "0.15.1", True, True, has_context=False),
        Level("0.17", "0.17.5", False, False, has_context=True),
    )
}


@dataclass(frozen=True)
class Settings:
    """What `install` was asked for. `deferred`: weights wait until something looks at them."""

    level: Level
    pads: bool
    deferred: bool

    def __str__(self) -> str:
        return (
            f"level {self.level.name}, {'with' if self.pads else 'without'} padding, "
            f"{'with' if self.deferred else 'without'} deferred weights"
        )

    def encode(self) -> str:
        """One word for an environment variable; `decode` reads it."""
        return f"{self.level.name}:{int(self.pads)}:{int(self.deferred)}"


def decode(word: str) -> Settings:
    name, pads, deferred = word.split(":")
    return Settings(LEVELS[name], pads == "1", deferred == "1")


def settings(level: str, pad: bool | None, deferred: bool) -> Settings:
    """Raises ValueError unless `level` is a row of LEVELS and the others are True or False."""
    if level not in LEVELS:
        raise ValueError(f"unknown level of NATTEN {level!r}; choose one of {', '.join(LEVELS)}")
    if pad is not None and not isinstance(pad, bool):
        raise ValueError(f"pad must be True, False or None (as the level has it), not {pad!r}")
    if not isinstance(deferred, bool):
        raise ValueError(f"deferred must be True or False, not {deferred!r}")
    return Settings(LEVELS[level], LEVELS[level].pads if pad is None else pad, deferred)


# What the calls follow: install sets it. Without install (tests, `from stylenat.compat import
# functional`) the functions behave as the default level's.
_current = settings(DEFAULT, None, True)


def current() -> Settings:
    return _current


def set_current(chosen: Settings) -> None:
    global _current
    _current = chosen
