"""Bias, leaky ReLU and gain."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

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
