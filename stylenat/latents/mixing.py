"""Style mixing: some blocks take their w from one style, the others from another.

The matrix of StyleGAN (arXiv 1812.04948, figure 3).
Legend: R rows, K columns, L blocks, S style_dim, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylenat.latents.loaded import LoadedModel
from stylenat.progress import progress_bar
from stylenat.sampling import check_sheet, contact_sheet


def mixed(ws: Tensor, donor_ws: Tensor, blocks: Sequence[int]) -> Tensor:
    """ws [..., L, S] with these blocks' w of the donor, which broadcasts with ws."""
    result = ws.clone()
    result[..., list(blocks), :] = donor_ws[..., list(blocks), :]
    return result


def mixing_sheet(
    model: LoadedModel, rows_RLS: Tensor, columns_KLS: Tensor, blocks: Sequence[int]
) -> Tensor:
    """The matrix with both margins, uint8 [(1 + R) * H, (1 + K) * W, 3]; its corner is black.

    The images of the rows are at the left, those of the columns on top. An image of the matrix is
    that of its row, with these blocks of its column. Raises ValueError for more than 10,000 images.
    """
    check_sheet(1 + len(columns_KLS), 1 + len(rows_RLS))
    lines = [columns_KLS]
    for row_LS in rows_RLS:
        crossed_KLS = mixed(row_LS.expand_as(columns_KLS), columns_KLS, blocks)
        lines += [row_LS[None], crossed_KLS]
    side = model.generator.resolution
    images = [torch.zeros(1, side, side, 3, dtype=torch.uint8)]
    ws_NLS = torch.cat(lines)
    with progress_bar("Images", len(ws_NLS)) as advance:
        for images_BHW3 in model.images(ws_NLS):
            images.append(images_BHW3)
            advance(len(images_BHW3))
    return contact_sheet(torch.cat(images), 1 + len(columns_KLS), 1 + len(rows_RLS))
