"""Weights that wait: what leaves them waiting, what computes them, and that both are the same.

Shapes: B batch, N heads, H height, W width, D head_dim, K = kernel_size**2.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stylenat.compat import functional, levels
from stylenat.compat.deferred import DeferredWeights
from tests.compat.waiting import EXACT, SHAPE, attend, draw, logits

SPELLINGS = {
    "method": lambda x: x.softmax(-1),
    "method by name": lambda x: x.softmax(dim=-1),
    "positive axis": lambda x: x.softmax(4),
    "functional": lambda x: F.softmax(x, dim=-1),
    "functional, positional": lambda x: F.softmax(x, -1),
    "torch": lambda x: torch.softmax(x, dim=-1),
    "special": lambda x: torch.special.softmax(x, -1),
    "module": lambda x: nn.Softmax(dim=-1)(x),
    "own dtype": lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
    "dropout in eval": lambda x: nn.Dropout(0.5).eval()(x.softmax(-1)),
    "dropout of nothing": lambda x: nn.Dropout(0.0)(x.softmax(-1)),
    "functional dropout": lambda x: F.dropout(x.softmax(-1), 0.5, training=False),
    "functional dropout, positional": lambda x: F.dropout(x.softmax(-1), 0.3, False),
    "torch.dropout": lambda x: torch.dropout(x.softmax(-1), 0.0, True),
    "in place, of nothing": lambda x: F.dropout(x.softmax(-1), 0.0, inplace=True),
    "identity": lambda x: nn.Identity()(x.softmax(-1)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_softmax_and_idle_dropout_is_fused(spelling, expected, used):
    q, k, v, rpb = draw()
    out = attend(SPELLINGS[spelling](logits(q, k, rpb)), v)
    assert used == ["fused"]
    torch.testing.assert_close(out, expected[2], **EXACT)


def test_questions_leave_weights_waiting(used):
    q, k, _v, rpb = draw(grad=True)
    for weights in (logits(q, k, rpb), logits(q, k, rpb).softmax(-1)):
        assert weights.shape == weights.size() == (*SHAPE[:-1], 9)
        assert weights.size(-1) == 9
        assert (weights.ndim, weights.dim(), len(weights)) == (5, 5, 2)
        assert (weights.dtype, weights.device) == (torch.float32, q.device)
        assert weights.requires_grad
        assert weights.numel() == torch.numel(weights) == 2 * 3 * 7 * 9 * 9
        assert weights.is_floating_point()
        assert torch.is_floating_point(weights)
        assert not weights.is_cuda
        assert isinstance(weights, Tensor)
        assert torch.is_tensor(weights)
    assert used == []
    with torch.no_grad():
        assert not logits(q, k, rpb).requires_grad


LOOKS = {
    "arithmetic": lambda x: x + 0,
    "reflected": lambda x: 0 + x,
    "indexing": lambda x: x[:],
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "float": lambda x: x.float(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to(torch.float32),
    "view": lambda x: x.view(x.shape),
    "reshape": lambda x: x.reshape(-1).reshape(x.shape),
    "unbound": lambda x: torch.stack(x.unbind(0)),
    "iterated": lambda x: torch.stack(list(x)),
    "concatenated": lambda x: torch.cat([x, x], 0)[:2],
    "einsum": lambda x: torch.einsum("bnhwk->bnhwk", x),
    "where": lambda x: torch.where(torch.ones(x.shape, dtype=torch.bool), x, 0),
    "masked_fill": lambda x: x.masked_fill(torch.zeros(x.shape, dtype=torch.bool), 1.0),
    "contiguous": lambda x: x.contiguous(),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "tolist": lambda x: torch.tensor(x.tolist()),
    "items": lambda x: x * (x.sum().item() / x.sum().item()),
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "saved": lambda x: saved(x),
    "storage": lambda x: torch.empty(0).set_(x.untyped_storage()).view(x.shape),
    "dlpack": lambda x: torch.from_dlpack(x),
    "parameter": lambda x: nn.Parameter(x.detach()).data,
    "out": lambda x: torch.mul(x, 1, out=torch.empty(x.shape)),
}


def saved(x: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("is_softmax", [False, True], ids=["logits", "softmax"])
@pytest.mark.parametrize("look", LOOKS)
def test_anything_else_gets_the_exact_weights_computed_once(look, is_softmax, expected, used):
    q, k, _, rpb = draw()
    weights = logits(q, k, rpb)
    weights = weights.softmax(-1) if is_softmax else weights
    seen = LOOKS[look](weights)
    assert type(seen) is Tensor
    torch.testing.assert_close(seen, expected[is_softmax], atol=0, rtol=0)
    LOOKS[look](weights)
    assert used == ["qk"]


def test_words_and_addresses_come_from_the_weights(expected, used):
    q, k, _, rpb = draw()
    weights = logits(q, k, rpb)
    assert repr(weights) == repr(expected[0])
    assert weights.data_ptr() == weights.look().data_ptr()
    assert f"{weights.sum():.4f}" == f"{expected[0].sum():.4f}"
    assert bool((weights == expected[0]).all())
    assert {weights: 1}[weights] == 1
    assert used == ["qk"]


NOT_FUSED = {
    "masked before": lambda x: x.masked_fill(torch.zeros(9, dtype=torch.bool), 0).softmax(-1),
    "masked after": lambda x: x.softmax(-1) * 1,
    "bias added": lambda x: (x + 0).softmax(-1),
    "another axis": lambda x: (x.softmax(1), x.softmax(-1) * 1)[1],
    "other dtype": lambda x: F.softmax(x, dim=-1, dtype=torch.float64).float(),
    "looked at": lambda x: (x.sum(), x.softmax(-1))[1],
    "softmax looked at": lambda x: [y := x.softmax(-1), y.sum()][0],
}


@pytest.mark.parametrize("way", NOT_FUSED)
def test_weights_that_were_looked_at_are_used_as_they_are(way, expected, used):
    q, k, v, rpb = draw()
    out = attend(NOT_FUSED[way](logits(q, k, rpb)), v)
    assert used == ["qk", "av"]
    torch.testing.assert_close(out, expected[2], **EXACT)


def test_a_softmax_over_another_axis_is_another_softmax(expected):
    q, k, v, rpb = draw()
    out = attend(logits(q, k, rpb).softmax(2), v)
    torch.testing.assert_close(out, attend(expected[0].softmax(2), v), **EXACT)


def test_active_dropout_drops(used):
    q, k, v, rpb = draw()
    torch.manual_seed(0)
    out = attend(F.dropout(logits(q, k, rpb).softmax(-1), 0.5), v)
    assert used == ["qk", "av"]
    torch.manual_seed(0)
    again = attend(F.dropout(logits(q, k, rpb).clone().softmax(-1), 0.5), v)
    torch.testing.assert_close(out, again, atol=0, rtol=0)
    with pytest.raises(ValueError, match="probability"):
        F.dropout(logits(q, k), 1.5, training=False)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_recompute_the_same(reentrant):
    def block(q, k, v, rpb):
        return attend(logits(q, k, rpb).softmax(-1), v)

    inputs, again = draw(grad=True), draw(grad=True)
    block(*inputs).square().sum().backward()
    checkpoint(block, *again, use_reentrant=reentrant).square().sum().backward()
    for x, y in zip(inputs, again, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=0, rtol=0)


def test_autocast_gives_what_it_gives_without_waiting():
    q, k, v, rpb = draw()
    found = []
    for plain in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            weights = logits(q.bfloat16(), k.bfloat16(), rpb)
            weights = (weights.clone() if plain else weights).softmax(-1)
            found.append((weights.dtype, attend(weights, v.bfloat16())))
    assert found[0][0] == found[1][0]
    assert found[1][1].dtype == torch.bfloat16
    # bfloat16 has 8 bits: the plain path rounds logits and weights, the fused one neither.
    torch.testing.assert_close(found[0][1], found[1][1], atol=3e-2, rtol=3e-2)


def test_nothing_waits_where_pytorch_looks_into_the_call(used):
    q, k, _v, rpb = draw()

    def plain(q, k, rpb):
        x = logits(q, k, rpb)
        assert not isinstance(x, DeferredWeights)
        return x.softmax(-1)

    torch.jit.trace(plain, (q, k, rpb), check_trace=False)
    torch.func.vmap(lambda q: plain(q, k, rpb))(q[None])
    torch.func.grad(lambda q: plain(q, k, rpb).square().sum())(q)
    torch.func.jvp(lambda q: plain(q, k, rpb), (q,), (k,))
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        plain(q, k, rpb)


def test_torch_compile_gives_the_same(expected):
    @torch.compile(backend="eager", fullgraph=True)
    def block(q, k, v, rpb):
        return attend(logits(q, k, rpb).softmax(-1), v)

    torch.testing.assert_close(block(*draw()), expected[2], **EXACT)


def test_what_can_not_be_fused_is_computed_at_once():
    q, k, _, _rpb = draw()
    assert type(functional.na2d_qk(q, k, (3, 5))) is Tensor
    assert type(functional.na2d_qk(q, k, 3, (1, 2))) is Tensor
    assert type(functional.na2d_qk(q, k, 3, is_causal=True)) is Tensor
    assert type(functional.na2d_qk(q, k, 3, additional_keys=q[:, :, 0, :2])) is Tensor
    assert type(functional.na1d_qk(q[:, :, 0], k[:, :, 0], 3)) is Tensor
    numpy_s = torch.from_numpy(q.numpy())  # memory that can't be copied on write
    assert type(functional.na2d_qk(numpy_s, k, 3)) is Tensor
    levels.set_current(levels.settings("0.17", None, deferred=False))
    try:
        assert type(functional.na2d_qk(q, k, 3)) is Tensor
    finally:
        levels.set_current(levels.settings("0.17", None, deferred=True))


def test_av_with_other_arguments_gets_the_weights(used):
    q, k, v, _ = draw()
    wide = torch.randn(*SHAPE[:-1], 6)
    weights = functional.na2d_qk(q, k, 3, 1).softmax(-1)
    out = functional.na2d_av(weights, wide, 3, 1)
    assert out.shape[-1] == 6
    weights = functional.na2d_qk(q, k, 3, 1).softmax(-1)
    out = functional.na2d_av(weights, v, 3, 2)
    assert used == ["qk", "av"] * 2
    torch.testing.assert_close(out, functional.na2d_av(weights * 1, v, 3, 2), **EXACT)


def test_modules_compile_trace_and_export(natten):
    module = natten("0.15").NeighborhoodAttention2D(8, 2, 3, 2).eval()
    x = torch.randn(1, 7, 9, 8)
    with torch.no_grad():
        expected = module(x)
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        traced = torch.jit.trace(module, (x,))
        exported = torch.export.export(module, (x,)).module()
        for other in (compiled, traced, exported):
            torch.testing.assert_close(other(x), expected, **EXACT)
