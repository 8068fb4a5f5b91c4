"""Bias, leaky ReLU and gain."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from ops import bias_act as module
from ops.bias_act import bias_act


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_values_follow_the_formula_by_hand():
    x = torch.tensor([[1.0, -3.0], [-1.0, 5.0]], dtype=torch.float64)
    bias = torch.tensor([2.0, -1.0], dtype=torch.float64)
    expected = torch.tensor([[3.0, -0.8], [1.0, 4.0]], dtype=torch.float64) * math.sqrt(2)
    torch.testing.assert_close(bias_act(x, bias), expected)


def test_without_bias_it_is_the_activation_alone():
    x = randn(2, 3, 4, 5)
    torch.testing.assert_close(bias_act(x), bias_act(x, torch.zeros(3, dtype=torch.float64)))


def test_slope_and_gain_act():
    x = torch.tensor([[2.0, -2.0]], dtype=torch.float64)
    out = bias_act(x, negative_slope=0.5, gain=3.0)
    torch.testing.assert_close(out, torch.tensor([[6.0, -3.0]], dtype=torch.float64))


@pytest.mark.parametrize("channel_dim", [0, 1, 3, -1, -3])
def test_bias_runs_along_the_channel_dimension(channel_dim):
    x = randn(2, 3, 4, 5)
    bias = randn(x.shape[channel_dim], seed=1)
    expected = torch.stack(
        [bias_act(x.select(channel_dim, c) + bias[c]) for c in range(x.shape[channel_dim])],
        dim=channel_dim,
    )
    torch.testing.assert_close(bias_act(x, bias, channel_dim=channel_dim), expected)


def test_default_channel_dimension_is_1():
    x, bias = randn(2, 3, 3, 3), randn(3, seed=1)
    assert torch.equal(bias_act(x, bias), bias_act(x, bias, channel_dim=1))


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_it_is_twice_differentiable_in_x_and_bias(channel_dim):
    x = randn(2, 3, 4).requires_grad_()
    bias = randn(x.shape[channel_dim], seed=1).requires_grad_()

    def apply(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return bias_act(x, bias, channel_dim=channel_dim)

    assert gradcheck(apply, (x, bias))
    # Linear on either side of 0, so its own second derivative vanishes: square it.
    assert gradgradcheck(lambda x, bias: apply(x, bias).square(), (x, bias))


def test_input_is_left_alone():
    x, bias = randn(2, 3), randn(3, seed=1)
    before = x.clone()
    bias_act(x, bias)
    assert torch.equal(x, before)


def test_gain_keeps_the_second_moment_of_a_normal_input():
    # E[out^2] = 2 (1 + 0.2^2) / 2 = 1.04; its standard error over 100,000 draws is below 0.006.
    assert bias_act(randn(100, 1000)).square().mean().item() == pytest.approx(1.04, abs=0.03)


@pytest.mark.parametrize("bias", [torch.zeros(4), torch.zeros(1), torch.zeros(3, 1)])
def test_bias_of_another_shape_is_refused(bias):
    with pytest.raises(ValueError, match="against 3 channels in dimension 1"):
        bias_act(torch.zeros(2, 3, 5), bias)


@pytest.mark.parametrize("channel_dim", [2, -3])
def test_missing_channel_dimension_is_refused(channel_dim):
    with pytest.raises(ValueError, match=rf"\(2, 3\) has no dimension {channel_dim}"):
        bias_act(torch.zeros(2, 3), torch.zeros(3), channel_dim=channel_dim)


# The C++: the numbers of the steps, and only where it may.

SETTINGS = (0.2, math.sqrt(2))
LAYOUTS = {  # shape, memory format, channel dimension
    "maps": ((3, 5, 9, 7), torch.contiguous_format, 1),
    "large maps": ((2, 3, 70, 65), torch.contiguous_format, 1),
    "channels last": ((2, 24, 13, 11), torch.channels_last, 1),
    "tokens": ((2, 150, 24), torch.contiguous_format, -1),
    "rows": ((16, 33), torch.contiguous_format, 1),
    "middle": ((2, 3, 4, 5), torch.contiguous_format, 2),
    "one pixel": ((2, 24, 1, 1), torch.contiguous_format, 1),
}


@pytest.fixture
def seen(monkeypatch):
    """Counts the calls of the C++."""
    if (reason := module.missing()) is not None:
        pytest.skip(reason)
    found, forward = [], module._BiasAct.forward
    monkeypatch.setattr(module._BiasAct, "forward", lambda *a: found.append(1) or forward(*a))
    return found


def problem(layout: str = "maps", dtype: torch.dtype = torch.float32):
    shape, memory_format, channel_dim = LAYOUTS[layout]
    x = randn(*shape).to(dtype)
    x = x.contiguous(memory_format=memory_format) if len(shape) == 4 else x
    return x, randn(shape[channel_dim], seed=1).float(), channel_dim


def steps(x, bias, channel_dim):
    return module._steps(x, bias, *SETTINGS, channel_dim % x.ndim)


def gradients(function, x, bias, channel_dim):
    x, bias = x.clone().requires_grad_(), bias.clone().requires_grad_()
    out = function(x, bias, channel_dim)
    dy = randn(*out.shape, seed=2).to(out.dtype)
    return torch.autograd.grad(out, (x, bias), dy)


def fused(x, bias, channel_dim):
    return bias_act(x, bias, channel_dim=channel_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_library_gives_the_bits_and_the_layout_of_the_steps(seen, layout, dtype):
    x, bias, channel_dim = problem(layout, dtype)
    found, expected = fused(x, bias, channel_dim), steps(x, bias, channel_dim)
    assert seen == [1]
    assert (found.dtype, found.stride()) == (torch.float32, expected.stride())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_gradients_are_those_of_the_steps(seen, layout, dtype):
    problem_ = problem(layout, dtype)
    (dx, dbias), (expected_dx, _) = gradients(fused, *problem_), gradients(steps, *problem_)
    _, exact_dbias = gradients(steps, problem_[0].double(), problem_[1].double(), problem_[2])
    assert seen == [1]
    assert torch.equal(dx, expected_dx)
    assert dx.dtype == dtype
    torch.testing.assert_close(dbias.double(), exact_dbias, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_change_no_bit_of_gradients(seen, layout):
    expected = gradients(fused, *problem(layout))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = gradients(fused, *problem(layout))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("layout", ["maps", "channels last", "tokens"])
def test_a_gradient_in_another_layout_is_taken(seen, layout):
    x, bias, channel_dim = problem(layout)
    dy = torch.randn(()).expand(x.shape)
    found = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
    expected = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
    fused(*found, channel_dim).backward(dy)
    steps(*expected, channel_dim).backward(dy)
    assert torch.equal(found[0].grad, expected[0].grad)
    torch.testing.assert_close(found[1].grad, expected[1].grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["maps", "channels last", "rows"])
def test_second_derivatives_are_those_of_the_steps(seen, layout, dtype):
    x, bias, channel_dim = problem(layout, dtype)

    def second(function):
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        out = function(*leaves, channel_dim).square().sum()
        first = torch.autograd.grad(out, leaves, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.float().square().sum() for g in first), leaves)]

    for found, expected in zip(second(fused), second(steps), strict=True):
        assert found.dtype == expected.dtype
        scale = expected.detach().abs().max().item()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
    assert seen


def test_a_bias_with_gaps_is_taken(seen):
    x, bias, _ = problem("large maps")
    with_gaps = torch.stack([bias, bias + 1], dim=1)[:, 0]
    assert not with_gaps.is_contiguous()
    assert torch.equal(bias_act(x, with_gaps), steps(x, bias, 1))
    assert seen


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_what_is_asked_for_is_differentiated(seen, wanted):
    leaves = list(problem()[:2])
    leaves[wanted].requires_grad_()
    out = fused(*leaves, 1)
    (found,) = torch.autograd.grad(out, leaves[wanted], torch.ones_like(out))
    plain = steps(*leaves, 1)
    (expected,) = torch.autograd.grad(plain, leaves[wanted], torch.ones_like(plain))
    torch.testing.assert_close(found, expected)


def test_not_a_number_stays_one(seen):
    x, bias, _ = problem()
    x[1, 2, 3, 4] = math.nan
    out = bias_act(x, bias)
    assert out.isnan().sum() == 1
    assert out[1, 2, 3, 4].isnan()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, bias: ((x.double(), bias.double()), {}),
        lambda x, bias: ((x.half(), bias), {}),
        lambda x, bias: ((x, bias.bfloat16()), {}),
        lambda x, bias: ((x, None), {}),
        lambda x, bias: ((x.to("meta"), bias.to("meta")), {}),
        lambda x, bias: ((x[:0], bias), {}),
        lambda x, bias: ((x, bias), {"negative_slope": -0.1}),
        lambda x, bias: ((x, bias), {"gain": -1.0}),
    ],
)
def test_all_else_goes_step_by_step(seen, change):
    tensors, settings = change(*problem()[:2])
    out = bias_act(*tensors, **settings)
    assert (out.shape, out.device) == (tensors[0].shape, tensors[0].device)
    assert not seen


def test_transforms_and_counters_see_the_steps(seen):
    x, bias, _ = problem()
    torch.func.jvp(lambda x: bias_act(x, bias), (x,), (torch.ones_like(x),))
    with FlopCounterMode(display=False):
        bias_act(x, bias)
    assert not seen


def test_without_a_library_it_goes_step_by_step(monkeypatch, seen):
    monkeypatch.setattr(module, "missing", lambda: "no compiler")
    x, bias, _ = problem()
    assert torch.equal(bias_act(x, bias), steps(x, bias, 1))
    assert not seen
