"""How the projects of docs/natten.md call NATTEN, each call pattern against plain attention.

Every pattern is written here from the project's names and order of arguments. The truth comes from
`dense`: attention over the whole map with a mask, which knows nothing of the operation's code.

Shapes: B batch, N heads, H height, W width, L length, D head_dim, C channels.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # float32 sums in another order


def window(pixel: int, length: int, size: int, step: int) -> list[int]:
    """The keys of a pixel along one axis, by the rule in NATTEN's words."""
    group = list(range(pixel % step, length, step))
    start = min(max(group.index(pixel) - size // 2, 0), len(group) - size)
    return group[start : start + size]


def dense(
    q: Tensor, k: Tensor, v: Tensor, size: int, step: int = 1, rpb: Tensor | None = None
) -> Tensor:
    """`[B, N, *S, D]`: softmax(q.k + rpb) v over a mask, in one or two axes."""
    space = q.shape[2:-1]
    mask = torch.zeros(*space, *space)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in space)).reshape(-1, len(space)):
        own = tuple(place.tolist())
        axes = [window(p, n, size, step) for p, n in zip(own, space, strict=True)]
        mask[own] = -math.inf
        for keys in torch.cartesian_prod(*map(torch.tensor, axes)).reshape(-1, len(space)):
            mask[own + tuple(keys.tolist())] = 0
    bias = mask.expand(q.shape[1], *mask.shape).clone()
    if rpb is not None:
        for place in (mask == 0).nonzero().tolist():
            own, key = place[: len(space)], place[len(space) :]
            offset = [(j - i) // step + size - 1 for i, j in zip(own, key, strict=True)]
            bias[(slice(None), *place)] += rpb[(slice(None), *offset)]
    flat = (x.flatten(2, -2) for x in (q, k, v))
    bias = bias.flatten(1, len(space)).flatten(2)
    return F.scaled_dot_product_attention(*flat, attn_mask=bias, scale=1.0).unflatten(2, space)


def dense_module(module: nn.Module, x: Tensor, size: int, step: int = 1) -> Tensor:
    """What a 2-D module must give, from its parameters alone."""
    qkv = module.qkv(x).unflatten(-1, (3, module.num_heads, module.head_dim))
    q, k, v = (t.movedim(-2, 1) for t in qkv.unbind(-3))
    out = dense(q * module.head_dim**-0.5, k, v, size, step, module.rpb)
    return module.proj(out.movedim(1, -2).flatten(-2))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def test_stylenat(natten, used):
    """Heads split into halves, each with its own dilation and its own table; 0.17."""
    package = natten("0.17")
    package.use_fused_na(True)
    package.use_autotuner(True)
    from natten.functional import na2d_av, na2d_qk

    qkv = draw(2, 9, 8, 3 * 4 * 4).view(2, 9, 8, 3, 4, 4).permute(3, 0, 4, 1, 2, 5)
    tables = [draw(2, 5, 5), draw(2, 5, 5)]
    q, k, v = (x.chunk(2, dim=1) for x in (qkv[0] * 0.5, qkv[1], qkv[2]))
    weights = [
        na2d_qk(q[i], k[i], kernel_size=3, dilation=d, rpb=tables[i]) for i, d in enumerate((1, 2))
    ]
    weights = [nn.Dropout(0.0)(a.softmax(dim=-1)) for a in weights]
    for i, d in enumerate((1, 2)):
        out = na2d_av(weights[i], v[i], kernel_size=3, dilation=d)
        torch.testing.assert_close(out, dense(q[i], k[i], v[i], 3, d, tables[i]), **CLOSE)
    assert used == ["fused", "fused"]


@pytest.mark.parametrize("level", ["0.14", "0.15", "0.17"])
def test_nat_and_dinat(level, natten, used):
    """The module under its short name; the name of the bias follows from `natten.context`."""
    package = natten(level)
    from natten import NeighborhoodAttention2D as NeighborhoodAttention

    name = "rel_pos_bias" if hasattr(package, "context") else "bias"
    attention = NeighborhoodAttention(
        8, kernel_size=3, dilation=2, num_heads=2, qkv_bias=True, **{name: True}
    )
    nn.init.normal_(attention.rpb)
    x = draw(1, 7, 9, 8)
    torch.testing.assert_close(attention(x), dense_module(attention, x, 3, 2), **CLOSE)
    assert used == ["fused"]
    assert callable(__import__("natten.flops", fromlist=["x"]).add_natten_handle)


def test_nat_in_detection(natten):
    """Maps that are smaller than a dilated window, which 0.17 refuses unless it is told to pad."""
    attention = natten("0.17", pad=True).NeighborhoodAttention2D(8, 2, 3, 3, rel_pos_bias=True)
    nn.init.normal_(attention.rpb)
    x = draw(1, 5, 10, 8)
    expected = dense_module(attention, F.pad(x, (0, 0, 0, 0, 0, 4)), 3, 3)[:, :5]
    torch.testing.assert_close(attention(x), expected, **CLOSE)


def test_oneformer(natten, used):
    """Keywords without one for the bias, which must be on, and small maps, which must be padded."""
    attention = natten("0.14").NeighborhoodAttention2D(
        8, kernel_size=3, dilation=3, num_heads=2, qkv_bias=True, qk_scale=None,
        attn_drop=0.0, proj_drop=0.0,
    )  # fmt: skip
    nn.init.normal_(attention.rpb)
    x = draw(1, 9, 6, 8)
    expected = dense_module(attention, F.pad(x, (0, 0, 0, 3)), 3, 3)[:, :, :6]
    torch.testing.assert_close(attention(x), expected, **CLOSE)
    assert used == ["fused"]


@pytest.mark.parametrize("order", ["4.25 to 4.27", "4.28 to 4.53"])
def test_hugging_face_dinat_and_nat(order, natten, used):
    """`natten2dqkrpb` by position, a division in place of a scale, and weights as an output."""
    natten("0.14.4" if order == "4.25 to 4.27" else "0.17")
    from natten.functional import natten2dav, natten2dqkrpb

    sizes = (2,) if order == "4.25 to 4.27" else (3, 2)
    q, k, v, rpb = draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(2, 5, 5)
    scores = natten2dqkrpb(q / math.sqrt(4), k, rpb, *sizes)
    weights = nn.Dropout(0.0)(nn.functional.softmax(scores, dim=-1))
    context = natten2dav(weights, v, *sizes).permute(0, 2, 3, 1, 4).contiguous()
    expected = dense(q / 2, k, v, 3, 2, rpb)
    torch.testing.assert_close(
        context.view(1, 7, 9, 8), expected.movedim(1, -2).flatten(-2), **CLOSE
    )
    assert used == ["fused"]
    torch.testing.assert_close(natten2dav(weights * 1, v, *sizes), expected, **CLOSE)


@pytest.mark.parametrize("fused", [True, False])
def test_k_diffusion(fused, natten, used):
    """Asks for fused attention and chooses the layout by the answer; no bias, no dilation."""
    package = natten("0.17")
    import natten.functional

    q, k, v = (draw(1, 7, 9, 2, 4) for _ in range(3))
    first = [x.movedim(-2, 1) for x in (q, k, v)]
    if fused:
        assert package.has_fused_na()
        out = natten.functional.na2d(q, k, v, 3, scale=1.0).movedim(-2, 1)
    else:
        attn = natten.functional.na2d_qk(first[0], first[1], 3)
        out = natten.functional.na2d_av(torch.softmax(attn, dim=-1), first[2], 3)
    torch.testing.assert_close(out, dense(*first, 3), **CLOSE)
    assert used == ["fused"]


@pytest.mark.parametrize("level", ["0.14", "0.17"])
def test_all_in_one(level, natten):
    """Beats in music: one axis with long dilations, and two axes."""
    natten(level)
    from natten.functional import natten1dav, natten1dqkrpb, natten2dav, natten2dqkrpb

    q, k, v, rpb = draw(1, 2, 40, 12), draw(1, 2, 40, 12), draw(1, 2, 40, 12), draw(2, 9)
    out = natten1dav(natten1dqkrpb(q, k, rpb, 5, 8).softmax(-1), v, 5, 8)
    torch.testing.assert_close(out, dense(q, k, v, 5, 8, rpb), **CLOSE)
    q, k, v, rpb = draw(1, 2, 5, 9, 12), draw(1, 2, 5, 9, 12), draw(1, 2, 5, 9, 12), draw(2, 9, 9)
    out = natten2dav(natten2dqkrpb(q, k, rpb, 5, 1).softmax(-1), v, 5, 1)
    torch.testing.assert_close(out, dense(q, k, v, 5, 1, rpb), **CLOSE)


def test_dat(natten, used):
    """DAT++ calls the autograd classes of 0.14.6."""
    natten("0.14")
    from natten.functional import NATTEN2DAVFunction, NATTEN2DQKRPBFunction

    q, k, v, rpb = draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(2, 5, 5)
    attn = NATTEN2DQKRPBFunction.apply(q, k, rpb, 3, 1).softmax(dim=-1)
    out = NATTEN2DAVFunction.apply(attn, v, 3, 1)
    torch.testing.assert_close(out, dense(q, k, v, 3, 1, rpb), **CLOSE)
    assert used == ["fused"]


def test_stable_audio_tools(natten, used):
    """Masks logits between the two calls, so that the weights are needed."""
    natten("0.15")
    from natten.functional import na1d_av, na1d_qk

    q, k, v = (draw(1, 2, 11, 4) for _ in range(3))
    attn = na1d_qk(q, k, kernel_size=5, dilation=1)
    attn = attn.masked_fill(torch.zeros(11, 5, dtype=torch.bool), -1e4)
    out = na1d_av(attn.softmax(-1), v, kernel_size=5, dilation=1)
    torch.testing.assert_close(out, dense(q, k, v, 5), **CLOSE)
    assert used == ["qk", "av"]


def test_agileformer(natten, used):
    natten("0.15")
    from natten.functional import na2d_av, na2d_qk_with_bias

    q, k, v, rpb = draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(1, 2, 7, 9, 4), draw(2, 5, 5)
    out = na2d_av(na2d_qk_with_bias(q, k, rpb, 3, 2).softmax(-1), v, 3, 2)
    torch.testing.assert_close(out, dense(q, k, v, 3, 2, rpb), **CLOSE)
    assert used == ["fused"]


def test_overlock(natten, used):
    """Weights from a network of its own."""
    natten("0.17")
    from natten.functional import na2d_av

    q = torch.zeros(1, 2, 7, 9, 4)
    v = draw(1, 2, 7, 9, 4)
    out = na2d_av(torch.full((1, 2, 7, 9, 9), 1 / 9), v, kernel_size=3)
    torch.testing.assert_close(out, dense(q, q, v, 3), **CLOSE)
    assert used == ["av"]


def test_segman(natten, used):
    package = natten("0.17")
    package.use_fused_na(True)
    package.use_gemm_na(True)
    from natten.functional import na2d, na2d_av, na2d_qk

    q, k, v, rpb = draw(1, 7, 9, 2, 4), draw(1, 7, 9, 2, 4), draw(1, 7, 9, 2, 4), draw(2, 5, 5)
    first = [x.movedim(-2, 1) for x in (q, k, v)]
    expected = dense(first[0] * 0.5, *first[1:], 3, 1, rpb)
    out = na2d(q, k, v, kernel_size=3, dilation=1, rpb=rpb)
    torch.testing.assert_close(out.movedim(-2, 1), expected, **CLOSE)
    out = na2d_av(na2d_qk(first[0] * 0.5, first[1], 3, rpb=rpb).softmax(-1), first[2], 3)
    torch.testing.assert_close(out, expected, **CLOSE)
    assert used == ["fused", "fused"]


def test_datr(natten):
    """The alias of 0.14.4, arguments by position."""
    package = natten("0.14.4")
    attention = package.NeighborhoodAttention(8, 3, 2, True)
    nn.init.normal_(attention.rpb)
    x = draw(1, 7, 9, 8)
    torch.testing.assert_close(attention(x), dense_module(attention, x, 3), **CLOSE)


def test_deblurdinat(natten):
    from_level = natten("0.14")
    line = from_level.NeighborhoodAttention1D(8, 2, 3, 2)
    nn.init.normal_(line.rpb)
    x = draw(1, 9, 8)
    q, k, v = (t.movedim(-2, 1) for t in line.qkv(x).unflatten(-1, (3, 2, 4)).unbind(-3))
    expected = line.proj(dense(q * 0.5, k, v, 3, 2, line.rpb).movedim(1, -2).flatten(-2))
    torch.testing.assert_close(line(x), expected, **CLOSE)
