"""A model with its settings, as the commands for trained models use it.

Legend: N styles, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.distributed import pick_device
from stylenat.files import sha256_of, user_path
from stylenat.latents.directions import Directions, load_directions
from stylenat.latents.modes import check_centers, find_centers
from stylenat.latents.ws_file import SUFFIX, load_ws
from stylenat.sampling import (
    DTYPES,
    NamedWs,
    Styles,
    check_seeds,
    chosen_classes,
    load_model,
    model_file,
    model_name,
    parse_seeds,
    render,
)


@dataclass(frozen=True)
class Settings:
    """How seeds and ws files become ws and images. The fields are options of the command line.

    Raises ValueError for centers that cannot be found, and settings of a truncation that is none.
    """

    chosen_class: str | None = None
    trunc: float | None = 1.0  # None: many psi, those of a sweep
    trunc_cutoff: int | None = None
    trunc_modes: int | None = None
    seed_scheme: str = "torch"
    any_model: bool = False
    batch: int = 8
    device: str = "auto"
    dtype_name: str = "float32"
    snapshot: str = "best"

    def __post_init__(self) -> None:
        if self.trunc_modes is not None:
            check_centers(self.trunc_modes)
            if self.trunc == 1:
                raise ValueError(
                    "--trunc-modes says where truncation leads to, and --trunc 1 means none: give "
                    "a --trunc below 1, such as 0.5"
                )
        if self.trunc_cutoff is not None and self.trunc == 1:
            raise ValueError(
                "--trunc-cutoff says which blocks are truncated, and --trunc 1 means none: give a "
                "--trunc below 1, such as 0.5"
            )


class LoadedModel:
    """The generator of a model, its file, and the settings that it is used with.

    Raises OSError and ValueError as `load_model` does, and for a device that is not there.
    """

    def __init__(self, model: str | Path, settings: Settings | None = None) -> None:
        self.settings = Settings() if settings is None else settings
        device = pick_device(self.settings.device)
        self.file = model_file(model, which=self.settings.snapshot)
        self.generator = load_model(self.file, device)

    def of_class(self, chosen_class: str | None) -> LoadedModel:
        """The same model in another class, as `--class` would name it."""
        other = copy.copy(self)
        other.settings = replace(self.settings, chosen_class=chosen_class)
        vars(other).pop("classes", None)  # what `classes` has kept is that of the old class
        return other

    @cached_property
    def name(self) -> str:
        """What outputs call the model: its path, or `hf:user/name@commit`."""
        return model_name(self.file)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the model's file, by which ws files and directions know it."""
        return sha256_of(self.file)

    @cached_property
    def classes(self) -> list[int] | None:
        """The classes that --class names; None for a model without classes.

        Raises ValueError as `chosen_classes` does.
        """
        return chosen_classes(self.generator, self.settings.chosen_class)

    @cached_property
    def truncation(self) -> dict[str, Any]:
        """What `seed_ws` and `truncated` are to do."""
        modes = self.settings.trunc_modes
        return {
            "truncation_psi": 1.0 if self.settings.trunc is None else self.settings.trunc,
            "truncation_cutoff": self.settings.trunc_cutoff,
            "centers": None if modes is None else find_centers(self.generator, modes),
        }

    def styles(
        self, seeds: str | Sequence[int] | None = None, ws_files: Sequence[str | Path] = ()
    ) -> Styles:
        """The styles of seeds, then those of ws files. Raises ValueError as `wanted_seeds`, and
        for a class without seeds."""
        numbers = wanted_seeds(seeds, ws_files, scheme=self.settings.seed_scheme)
        if not len(numbers) and self.settings.chosen_class is not None:
            raise ValueError("--class is for seeds, and there are none: leave it out")
        return Styles(
            self.generator,
            numbers,
            self.classes if len(numbers) else None,
            given=self._given(ws_files),
            scheme=self.settings.seed_scheme,
            **self.truncation,
        )

    def images(self, ws_NLS: Tensor) -> Iterator[Tensor]:
        """uint8 pixels [b, H, W, 3] of ws, `settings.batch` images at a time."""
        for ws_BLS in ws_NLS.split(self.settings.batch):
            yield render(self.generator, ws_BLS, dtype=DTYPES[self.settings.dtype_name])

    def load_ws(self, path: str | Path) -> NamedWs:
        """The styles of a ws file that fits this model; as `ws_file.load_ws`."""
        return load_ws(path, **self._fits())

    def load_directions(self, path: str | Path) -> Directions:
        """Directions that fit this model; as `directions.load_directions`."""
        return load_directions(path, **self._fits())

    def _fits(self) -> dict[str, Any]:
        config = self.generator.config
        return {
            "model_sha256": self.sha256,
            "num_ws": config.num_ws,
            "style_dim": config.style_dim,
            "any_model": self.settings.any_model,
        }

    def _given(self, ws_files: Sequence[str | Path]) -> NamedWs | None:
        if not ws_files:
            return None
        loaded = [self.load_ws(path) for path in ws_files]
        names = tuple(name for styles in loaded for name in styles.names)
        return NamedWs(names, torch.cat([styles.ws for styles in loaded]))


def wanted_seeds(
    seeds: str | Sequence[int] | None, ws_files: Sequence[str | Path] = (), *, scheme: str
) -> Sequence[int]:
    """The seeds that are asked for. It needs no model, so that commands can call it early.

    Raises ValueError for neither seeds nor ws files, and for seeds that the scheme does not take.
    """
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else (seeds or ())
    if not len(numbers) and not ws_files:
        raise ValueError("there must be at least one seed or ws file: give --seeds or --ws")
    check_seeds(numbers, scheme)
    return numbers


def seeds_or_file(text: str) -> tuple[list[int], list[Path]]:
    """Seeds and ws files that a text means: one that ends as ws files do is the name of one.

    Raises ValueError as `parse_seeds` does.
    """
    return ([], [user_path(text)]) if text.endswith(SUFFIX) else (parse_seeds(text), [])
