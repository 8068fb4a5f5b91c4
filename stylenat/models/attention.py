"""Attention of the generator's blocks: head groups, the whole map, or StyleSwin's double windows.

Legend: B batch, H height, W width, C channels, N heads, D head_dim, L positions in a window.

Each module maps tokens [B, H, W, C] to tokens [B, H, W, C], added to `residual` if it is given.
Every relative positional bias `rpb` is indexed by key minus query position, y first, and shifted to
start at 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.derivatives import is_transformed
from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.problem import check_heads_add_up
from stylenat.models.layers import normal_linear

# What StyleSwin adds to the logits of positions that only the cyclic shift brings together.
MASKED = -100.0


def check_even(heads: int, where: str = "") -> None:
    if heads % 2:
        raise ValueError(f"double windows need an even number of heads: {heads}{where}")


class _MultiHeadAttention(nn.Module):
    """What the three kinds share: a linear layer for q, k and v, and one after the heads."""

    def __init__(
        self, channels: int, heads: int, *, qkv_bias: bool, qk_scale: float | None
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide the channels: {heads} against {channels} channels")
        self.heads = heads
        self.scale = (channels // heads) ** -0.5 if qk_scale is None else qk_scale
        self.qkv = normal_linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = normal_linear(channels, channels)

    def qkv_heads(self, x_BHWC: Tensor) -> Tensor:
        """q, k and v of all heads, [B, H, W, 3, N, D]."""
        return self.qkv(x_BHWC).unflatten(-1, (3, self.heads, -1))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, scale={self.scale:.4g}"


class HydraAttention(_MultiHeadAttention):
    """Neighborhood attention whose head groups each see their own neighborhood (Hydra-NA).

    StyleNAT (arXiv 2211.05770), section 3.2: the heads are split, and every part attends with its
    own kernel size and dilation. All groups run in one call, on views of the projection.
    Raises ValueError if the groups' heads do not add up to `heads`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: Sequence[HeadGroup],
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(channels, heads, qkv_bias=qkv_bias, qk_scale=qk_scale)
        check_heads_add_up(groups, heads, of="the module's")
        self.groups = tuple(groups)
        self.backend = backend
        self.rpb = nn.ParameterList(_bias_table(*group.rpb_shape) for group in groups)

    def forward(self, x_BHWC: Tensor, residual: Tensor | None = None) -> Tensor:
        q_BHWND, k_BHWND, v_BHWND = self.qkv_heads(x_BHWC).unbind(-3)
        out_BHWND = neighborhood_attention_2d(
            q_BHWND,
            k_BHWND,
            v_BHWND,
            self.groups,
            tuple(self.rpb),
            scale=self.scale,
            backend=self.backend,
        )
        return self.proj(out_BHWND.flatten(-2), add=residual)

    def extra_repr(self) -> str:
        groups = ", ".join(
            f"{group.heads} heads {group.kernel_size}x{group.kernel_size} dilation {group.dilation}"
            for group in self.groups
        )
        return f"{super().extra_repr()}, groups=({groups}), backend={self.backend}"


