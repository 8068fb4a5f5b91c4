"""What the heads of a generator look at: attention weights, and numbers that sum them up.

Legend: B images, H height, W width, N heads, D head_dim, C channels, K keys of a query, S styles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ops.neighborhood import HeadGroup
from ops.neighborhood.window import window_indices
from stylenat.latents.blocks import all_blocks
from stylenat.models import Generator
from stylenat.models.attention import (
    GlobalAttention,
    HydraAttention,
    WindowAttention,
    relative_bias,
)


@dataclass(frozen=True)
class Place:
    """A head group in the generator. Global attention is one group, with kernel_size 0."""

    resolution: int
    block: int  # among all blocks, as everywhere on the command line
    group: int
    first_head: int
    heads: int
    kernel_size: int
    dilation: int

    @property
    def label(self) -> str:
        kind = f"kernel {self.kernel_size}, dilation {self.dilation}"
        return f"{self.resolution}x{self.resolution}, block {self.block}, " + (
            kind if self.kernel_size else "global"
        )


@dataclass(frozen=True)
class Weights:
    """Attention weights of one head group: [B, H, W, N, K], and where each key is.

    `rows` [H, ky] and `columns` [W, kx] are the pixels of the keys, K = ky * kx.
    """

    place: Place
    weights: Tensor
    rows: Tensor
    columns: Tensor


@torch.no_grad()
def attention_weights(generator: Generator, ws_BLS: Tensor) -> Iterator[Weights]:
    """The weights of each head group, from 4x4 up, while images of these ws are made.

    StyleSwin's windows are left out, since they are the same for many queries.
    """
    with _tokens(generator) as tokens:
        generator.synthesis(ws_BLS.to(generator.const))
    sides = generator.config.block_resolutions
    for block, (resolution, module) in enumerate(zip(sides, all_blocks(generator), strict=True)):
        attention = module.attention
        if isinstance(attention, HydraAttention):
            yield from _of_groups(attention, tokens[attention], resolution, block)
        elif isinstance(attention, GlobalAttention):
            yield _of_whole_map(attention, tokens[attention], block)


def left_out(generator: Generator) -> int:
    """How many levels have an attention that `attention_weights` leaves out."""
    return sum(
        any(isinstance(module, WindowAttention) for module in level.modules())
        for level in generator.levels
    )


@contextmanager
def _tokens(generator: Generator) -> Iterator[dict[Any, Tensor]]:
    """Collects what each attention of the generator gets, within the block."""
    tokens: dict[Any, Tensor] = {}

    def keep(module: Any, inputs: tuple[Tensor, ...]) -> None:
        tokens[module] = inputs[0].detach()

    kinds = (HydraAttention, GlobalAttention)
    hooks = [m.register_forward_pre_hook(keep) for m in generator.modules() if isinstance(m, kinds)]
    try:
        yield tokens
    finally:
        for hook in hooks:
            hook.remove()


def _of_groups(
    attention: HydraAttention, x_BHWC: Tensor, resolution: int, block: int
) -> Iterator[Weights]:
    q_BHWND, k_BHWND, _ = attention.qkv_heads(x_BHWC).unbind(-3)
    first = 0
    for index, group in enumerate(attention.groups):
        place = Place(
            resolution, block, index, first, group.heads, group.kernel_size, group.dilation
        )
        heads = slice(first, first + group.heads)
        yield _of_group(
            place,
            attention.scale * q_BHWND[..., heads, :],
            k_BHWND[..., heads, :],
            group,
            attention.rpb[index],
        )
        first += group.heads


def _of_group(place: Place, q: Tensor, k: Tensor, group: HeadGroup, rpb: Tensor) -> Weights:
    """softmax of q.k + rpb over the keys of each query, for scaled q and k [B, H, W, N, D]."""
    height, width = q.shape[1:3]
    rows, bias_rows = window_indices(height, group.kernel_size, group.dilation, q.device)
    columns, bias_columns = window_indices(width, group.kernel_size, group.dilation, q.device)
    logits = torch.stack(
        [
            (q * k[:, rows[:, i]][:, :, columns[:, j]]).sum(-1)
            for i in range(group.kernel_size)
            for j in range(group.kernel_size)
        ],
        dim=-1,
    )
    # [N, H, ky, W, kx] -> [H, W, N, K]
    bias = rpb[:, bias_rows][..., bias_columns].permute(1, 3, 0, 2, 4).flatten(-2)
    return Weights(place, (logits + bias).softmax(-1), rows, columns)


def _of_whole_map(attention: GlobalAttention, x_BHWC: Tensor, block: int) -> Weights:
    side, heads = attention.resolution, attention.heads
    q_BLND, k_BLND, _ = attention.qkv_heads(x_BHWC).flatten(1, 2).unbind(2)
    logits_BNLL = attention.scale * q_BLND.transpose(1, 2) @ k_BLND.permute(0, 2, 3, 1)
    weights_BNLL = (logits_BNLL + relative_bias(attention.rpb, side)).softmax(-1)
    everywhere = torch.arange(side, device=x_BHWC.device).expand(side, -1)
    return Weights(
        Place(side, block, 0, 0, heads, 0, 1),
        weights_BNLL.transpose(1, 2).unflatten(1, (side, side)),
        everywhere,
        everywhere,
    )


@dataclass(frozen=True)
class HeadSummary:
    """One head, averaged over images and queries.

    `distance`: from the query to what it looks at, in pixels of the image, weighted by attention;
    `uniform_distance`: the same for equal weights. `entropy` is in nats; `uniform_entropy`, that of
    equal weights, is the largest possible. `on_itself`: the weight of the query's own pixel.
    """

    resolution: int
    block: int
    group: int
    head: int
    kernel_size: int
    dilation: int
    distance: float
    uniform_distance: float
    entropy: float
    uniform_entropy: float
    on_itself: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def mean_of(heads: Sequence[HeadSummary], counts: Sequence[int]) -> HeadSummary:
    """The mean of one head's summaries of batches with these numbers of images."""
    means = {
        name: sum(count * getattr(head, name) for head, count in zip(heads, counts, strict=True))
        / sum(counts)
        for name in ("distance", "entropy", "on_itself")
    }
    return replace(heads[0], **means)


def summaries(found: Weights, image_side: int) -> list[HeadSummary]:
    """A summary of each head of a group."""
    place, weights = found.place, found.weights.double()
    height, width = len(found.rows), len(found.columns)
    dy_HK = (found.rows - torch.arange(height, device=weights.device)[:, None]).double()
    dx_WK = (found.columns - torch.arange(width, device=weights.device)[:, None]).double()
    distance_HWK = torch.hypot(dy_HK[:, None, :, None], dx_WK[None, :, None, :]).flatten(-2)
    distance_HWK = distance_HWK * (image_side / place.resolution)
    distances_N = (weights * distance_HWK[:, :, None]).sum(-1).mean((0, 1, 2))
    entropies_N = torch.special.entr(weights).sum(-1).mean((0, 1, 2))
    itself_N = (weights * (distance_HWK == 0)[:, :, None]).sum(-1).mean((0, 1, 2))
    numbers = zip(distances_N.tolist(), entropies_N.tolist(), itself_N.tolist(), strict=True)
    return [
        HeadSummary(
            place.resolution,
            place.block,
            place.group,
            place.first_head + head,
            place.kernel_size,
            place.dilation,
            distance,
            float(distance_HWK.mean()),
            entropy,
            math.log(weights.shape[-1]),
            on_itself,
        )
        for head, (distance, entropy, on_itself) in enumerate(numbers)
    ]
