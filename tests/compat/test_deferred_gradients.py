"""Weights that wait: their gradients, and changes of what they are made of.

Shapes: B batch, N heads, H height, W width, D head_dim, K = kernel_size**2.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.compat.waiting import EXACT, attend, draw, logits


def gradients(way: str) -> list[Tensor]:
    q, k, v, rpb = inputs = draw(grad=True)
    weights = logits(q * 0.5, k, rpb)
    if way == "plain":
        weights = weights.clone()
    weights = weights.softmax(-1)
    out = attend(weights, v)
    loss = (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()
    if way != "fused alone":
        loss = loss + (weights * torch.linspace(-2, 1, weights.numel()).view(weights.shape)).sum()
    return list(torch.autograd.grad(loss, inputs))


def test_gradients_of_both_uses_add_up(used):
    for got, plain in zip(gradients("both"), gradients("plain"), strict=True):
        torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    assert used[:2] == ["fused", "qk"]


def test_fused_gradients_are_those_of_the_weights():
    q, k, v, rpb = inputs = draw(grad=True)
    out = attend(logits(q * 0.5, k, rpb).clone().softmax(-1), v)
    loss = (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()
    plain = torch.autograd.grad(loss, inputs)
    for got, truth in zip(gradients("fused alone"), plain, strict=True):
        torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)


class Doubled(torch.autograd.Function):
    """A function of a program's own, which PyTorch calls without asking its arguments' class."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize("is_softmax", [False, True], ids=["logits", "softmax"])
def test_autograd_functions_of_a_program_get_weights_and_pass_gradients_on(is_softmax):
    found = []
    for plain in (True, False):
        q, k, _, rpb = draw(grad=True)
        weights = logits(q, k, rpb)
        weights = weights.softmax(-1) if is_softmax else weights
        out = Doubled.apply(weights.clone() if plain else weights)
        scale = torch.linspace(-1, 1, out.numel()).view(out.shape)
        found.append([out, *torch.autograd.grad((out * scale).sum(), [q, k, rpb])])
    for got, truth in zip(*found, strict=True):
        torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)


def test_hooks_and_kept_gradients_see_the_gradient():
    q, k, v, rpb = draw(grad=True)
    weights = logits(q, k, rpb).softmax(-1)
    weights.retain_grad()
    seen = []
    weights.register_hook(seen.append)
    attend(weights, v).sum().backward()
    assert weights.grad.shape == weights.shape
    assert torch.equal(seen[0], weights.grad)


def test_a_gradient_asked_for_after_fusing_is_refused():
    q, k, v, rpb = draw(grad=True)
    raw = logits(q, k, rpb)
    weights = raw.softmax(-1)
    out = attend(weights, v)
    for x in (raw, weights):
        with pytest.raises(RuntimeError, match="deferred=False"):
            x.retain_grad()
        with pytest.raises(RuntimeError, match="deferred=False"):
            torch.autograd.grad(out.sum(), x, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("use", ["fused", "looked at"])
def test_changes_of_query_and_key_after_qk_change_nothing(mode, use, expected):
    with mode():
        q, k, v, rpb = (x.clone() for x in draw())
        weights = logits(q, k, rpb).softmax(-1)
        q.zero_()
        k.add_(1)
        rpb.mul_(3)
        out = attend(weights if use == "fused" else weights * 1, v)
    torch.testing.assert_close(out, expected[2], **EXACT)


def test_changes_through_another_view_of_the_memory_change_nothing(expected):
    q, k, v, rpb = draw()
    qkv = torch.stack([q, k, v])
    weights = logits(qkv[0], qkv[1], rpb).softmax(-1)
    out = attend(weights, qkv[2])
    qkv.zero_()
    torch.testing.assert_close(out, expected[2], **EXACT)
    torch.testing.assert_close(weights * 1, expected[1], **EXACT)


def test_a_bias_that_the_optimizer_changes_stays_as_it_was(expected):
    q, k, v, rpb = draw(grad=True)
    weights = logits(q, k, rpb).softmax(-1)
    attend(weights, v).sum().backward()
    with torch.no_grad():
        rpb.add_(1)
    torch.testing.assert_close(weights.detach(), expected[1], **EXACT)


def test_a_change_that_spoils_the_gradient_is_refused():
    q, k, v, rpb = draw(grad=True)
    query = q * 1
    weights = logits(query, k, rpb).softmax(-1)
    query.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        attend(weights, v)


def test_weights_changed_in_place_are_changed(expected):
    q, k, v, rpb = draw()
    mask = torch.zeros(9, dtype=torch.bool)
    mask[0] = True
    raw = logits(q, k, rpb)
    kept = raw.softmax(-1)
    raw.masked_fill_(mask, -1e4)
    raw[..., 1] = 0
    changed = expected[0].masked_fill(mask, -1e4)
    changed[..., 1] = 0
    torch.testing.assert_close(raw + 0, changed, atol=0, rtol=0)
    torch.testing.assert_close(attend(raw.softmax(-1), v), attend(changed.softmax(-1), v), **EXACT)
    torch.testing.assert_close(kept + 0, expected[1], **EXACT)
    weights = logits(q, k, rpb).softmax(-1)
    weights *= 0.5
    torch.testing.assert_close(attend(weights, v), expected[2] / 2, **EXACT)


def test_weights_made_without_gradients_give_none(used):
    q, k, v, rpb = draw(grad=True)
    with torch.no_grad():
        weights = logits(q, k, rpb).softmax(-1)
    attend(weights, v).sum().backward()
    assert v.grad is not None
    assert q.grad is k.grad is rpb.grad is None
    assert used == ["fused"]


def test_first_looked_at_without_gradients_they_still_have_one():
    q, k, _v, rpb = draw(grad=True)
    weights = logits(q, k, rpb)
    with torch.no_grad():
        weights.mean()
    weights.sum().backward()
    assert q.grad is not None
