"""Directions in w: their file, and edits along them.

A direction is a unit vector of w, the blocks that it applies to, and sigma, the standard deviation
of w along it. An edit of strength x adds x * sigma * vector to the w of these blocks.
Legend: N styles, L blocks, S style_dim.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat import __version__
from stylenat.files import naming, replacing, user_path
from stylenat.latents.origin import check_origin, check_shape
from stylenat.text import listed, shown

FORMAT = 1
KIND = "directions"
MOST_BYTES = 64 << 20
MOST_DIRECTIONS = 1_000
# Not digits alone, which are numbers of directions; a name becomes a part of a file's name.
NAME = re.compile(r"(?=.*[A-Za-z_-])[A-Za-z0-9_][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Direction:
    """A unit vector [S] of w for these blocks; sigma is the spread of w along it."""

    name: str
    vector: Tensor
    sigma: float
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Directions:
    """Directions of one model, strongest first, and what is known about how they were found."""

    method: str
    model_sha256: str
    num_ws: int
    directions: tuple[Direction, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def find(self, key: str) -> Direction:
        """The direction of this name, or of this number from 1. Raises ValueError if none is."""
        for number, direction in enumerate(self.directions, start=1):
            if key in (direction.name, str(number)):
                return direction
        names = listed([direction.name for direction in self.directions])
        raise ValueError(
            f"there is no direction {shown(key)}: choose 1 to {len(self.directions)}, or {names}"
        )

    def named(self, names: Sequence[str]) -> Directions:
        """The same with other names for the first ones. Raises ValueError for names that can't be,
        and for more names than directions."""
        if len(names) > len(self.directions):
            raise ValueError(
                f"there must be at most one name for each direction: {len(names)} names for "
                f"{len(self.directions)} directions"
            )
        first = [replace(d, name=name) for name, d in zip(names, self.directions, strict=False)]
        together = (*first, *self.directions[len(first) :])
        check_names([direction.name for direction in together])
        return replace(self, directions=together)


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is none, or that two directions have."""
    for index, name in enumerate(names):
        if NAME.fullmatch(name) is None:
            raise ValueError(
                "a direction's name must be 1 to 40 letters, digits, dashes and underscores, and "
                f"more than a number: {shown(name)}"
            )
        if name in names[:index]:
            raise ValueError(f"two directions have the name {name}")


@dataclass(frozen=True)
class Edit:
    """Move along a direction, by a strength between `first` and `last`, in sigma."""

    direction: Direction
    first: float
    last: float


def parse_edit(text: str, directions: Directions) -> Edit:
    """`1:+2.0` or `hair:-3..3` -> an edit; a single strength is both ends.

    Raises ValueError, naming the text, for anything else, and as `Directions.find` does.
    """
    key, colon, strengths = text.rpartition(":")
    ends = strengths.split("..")
    try:
        first, last = float(ends[0]), float(ends[-1])
    except ValueError:
        first = last = math.nan
    is_right = colon and len(ends) <= 2 and max(abs(first), abs(last)) <= 1000
    if not is_right:
        raise ValueError(
            "--set must be DIRECTION:STRENGTH or DIRECTION:FROM..TO, such as 1:+2.0 or 1:-3..3, "
            f"at most 1000 sigma: {shown(text)}"
        )
    return Edit(directions.find(key), first, last)


def edited(ws_NLS: Tensor, edits: Sequence[Edit], position: float) -> Tensor:
    """ws [N, L, S] after all edits, each at this position, 0 to 1, between its ends."""
    result = ws_NLS.clone()
    for edit in edits:
        strength = edit.first + (edit.last - edit.first) * position
        step_S = strength * edit.direction.sigma * edit.direction.vector
        result[:, list(edit.direction.blocks)] += step_S.to(result)
    return result


