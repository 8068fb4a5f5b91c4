"""Films: closed walks through w, as a grid of independent loops.

Legend: K keyframes, F frames, N cells of the grid, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stylenat.latents.directions import Edit, edited
from stylenat.latents.loaded import LoadedModel
from stylenat.latents.mixing import mixed
from stylenat.sampling import contact_sheet

Change = Callable[[Tensor, float], Tensor]


def walk(keyframes_KLS: Tensor, frames: int) -> Callable[[int], Tensor]:
    """A closed walk through the keyframes: frame number -> ws [L, S], float32.

    A cubic spline, periodic, so that the last frame leads on to the first without a jolt; there are
    `frames` frames from one keyframe to the next. One keyframe alone stands still.
    """
    if len(keyframes_KLS) == 1:
        return lambda frame: keyframes_KLS[0]
    from scipy.interpolate import CubicSpline

    points = torch.cat([keyframes_KLS, keyframes_KLS[:1]]).double().cpu().numpy()
    spline = CubicSpline(np.arange(len(points)), points, bc_type="periodic")
    period = len(keyframes_KLS)
    return lambda frame: torch.from_numpy(spline((frame / frames) % period)).float()


def deal_keyframes(count: int, columns: int, rows: int) -> int:
    """How many keyframes each cell of the grid gets.

    Raises ValueError unless the cells can have equally many.
    """
    cells = columns * rows
    if cells < 1 or count % cells:
        raise ValueError(
            f"the cells of the grid must have equally many keyframes: {count} keyframes for "
            f"{columns}x{rows} cells; give a multiple of {cells}"
        )
    return count // cells


def film_change(
    donor_1LS: Tensor | None, blocks: Sequence[int], edits: Sequence[Edit]
) -> Change | None:
    """What gives these blocks the w of a donor and then makes the edits; None if that is nothing.

    An edit with two ends swings from the first to the last and back, once in the film.
    """
    if donor_1LS is None and not edits:
        return None

    def change(ws_NLS: Tensor, position: float) -> Tensor:
        if donor_1LS is not None:
            ws_NLS = mixed(ws_NLS, donor_1LS.expand_as(ws_NLS), blocks)
        return edited(ws_NLS, edits, (1 - math.cos(2 * math.pi * position)) / 2)

    return change


def film_frames(
    model: LoadedModel,
    keyframes_KLS: Tensor,
    *,
    grid: tuple[int, int] = (1, 1),
    frames: int,
    change: Change | None = None,
) -> Iterator[Tensor]:
    """The film's frames, uint8 [rows * H, columns * W, 3], each made when it is asked for.

    Cell i walks through the keyframes i * K / N ... (i + 1) * K / N - 1. `change` turns the ws
    [N, L, S] of a frame, and how far the film is (0 to below 1), into others: mixing, edits.
    Raises ValueError as `deal_keyframes` does.
    """
    each = deal_keyframes(len(keyframes_KLS), *grid)
    walks = [walk(part_KLS, frames) for part_KLS in keyframes_KLS.split(each)]
    total = each * frames
    return _frames(model, walks, total, grid, change)


def _frames(
    model: LoadedModel,
    walks: list[Callable[[int], Tensor]],
    total: int,
    grid: tuple[int, int],
    change: Change | None,
) -> Iterator[Tensor]:
    """Cells of as many frames are rendered at once as the model's batch takes."""
    at_once = max(1, model.settings.batch // len(walks))
    for first in range(0, total, at_once):
        ws = []
        for frame in range(first, min(first + at_once, total)):
            ws_NLS = torch.stack([at(frame) for at in walks])
            ws.append(ws_NLS if change is None else change(ws_NLS, frame / total))
        pixels = torch.cat(list(model.images(torch.cat(ws))))
        for cells_NHW3 in pixels.split(len(walks)):
            yield contact_sheet(cells_NHW3, *grid)