class GlobalAttention(_MultiHeadAttention):
    """Every position attends to the whole map, resolution x resolution. rpb: [N, 2R-1, 2R-1]."""

    def __init__(
        self,
        channels: int,
        heads: int,
        resolution: int,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__(channels, heads, qkv_bias=qkv_bias, qk_scale=qk_scale)
        self.resolution = resolution
        self.rpb = _bias_table(heads, 2 * resolution - 1, 2 * resolution - 1)

    def forward(self, x_BHWC: Tensor, residual: Tensor | None = None) -> Tensor:
        """Raises ValueError unless H = W = resolution."""
        side = self.resolution
        if x_BHWC.shape[1:3] != (side, side):
            raise ValueError(f"tokens must be [B, {side}, {side}, C]: {tuple(x_BHWC.shape)}")
        q_BNLD, k_BNLD, v_BNLD = self.qkv_heads(x_BHWC).flatten(1, 2).permute(2, 0, 3, 1, 4)
        bias_NLL = relative_bias(self.rpb, side).to(q_BNLD.dtype)
        out_BNLD = _attend(q_BNLD, k_BNLD, v_BNLD, bias_NLL[None], self.scale)
        return self.proj(out_BNLD.transpose(1, 2).reshape(x_BHWC.shape), add=residual)


class WindowAttention(_MultiHeadAttention):
    """StyleSwin's double attention; see `Windows`. rpb: [N, 2w-1, 2w-1], w the window's side."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window_size: int,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__(channels, heads, qkv_bias=qkv_bias, qk_scale=qk_scale)
        check_even(heads)
        self.window_size = window_size
        self.rpb = _bias_table(heads, 2 * window_size - 1, 2 * window_size - 1)

    def forward(self, x_BHWC: Tensor, residual: Tensor | None = None) -> Tensor:
        """Raises ValueError unless H = W is a multiple of the window's side."""
        _, height, width, _ = x_BHWC.shape
        if height != width or height % self.window_size:
            raise ValueError(
                f"tokens must be square, and a multiple of the window, {self.window_size}: "
                f"{height}x{width}"
            )
        shift = 0 if height == self.window_size else self.window_size // 2
        qkv_BHW3ND = _roll_second_half(self.qkv_heads(x_BHWC), -shift)
        q, k, v = self._to_windows(qkv_BHW3ND).unbind(0)
        bias = relative_bias(self.rpb, self.window_size)
        if shift:
            bias = bias + self._shift_mask(height, shift, x_BHWC.device).to(bias.dtype)
        out = _attend(q, k, v, bias.to(q.dtype), self.scale)  # [B, windows, N, L, D]
        out_BHWND = _roll_second_half(self._from_windows(out, height), shift)
        return self.proj(out_BHWND.flatten(-2), add=residual)

    def _to_windows(self, qkv_BHW3ND: Tensor) -> Tensor:
        """[B, H, W, 3, N, D] -> [3, B, windows, N, L, D], windows and positions row by row."""
        size = self.window_size
        split = qkv_BHW3ND.unflatten(2, (-1, size)).unflatten(1, (-1, size))
        return split.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3)

    def _from_windows(self, out: Tensor, height: int) -> Tensor:
        """[B, windows, N, L, D] -> [B, H, W, N, D]."""
        size = self.window_size
        split = out.unflatten(3, (size, size)).unflatten(1, (height // size, -1))
        return split.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)

    def _shift_mask(self, side: int, shift: int, device: torch.device) -> Tensor:
        """What the second half of the heads adds to its logits: [windows, N, L, L], 0 or MASKED."""
        size = self.window_size
        wrapped = torch.arange(side, device=device) >= side - shift
        region = 2 * wrapped[:, None].int() + wrapped.int()
        region = region.unflatten(1, (-1, size)).unflatten(0, (-1, size)).transpose(1, 2)
        region = region.reshape(-1, 1, size**2)  # [windows, 1, L]
        apart = region[..., :, None] != region[..., None, :]
        is_shifted = torch.arange(self.heads, device=device) >= self.heads // 2
        return MASKED * (apart & is_shifted[:, None, None])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window_size={self.window_size}"


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of [..., L, D] with bias [..., L, L]."""
    # PyTorch's fused kernels have no forward mode, and torch.export records their memory layout,
    # which no other program has.
    if is_transformed() or torch.compiler.is_exporting():
        return ((scale * q) @ k.mT + bias).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def relative_bias(rpb: Tensor, side: int) -> Tensor:
    """Spread tables [N, 2*side-1, 2*side-1] over all pairs of positions of a side x side map.

    Returns [N, L, L], L = side^2: n, query, key is `rpb[n, key - query + side - 1]` in y and x.
    """
    # Window (i, j) of the table is the bias of query (side-1-i, side-1-j) to all keys.
    windows = rpb.unfold(1, side, 1).unfold(2, side, 1).flip(1, 2)
    return windows.reshape(-1, side**2, side**2)


def _roll_second_half(x: Tensor, shift: int) -> Tensor:
    """Roll the second half of the heads of [B, H, W, ..., N, D] by `shift` along H and W."""
    if shift == 0:
        return x
    plain, shifted = x.chunk(2, dim=-2)
    return torch.cat([plain, shifted.roll((shift, shift), dims=(1, 2))], dim=-2)


def _bias_table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(std=0.02))
