"""A YAML file on top of another: `base: ffhq256` and only the keys that differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stylenat.config.shipped import find_config, shipped_configs
from stylenat.config.yaml_file import read_yaml
from stylenat.files import user_path
from stylenat.text import printable, shown

BASE = "base"
MOST_FILES = 5  # on top of each other


class Layer(NamedTuple):
    """One of the files, by the name that an error calls it, and its data over its bases'."""

    name: str
    data: dict[Any, Any]


def read_layers(path: str | Path) -> list[Layer]:
    """The lowest base first, the file itself last.

    Sections are merged key by key; any other value, lists too, replaces that of the base. A base is
    a file beside the one that names it, or the name of a configuration that comes with StyleNAT.
    Raises OSError for a file that cannot be read, and ValueError, which names the file, for one
    that is no YAML mapping, for a base that is not there, and for bases that are too many or lead
    back to themselves.
    """
    layers: list[Layer] = []
    for name, data in reversed(list(_files(path))):
        layers.append(Layer(name, merged(layers[-1].data, data) if layers else data))
    return layers


def _files(path: str | Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Name and data of the file, then of its base, and so on."""
    name, file = str(path), find_config(path)
    seen: list[Path] = []
    while True:
        seen.append(file.resolve())
        try:
            data = read_yaml(file)
            has_base = BASE in data
            base = data.pop(BASE, None)
            below = _base_file(file, base) if has_base else None
            if below is not None and below.resolve() in seen:
                raise ValueError(f"base leads back to {below}: {base}")
            if below is not None and len(seen) == MOST_FILES:
                raise ValueError(f"at most {MOST_FILES} files may be on top of each other: {base}")
        except ValueError as error:
            raise ValueError(printable(f"{name}: {error}")) from error
        yield name, data
        if below is None:
            return
        name, file = f"{base}, the base of {name}", below


def _base_file(file: Path, base: object) -> Path:
    if not isinstance(base, str):
        raise ValueError(f"base must be a string: {shown(base)}")
    shipped = shipped_configs()
    if base and (beside := file.parent / user_path(base)).is_file():
        return beside
    if base in shipped:
        return shipped[base]
    raise ValueError(
        f"base must be a file beside this one, or one of {', '.join(shipped)}: {shown(base)}"
    )


def merged(below: Any, above: Any) -> Any:
    """`above`, and what it does not mention of `below`, section by section."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    both = {
        key: merged(below[key], value) if key in below else value for key, value in above.items()
    }
    return {**below, **both}
