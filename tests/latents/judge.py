"""Tells what a face shows: ridge regression on EfficientNet's features of drawn faces.

The drawer of faces knows what it has drawn, so no person has to look at the images.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from stylenat.data import draw_face
from stylenat.latents.perceptual import effnet_file, load_effnet

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 4  # of EfficientNet; its map has 8x8 cells for an image of 64x64
RIDGE = 0.1  # of the mean square of the features
SERIES = 2  # of drawn faces: neither that of the model's training nor that of the labelled faces


def script() -> ModuleType:
    """The module scripts/labelled_faces.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(
        "labelled_faces", ROOT / "scripts/labelled_faces.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Judge:
    """Fitted to `count` drawn faces, every second one with glasses.

    `spread` is the standard deviation of each label over the faces.
    """

    def __init__(self, count: int) -> None:
        labelled = script()
        labelled.SERIES = SERIES
        self.network = load_effnet(effnet_file())
        numbers = labelled.chosen(count)
        rows = [labelled.labels_of(number) for number in numbers]
        self.names = list(rows[0])
        empty = float("nan")
        values = [[empty if x is None else x for x in row.values()] for row in rows]
        self.values = torch.tensor(values, dtype=torch.float64)
        faces = np.stack([draw_face(number, 64, seed=SERIES) for number in numbers])
        self.features_NF = self._features(torch.from_numpy(faces))
        self.means = self.values.nanmean(0)
        centered = (self.values - self.means).nan_to_num()
        self.spread = centered.square().mean(0).sqrt()

    def says(self, pixels_NHW3: Tensor, *, fitted_to: slice = slice(None)) -> Tensor:
        """The labels [N, K] of images, uint8 [N, 64, 64, 3], as some of the faces teach them."""
        return self._said(self._features(pixels_NHW3), fitted_to)

    def held_out(self, part: slice, rest: slice) -> Tensor:
        """What it says of the faces `part` if it is fitted to the `rest` alone."""
        return self._said(self.features_NF[part], rest)

    def _said(self, features_NF: Tensor, fitted_to: slice) -> Tensor:
        known = self.features_NF[fitted_to]
        mean_F = known.mean(0)
        known = known - mean_F
        products = known @ known.T
        price = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
        targets = (self.values[fitted_to] - self.means).nan_to_num()
        weights_FK = known.T @ torch.linalg.solve(products + price, targets)
        return (features_NF - mean_F) @ weights_FK + self.means

    @torch.no_grad()
    def _features(self, pixels_NHW3: Tensor) -> Tensor:
        found = []
        for some in pixels_NHW3.split(32):
            images = some.permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append(self.network.maps(images, (BLOCK,))[0].flatten(1))
        return torch.cat(found).double()
