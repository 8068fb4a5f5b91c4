"""The specification itself: against a loop over pixels, its gradients of any order, its memory."""

from __future__ import annotations

import itertools

import torch
from torch.autograd.graph import saved_tensors_hooks

from ops.neighborhood import HeadGroup, neighborhood_attention_2d

GROUPS = [HeadGroup(1, 3), HeadGroup(2, 3, 2)]


def attend(*tensors: torch.Tensor) -> torch.Tensor:
    q, k, v, *rpb = tensors
    return neighborhood_attention_2d(q, k, v, GROUPS, rpb or None, scale=0.6, backend="reference")


def draw(*, requires_grad: bool) -> list[torch.Tensor]:
    shapes = [(1, 6, 7, 3, 2)] * 3 + [(1, 5, 5), (2, 5, 5)]
    return [torch.randn(s, dtype=torch.float64).requires_grad_(requires_grad) for s in shapes]


def window(pixel: int, length: int, dilation: int) -> list[tuple[int, int]]:
    """Key pixel and offset in positions of every key of one pixel along one axis, kernel 3."""
    group = list(range(pixel % dilation, length, dilation))
    position = group.index(pixel)
    start = max(0, min(position - 1, len(group) - 3))
    return [(group[key], key - position) for key in range(start, start + 3)]


def test_it_equals_a_loop_over_heads_pixels_and_keys():
    q, k, v, *rpb = draw(requires_grad=False)
    out = attend(q, k, v, *rpb)
    tables = torch.cat(rpb)
    dilations = [group.dilation for group in GROUPS for _ in range(group.heads)]
    for head, dilation in enumerate(dilations):
        for y, x in itertools.product(range(6), range(7)):
            scores, values = [], []
            for (key_y, dy), (key_x, dx) in itertools.product(
                window(y, 6, dilation), window(x, 7, dilation)
            ):
                bias = tables[head, dy + 2, dx + 2]
                scores.append(0.6 * q[0, y, x, head] @ k[0, key_y, key_x, head] + bias)
                values.append(v[0, key_y, key_x, head])
            weights = torch.stack(scores).softmax(0)
            expected = (weights[:, None] * torch.stack(values)).sum(0)
            torch.testing.assert_close(out[0, y, x, head], expected)


def test_first_and_second_gradients_match_finite_differences():
    inputs = draw(requires_grad=True)
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, inputs, fast_mode=True)


def test_third_gradients_match_finite_differences():
    q, k, v, *rpb = draw(requires_grad=True)

    def second(q):
        (first,) = torch.autograd.grad(attend(q, k, v, *rpb).square().sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, [q], fast_mode=True)


def test_it_keeps_attention_weights_but_no_copy_of_the_features_for_every_key():
    """Kept for the backward pass, in floats a head: q, k, v and k**2 weights twice, no k**2 * D."""
    group, depth = HeadGroup(2, 7), 32
    q, k, v = (torch.randn(1, 14, 14, 2, depth, requires_grad=True) for _ in range(3))
    rpb = torch.randn(group.rpb_shape, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        neighborhood_attention_2d(q, k, v, [group], [rpb], backend="reference")
    pixels_and_heads = 14 * 14 * 2
    assert sum(kept.values()) < 4 * pixels_and_heads * (4 * depth + 3 * 49)
