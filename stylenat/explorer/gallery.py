"""The models that a page shows: those of the command line, and the snapshots of a run.

A page names a model by its number here, so that no path ever comes from a browser.
Legend: L blocks, S style_dim.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.files import user_path
from stylenat.hub import is_hub_name
from stylenat.latents import LoadedModel, Settings
from stylenat.latents.attention_maps import attention_weights
from stylenat.layout import RunPaths, numbered
from stylenat.sampling import DTYPES, model_file, model_name, render_by_level, seed_ws
from stylenat.text import shell_word

# Snapshots of a run are loaded when they are looked at, and the oldest is dropped.
MOST_LOADED = 4
SEED_LIMIT = 2**32
LEAST_PREVIEW = 64  # pixels a side; smaller images say too little


class Gallery:
    """Models by number, each loaded when it is first needed.

    `paths`: what `stylenat sample` takes. With `snapshots`, all those of a run folder follow it,
    oldest first.
    Raises OSError and ValueError for models and directions that cannot be loaded; a snapshot is
    looked at only when it is asked for.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        *,
        directions: Path | None = None,
        snapshots: bool = True,
    ) -> None:
        self.settings = settings
        self.files: list[tuple[str, Path]] = []
        self._loaded: OrderedDict[int, LoadedModel] = OrderedDict()
        for path in paths:
            self.files.append((_name(path), model_file(path, which=settings.snapshot)))
            self.model(len(self.files) - 1)
            self.files += _snapshots(path) if snapshots else []
        self.directions_file = directions
        self._directions = (
            () if directions is None else self.model(0).load_directions(directions).directions
        )

    def model(self, number: int) -> LoadedModel:
        """Raises ValueError for a number that no model has."""
        if not 0 <= number < len(self.files):
            raise ValueError(f"there are {len(self.files)} models, numbered from 0: {number}")
        if number not in self._loaded:
            self._loaded[number] = LoadedModel(
                self.files[number][1], replace(self.settings, snapshot="best")
            )
            if len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(number)
        return self._loaded[number]

    def about(self) -> dict[str, Any]:
        """What the page needs to know before it asks for anything."""
        directions = self.directions_file
        return {
            "models": [
                {"name": name, "word": shell_word(model_name(file))} for name, file in self.files
            ],
            "scheme": self.settings.seed_scheme,
            "directions_word": None if directions is None else shell_word(str(directions)),
            "directions": [
                {
                    "name": direction.name,
                    "sigma": direction.sigma,
                    "blocks": direction.blocks,
                    "vector": direction.vector.tolist(),
                }
                for direction in self._directions
            ],
        }

    def facts(self, number: int) -> dict[str, Any]:
        """What the page needs to know about one model to compute its ws."""
        loaded = self.model(number)
        generator = loaded.generator
        config = generator.config
        return {
            "z_dim": config.z_dim,
            "style_dim": config.style_dim,
            "num_ws": config.num_ws,
            "resolution": config.resolution,
            "block_resolutions": config.block_resolutions,
            "classes": list(config.class_names) or [str(i) for i in range(config.classes)],
            "class_words": [shell_word(name) for name in config.class_names]
            or [str(i) for i in range(config.classes)],
            "w_avg": generator.w_avg.tolist(),
            "sha256": loaded.sha256,
        }

    def w(self, number: int, seed: int, label: int) -> bytes:
        """The w of a seed, float32 [S], as `stylenat sample` has it; of a model with classes, in
        the class `label`. Raises ValueError for a seed or class that there is not."""
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"seeds on this page must be from 0 to {SEED_LIMIT - 1}: {seed}")
        generator = self.model(number).generator
        if generator.config.classes and not 0 <= label < generator.config.classes:
            raise ValueError(f"this model has {generator.config.classes} classes, not {label}")
        labels = [label] if generator.config.classes else None
        ws = seed_ws(generator, [seed], labels, scheme=self.settings.seed_scheme)
        return _bytes(ws[0, 0].float())

    def pixels(self, model: int, ws: bytes) -> Iterator[tuple[bool, bytes | None]]:
        """uint8 pixels [R, R, 3] of ws, float32 [L, S], level by level.

        Yields whether this is the whole image, and its pixels. Before that come those of each level
        from 64x64 up, if the model's images are larger, and None for other levels. Raises
        ValueError for ws of another size.
        """
        generator = self.model(model).generator
        ws_1LS = self._ws(model, ws)
        dtype = DTYPES[self.settings.dtype_name]
        has_previews = generator.resolution > LEAST_PREVIEW
        levels = render_by_level(generator, ws_1LS, dtype=dtype)
        for number, images_1HW3 in enumerate(levels, start=1):
            is_whole = number == len(generator.levels)
            is_shown = is_whole or (has_previews and images_1HW3.shape[1] >= LEAST_PREVIEW)
            yield is_whole, _bytes(images_1HW3[0]) if is_shown else None

    def places(self, number: int) -> list[str]:
        """The head groups whose attention `attention` gives, in words."""
        generator = self.model(number).generator
        ws_1LS = generator.w_avg.view(-1, generator.config.style_dim)[:1, None]
        ws_1LS = ws_1LS.expand(-1, generator.num_ws, -1)
        return [found.place.label for found in attention_weights(generator, ws_1LS)]

    def attention(self, number: int, ws: bytes, place: int, at: tuple[float, float]) -> bytes:
        """What one query of a head group looks at, float32 [side, side], 0..1, 1 its largest.

        `at`: the query's y and x, from 0 to 1 over the image. The weights are the mean over the
        heads. Raises ValueError for a place that there is not, and as `pixels` does.
        """
        if not all(0 <= share <= 1 for share in at):
            raise ValueError(f"a query must lie between 0 and 1 on the image: {at}")
        generator = self.model(number).generator
        ws_1LS = self._ws(number, ws)
        for index, found in enumerate(attention_weights(generator, ws_1LS)):
            if index == place:
                side = found.place.resolution
                y, x = (min(int(share * side), side - 1) for share in at)
                rows, columns = found.rows[y], found.columns[x]
                weights = found.weights[0, y, x].mean(0).view(len(rows), len(columns))
                seen = torch.zeros(side, side, device=weights.device)
                seen[rows[:, None], columns] = weights.float()
                return _bytes(seen / seen.max())
        raise ValueError(f"the model has no head group of this number: {place}")

    def _ws(self, number: int, ws: bytes) -> Tensor:
        """ws [1, L, S] out of a message."""
        generator = self.model(number).generator
        shape = (generator.num_ws, generator.config.style_dim)
        values = np.frombuffer(ws, dtype="<f4")
        if values.size != shape[0] * shape[1]:
            raise ValueError(
                f"ws must be {shape[0]} x {shape[1]} numbers for this model: {values.size}"
            )
        if not np.isfinite(values).all() or np.abs(values).max() > 1e6:
            raise ValueError("ws must be finite numbers below a million")
        return torch.from_numpy(values.reshape(1, *shape).copy())


def _bytes(x: Tensor) -> bytes:
    array: bytes = x.cpu().contiguous().numpy().tobytes()
    return array


def _name(path: Path) -> str:
    if is_hub_name(path):
        return str(path)
    path = user_path(path).absolute()
    return path.name if path.is_dir() else f"{path.parent.name}/{path.name}"


def _snapshots(path: Path) -> list[tuple[str, Path]]:
    """The snapshots of a run folder, oldest first; of anything else, none."""
    if is_hub_name(path):
        return []
    path = user_path(path)
    if not path.is_dir():
        return []
    files = numbered(RunPaths(path).snapshots, ".safetensors")
    return [(f"{int(file.stem) // 1000} kimg", file) for file in reversed(files)]
