"""Pictures of attention: a query's weights over the image, and bias tables as heat maps.

Legend: H height, W width, N heads, K keys, P side of a picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.latents.attention_maps import Weights
from stylenat.sampling import contact_sheet

SIDE = 192  # pixels of a picture, at least
HOT = (255, 60, 0)
COLD = (30, 90, 255)
QUERY = (0, 230, 120)


def query_sheet(found: Weights, image_HW3: Tensor, at: tuple[int, int]) -> Tensor:
    """The image, and for each head the weights of the query at pixel (x, y) laid over it.

    The more a place is looked at, the redder it is; the strongest weight is fully red. The query's
    pixel is green. Weights and image are those of the first style. uint8 [P, (1 + N) * P, 3].
    """
    place = found.place
    x, y = (part * place.resolution // image_HW3.shape[0] for part in at)
    heat_NHW = torch.zeros(place.heads, place.resolution, place.resolution)
    weights_NK = found.weights[0, y, x].float().cpu()
    rows, columns = found.rows[y].cpu(), found.columns[x].cpu()
    grid = weights_NK.unflatten(1, (len(rows), len(columns)))
    heat_NHW[:, rows[:, None], columns] = grid / grid.amax((1, 2), keepdim=True)
    query_1HW = torch.zeros(1, place.resolution, place.resolution)
    query_1HW[0, y, x] = 1
    side = max(SIDE, image_HW3.shape[0])
    image = enlarged(image_HW3.permute(2, 0, 1)[None].float(), side).permute(0, 2, 3, 1)
    grey = image.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    heat = enlarged(heat_NHW[:, None], side).permute(0, 2, 3, 1)
    query = enlarged(query_1HW[:, None], side).permute(0, 2, 3, 1)
    over = heat * torch.tensor(HOT) + (1 - heat) * (0.6 * grey)
    pictures = torch.cat([image, over])
    pictures = query * torch.tensor(QUERY) + (1 - query) * pictures
    return contact_sheet(pictures.round().clamp(0, 255).to(torch.uint8), 1 + place.heads)


def bias_sheet(rpb_NRR: Tensor) -> Tensor:
    """The bias tables of heads side by side, blue below 0 and red above. uint8 [P, N * P, 3].

    The middle of a table is the query's own position. The strongest bias of all heads is fully
    red or blue; 0 is white.
    """
    table_NRR1 = rpb_NRR.detach().float().cpu()[..., None]
    table_NRR1 = table_NRR1 / table_NRR1.abs().max().clamp(min=1e-12)
    color = torch.where(table_NRR1 > 0, torch.tensor(HOT), torch.tensor(COLD)).float()
    picture = 255 + table_NRR1.abs() * (color - 255)
    side = max(SIDE // 2, rpb_NRR.shape[-1])
    pictures = enlarged(picture.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
    return contact_sheet(pictures.round().to(torch.uint8), len(rpb_NRR))


def enlarged(pictures_NCHW: Tensor, side: int) -> Tensor:
    """Pictures [N, C, side, side] whose pixels became boxes."""
    return F.interpolate(pictures_NCHW, (side, side), mode="nearest-exact")
