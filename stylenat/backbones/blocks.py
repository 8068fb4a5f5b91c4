"""The block of NAT, DiNAT and DiNAT_s: neighborhood attention, then an MLP.

Legend: B batch, H height, W width, C channels, N heads, D head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.dense import by_rows
from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.models.layers import Linear


class Block(nn.Module):
    """Tokens [B, H, W, C] -> [B, H, W, C]: two residual branches, each behind a norm.

    With `layer_scale`, learned factors [C] that start at it multiply the branches. In training,
    each image loses a branch with probability `drop_path`, and the others' are scaled up for it.
    """

    def __init__(
        self,
        channels: int,
        group: HeadGroup,
        *,
        mlp_channels: int,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, group)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, mlp_channels)
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(layer_scale)))
        self.has_layer_scale = layer_scale is not None

    def forward(self, x_BHWC: Tensor) -> Tensor:
        branch = self.attn(self.norm1(x_BHWC))
        x_BHWC = x_BHWC + self._dropped(self.gamma1 * branch if self.has_layer_scale else branch)
        branch = self.mlp(self.norm2(x_BHWC))
        return x_BHWC + self._dropped(self.gamma2 * branch if self.has_layer_scale else branch)

    def _dropped(self, branch_BHWC: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch_BHWC
        keep = 1 - self.drop_path
        kept_B111 = branch_BHWC.new_empty(len(branch_BHWC), 1, 1, 1).bernoulli_(keep)
        return branch_BHWC * (kept_B111 / keep)

    def extra_repr(self) -> str:
        return f"drop_path={self.drop_path:.3g}"


class Attention(nn.Module):
    """Neighborhood attention of all heads with one window and dilation. rpb: [N, 2k-1, 2k-1].

    A map smaller than `kernel_size * dilation` is filled up with zero tokens on the right and at
    the bottom, as in NATTEN up to 0.15, with which the published models were trained. They are
    tokens like all others: they pass the qkv layer, and are seen. What they give is cut off.
    """

    def __init__(self, channels: int, group: HeadGroup) -> None:
        super().__init__()
        self.group = group
        self.least_side = group.kernel_size * group.dilation
        self.qkv = Linear(channels, 3 * channels)
        self.rpb = nn.Parameter(torch.empty(group.rpb_shape))
        self.proj = Linear(channels, channels)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        _, height, width, _ = x_BHWC.shape
        below, right = max(0, self.least_side - height), max(0, self.least_side - width)
        if below or right:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, right, 0, below))
        q_BHWND, k_BHWND, v_BHWND = (
            self.qkv(x_BHWC).unflatten(-1, (3, self.group.heads, -1)).unbind(3)
        )
        out_BHWND = neighborhood_attention_2d(q_BHWND, k_BHWND, v_BHWND, (self.group,), (self.rpb,))
        if below or right:
            out_BHWND = out_BHWND[:, :height, :width]
        return self.proj(out_BHWND.flatten(-2))

    def extra_repr(self) -> str:
        group = self.group
        return f"heads={group.heads}, kernel_size={group.kernel_size}, dilation={group.dilation}"


class MLP(nn.Module):
    """C -> hidden -> C channels, with the exact GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return by_rows(lambda x, _: self.fc2(self.fc1(x, gelu=True)), x_BHWC, None)