def save_directions(directions: Directions, path: str | Path) -> None:
    """Write a directions file; `path` is replaced atomically.

    Raises OSError if it cannot be written.
    """
    data = {
        "stylenat_format": FORMAT,
        "stylenat_version": __version__,
        "kind": KIND,
        "method": directions.method,
        "model_sha256": directions.model_sha256,
        "num_ws": directions.num_ws,
        "style_dim": len(directions.directions[0].vector),
        "about": directions.about,
        "directions": [
            {
                "name": direction.name,
                "blocks": list(direction.blocks),
                "sigma": direction.sigma,
                "vector": direction.vector.tolist(),
            }
            for direction in directions.directions
        ],
    }
    with replacing(user_path(path)) as temporary:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")


def load_directions(
    path: str | Path,
    *,
    model_sha256: str,
    num_ws: int,
    style_dim: int,
    any_model: bool = False,
) -> Directions:
    """The directions in a file, if it was made with the model of this SHA-256.

    With `any_model` it is enough that the shapes fit. Raises OSError for a file that cannot be
    read, and ValueError, one sentence that names it, for any other file.
    """
    path = user_path(path)
    data = _read_json(path)
    if data.get("kind") != KIND or data.get("stylenat_format") != FORMAT:
        raise ValueError(
            f"{path} is no directions file of format {FORMAT}: kind is {shown(data.get('kind'))}, "
            f"format {shown(data.get('stylenat_format'))}"
        )
    shape = (num_ws, style_dim)
    found_shape = tuple(data.get(key) for key in ("num_ws", "style_dim"))
    if not all(type(number) is int for number in found_shape):
        raise ValueError(
            f"{path}: num_ws and style_dim must be whole numbers: {shown(found_shape)}"
        )
    check_shape(path, "directions", found_shape, shape)
    check_origin(path, str(data.get("model_sha256")), model_sha256, any_model=any_model)
    rows = data.get("directions")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_DIRECTIONS:
        raise ValueError(f"{path} must hold a list of 1 to {MOST_DIRECTIONS:,} directions")
    found = tuple(_direction(path, number, row, shape) for number, row in enumerate(rows, start=1))
    try:
        check_names([direction.name for direction in found])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Directions(str(data.get("method")), model_sha256, num_ws, found)


def _direction(path: Path, number: int, row: Any, shape: tuple[int, int]) -> Direction:
    """One direction of a file, checked."""
    num_ws, style_dim = shape
    row = row if isinstance(row, dict) else {}
    name, sigma, blocks, vector = (row.get(key) for key in ("name", "sigma", "blocks", "vector"))
    fault = None
    if not isinstance(name, str):
        fault = f"its name must be text: {shown(name)}"
    elif not _is_number(sigma) or not 0 < sigma < 1e6:
        fault = f"its sigma must be a positive number: {shown(sigma)}"
    elif not isinstance(blocks, list) or not blocks or set(map(type, blocks)) != {int}:
        fault = f"its blocks must be a list of numbers: {shown(blocks)}"
    elif not 0 <= min(blocks) <= max(blocks) < num_ws or len(set(blocks)) < len(blocks):
        fault = f"its blocks must be different numbers from 0 to {num_ws - 1}: {shown(blocks)}"
    elif not isinstance(vector, list) or not all(_is_number(x) for x in vector):
        fault = f"its vector must be a list of finite numbers: {shown(vector)}"
    elif len(vector) != style_dim or not 0.99 < math.hypot(*vector) < 1.01:
        fault = f"its vector must be {style_dim} numbers, of length 1"
    if fault is not None:
        raise ValueError(f"{path}, direction {number}: {fault}")
    return Direction(name, torch.tensor(vector), float(sigma), tuple(sorted(blocks)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # false for NaN too


def _read_json(path: Path) -> dict[str, Any]:
    with naming(path):
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(
                f"{path} must be at most {MOST_BYTES:,} bytes, as directions files are: {size:,}"
            )
        raw = path.read_bytes()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON, as directions files are: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no directions file: it holds {shown(data)}")
    return data
