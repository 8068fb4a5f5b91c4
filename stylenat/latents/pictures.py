"""Pictures that the commands for trained models write.

Legend: N styles, K columns, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylenat.data.images import ImageError, RefusedImage, decode, scale_and_crop
from stylenat.latents.directions import Direction, Edit, edited
from stylenat.latents.loaded import LoadedModel
from stylenat.progress import progress_bar
from stylenat.sampling import check_sheet, contact_sheet


def check_png(path: Path) -> None:
    """Raises ValueError unless the name ends in .png."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"the picture is a PNG, and its name must end in .png: {path}")


def edit_columns(edits: Sequence[Edit], steps: int | None) -> list[float]:
    """The positions of the columns of an edit: `steps` of them if some edit has two ends.

    Otherwise the only column is the edit. Raises ValueError for steps that nothing needs.
    """
    if all(edit.first == edit.last for edit in edits):
        if steps is not None:
            raise ValueError("--steps is for strengths with two ends, such as --set 1:-3..3")
        return [1.0]
    count = 5 if steps is None else steps
    return [column / (count - 1) for column in range(count)]


def edit_sheet(
    model: LoadedModel,
    ws_NLS: Tensor,
    edits: Sequence[Edit],
    positions: Sequence[float],
    *,
    with_originals: bool,
) -> Tensor:
    """A row for each style: its image, if asked for, and those of the edits at these positions.

    uint8 [N * H, K * W, 3]. Raises ValueError if the sheet would have more than 10,000 images.
    """
    columns = [edited(ws_NLS, edits, position) for position in positions]
    if with_originals:
        columns = [ws_NLS, *columns]
    check_sheet(len(columns), len(ws_NLS))
    sheet = []
    with progress_bar("Images", len(columns) * len(ws_NLS)) as advance:
        for images_BHW3 in model.images(torch.stack(columns, dim=1).flatten(0, 1)):
            sheet.append(images_BHW3)
            advance(len(images_BHW3))
    return contact_sheet(torch.cat(sheet), len(columns), len(ws_NLS))


def direction_strip(
    model: LoadedModel, ws_NLS: Tensor, direction: Direction, *, sigmas: float, steps: int
) -> Tensor:
    """A row for each style, moved along the direction from -sigmas to sigmas in `steps` columns."""
    edit = Edit(direction, -sigmas, sigmas)
    positions = [column / (steps - 1) for column in range(steps)]
    return edit_sheet(model, ws_NLS, [edit], positions, with_originals=False)


def read_pictures(paths: Sequence[Path], resolution: int) -> Tensor:
    """The middle squares of image files, scaled: uint8 [N, resolution, resolution, 3].

    Raises OSError for a file that cannot be read, and ValueError for one that holds no image.
    """
    pictures = []
    for path in paths:
        try:
            pictures.append(read_picture(path.read_bytes(), resolution))
        except RefusedImage as reason:
            raise ImageError(str(path), str(reason)) from reason
    return torch.stack(pictures)


def read_picture(data: bytes, resolution: int) -> Tensor:
    """The middle square of an image file's bytes, scaled: uint8 [resolution, resolution, 3].

    Raises RefusedImage as `decode` and `scale_and_crop` do.
    """
    image = scale_and_crop(decode(data), resolution, "lanczos")
    return torch.from_numpy(np.array(image))


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each picture, as ws files have them: its file's, with a number if need be."""
    names: list[str] = []
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:60] or "picture"
        name, number = plain, 2
        while name in names:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names
