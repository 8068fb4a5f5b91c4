"""The adversarial losses and the gradient penalty."""

import math

import pytest
import torch

from stylenat.losses import (
    consistency_loss,
    gradient_penalty,
    logistic_d_loss,
    logistic_g_loss,
    relativistic_d_loss,
    relativistic_g_loss,
)

REAL = torch.tensor([[1.0], [-2.0]])
FAKE = torch.tensor([[0.5], [3.0]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            logistic_d_loss(REAL, FAKE),
            (softplus(-1) + softplus(2)) / 2 + (softplus(0.5) + softplus(3)) / 2,
        ),
        (logistic_g_loss(FAKE), (softplus(-0.5) + softplus(-3)) / 2),
        (relativistic_d_loss(REAL, FAKE), (softplus(-0.5) + softplus(5)) / 2),
        (relativistic_g_loss(REAL, FAKE), (softplus(0.5) + softplus(-5)) / 2),
        (consistency_loss(REAL, FAKE), (0.25 + 25) / 2),
    ],
)
def test_losses_have_the_values_of_their_formulas(loss, expected):
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_losses_of_large_logits_stay_finite():
    far = torch.tensor([[1e4]])
    assert logistic_d_loss(-far, far).item() == pytest.approx(2e4)
    assert logistic_g_loss(far).item() == 0


def test_gradient_penalty_is_the_mean_squared_gradient_and_reaches_the_parameters():
    """For D(x) = scale * |x|^2 / 2 the gradient is scale * x."""
    scale = torch.tensor(3.0, requires_grad=True)
    images = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    penalty = gradient_penalty(lambda x: scale * x.square().sum((1, 2, 3)) / 2, images)
    squares = images.square().sum().item() / 4
    assert penalty.item() == pytest.approx(9 * squares, rel=1e-6)
    penalty.backward()
    assert scale.grad.item() == pytest.approx(6 * squares, rel=1e-6)
    assert not images.requires_grad
