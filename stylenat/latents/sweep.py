"""Truncation sweep: the images of each seed at several psi, side by side.

Legend: N styles, K psi, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from stylenat.latents.loaded import LoadedModel
from stylenat.progress import progress_bar
from stylenat.sampling import Styles, check_sheet, contact_sheet
from stylenat.text import shown


def parse_sweep(text: str, option: str = "--trunc-sweep") -> list[float]:
    """`-1:2:7` -> 7 values of psi from -1 to 2, evenly spaced.

    Raises ValueError, naming the option and the text, for anything but two finite numbers and 2 to
    100 values.
    """
    pieces = text.split(":")
    try:
        first, last = (float(piece) for piece in pieces[:2])
        count = int(pieces[2]) if re.fullmatch("[0-9]{1,3}", pieces[2]) else 0
    except (ValueError, IndexError):
        first = last = math.nan
        count = 0
    is_right = len(pieces) == 3 and math.isfinite(first) and math.isfinite(last)
    if not is_right or not 2 <= count <= 100:
        raise ValueError(
            f"{option} must be FROM:TO:COUNT, two numbers and 2 to 100, such as -1:2:7: "
            f"{shown(text)}"
        )
    return [first + (last - first) * step / (count - 1) for step in range(count)]


def sweep_sheet(model: LoadedModel, styles: Styles, psis: list[float]) -> Tensor:
    """A contact sheet, uint8 [N * H, K * W, 3]: a row for each style, a column for each psi.

    Raises ValueError if the sheet would have more than 10,000 images.
    """
    check_sheet(len(psis), len(styles))
    sheet = []
    with progress_bar("Images", len(styles) * len(psis)) as advance:
        for index in range(len(styles)):
            columns = [
                ws_1LS
                for psi in psis
                for _, ws_1LS in styles.batches([index], batch=1, truncation_psi=psi)
            ]
            for images_BHW3 in model.images(torch.cat(columns)):
                sheet.append(images_BHW3)
                advance(len(images_BHW3))
    return contact_sheet(torch.cat(sheet), len(psis), len(styles))
