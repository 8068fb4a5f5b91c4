"""Instance normalisation in C++: the numbers of the steps, and only where it may."""

import pytest
import torch

from ops import instance_norm as module
from ops.instance_norm import instance_norm

EPS = 1e-5


@pytest.fixture(autouse=True)
def built():
    if (reason := module.missing()) is not None:
        pytest.skip(reason)


def exact(x, gamma, beta):
    x, gamma, beta = x.double(), gamma.double()[:, None, None], beta.double()[:, None, None]
    mean = x.mean(dim=(1, 2), keepdim=True)
    variance = x.var(dim=(1, 2), keepdim=True, correction=0)
    return gamma * (x - mean) / (variance + EPS).sqrt() + beta


def problem(batch=2, height=5, width=7, channels=24, dtype=torch.float32, offset=0.0):
    torch.manual_seed(0)
    x = (offset + torch.randn(batch, height, width, channels)).to(dtype)
    return x, torch.randn(batch, channels), torch.randn(batch, channels)


@pytest.fixture
def seen(monkeypatch):
    """Counts the calls of the C++."""
    found, forward = [], module._Fused.forward
    monkeypatch.setattr(module._Fused, "forward", lambda *a: found.append(1) or forward(*a))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 24), (1, 1, 1, 8), (3, 64, 64, 5), (1, 40, 33, 130), (1, 3, 3, 9000)]
)
def test_it_is_exact_to_the_rounding_of_its_result(seen, shape, dtype):
    problem_ = problem(*shape, dtype=dtype)
    found = instance_norm(*problem_, eps=EPS)
    assert seen == [1]
    assert found.dtype == dtype
    expected = exact(*problem_)
    tolerance = 2e-6 if dtype == torch.float32 else 2**-8
    error = (found.double() - expected).abs() / (1 + expected.abs())
    assert float(error.max()) < tolerance


def test_a_large_mean_and_an_outlier_cost_no_digits():
    x, gamma, beta = problem(1, 64, 64, 16, offset=1000.0)
    # What is tested can fail: float32 sums of squares lose it.
    naive = x.square().mean(dim=(1, 2)) - x.mean(dim=(1, 2)).square()
    assert float((naive / x.double().var(dim=(1, 2), correction=0) - 1).abs().max()) > 1e-3
    x[0, 0, 0] = 1e5
    expected = exact(x, gamma, beta)
    error = (instance_norm(x, gamma, beta, eps=EPS).double() - expected).abs() / (
        1 + expected.abs()
    )
    assert float(error.max()) < 2e-6


def test_threads_and_memory_layout_do_not_change_a_bit():
    x, gamma, beta = problem(2, 33, 30, 40)
    expected = instance_norm(x, gamma, beta, eps=EPS)
    strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(instance_norm(strided, gamma, beta, eps=EPS), expected)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(instance_norm(x, gamma, beta, eps=EPS), expected)
    finally:
        torch.set_num_threads(before)


def test_not_a_number_stays_one():
    x, gamma, beta = problem(dtype=torch.bfloat16)
    x[1, 2, 3, 4] = float("nan")
    found = instance_norm(x, gamma, beta, eps=EPS)
    assert found[1, :, :, 4].isnan().all()
    assert found[1, :, :, 5].isfinite().all()
    assert found[0].isfinite().all()


def test_under_autocast_the_result_is_rounded_as_the_next_layer_would():
    x, gamma, beta = problem()
    expected = instance_norm(x, gamma, beta, eps=EPS).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(instance_norm(x, gamma, beta, eps=EPS), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, g, b: (x.double(), g.double(), b.double()),
        lambda x, g, b: (x.half(), g, b),
        lambda x, g, b: (x.to("meta"), g.to("meta"), b.to("meta")),
        lambda x, g, b: (x[:0], g[:0], b[:0]),
    ],
)
def test_all_else_goes_step_by_step(seen, change):
    x, gamma, beta = change(*problem())
    out = instance_norm(x, gamma, beta, eps=EPS)
    assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)
    assert not seen


def test_without_a_library_it_goes_step_by_step(monkeypatch, seen):
    monkeypatch.setattr(module, "missing", lambda: "no compiler")
    problem_ = problem()
    torch.testing.assert_close(
        instance_norm(*problem_, eps=EPS).double(), exact(*problem_), atol=1e-5, rtol=1e-5
    )
    assert not seen


# gradients


def gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    torch.manual_seed(1)
    dy = torch.randn(out.shape).to(out.dtype)
    return torch.autograd.grad(out, leaves, dy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 7, 24), (1, 1, 1, 8), (1, 40, 33, 130), (3, 64, 64, 5)])
def test_gradients_err_no_more_than_those_of_the_steps(shape, dtype):
    tensors = problem(*shape, dtype=dtype, offset=2.0)
    ours = gradients(lambda *t: instance_norm(*t, eps=EPS), *tensors)
    steps = gradients(lambda *t: module._steps(*t, EPS), *tensors)
    true = gradients(lambda *t: module._steps(*t, EPS), *(t.double() for t in tensors))
    for found, plain, expected in zip(ours, steps, true, strict=True):
        assert found.dtype == plain.dtype
        error = (found.double() - expected).abs().max()
        allowed = 2 * (plain.double() - expected).abs().max() + 1e-6 * expected.abs().max() + 1e-6
        assert error <= allowed, (float(error), float(allowed))


def test_second_derivatives_are_those_of_the_steps():
    x, gamma, beta = problem(1, 3, 4, 5)

    def second(function):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, gamma, beta)]
        first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    ours = second(lambda *t: instance_norm(*t, eps=EPS))
    for found, expected in zip(ours, second(lambda *t: module._steps(*t, EPS)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_only_what_is_asked_for_is_differentiated():
    x, gamma, beta = problem()
    gamma.requires_grad_()
    out = instance_norm(x, gamma, beta, eps=EPS)
    (first,) = torch.autograd.grad(out.square().sum(), gamma, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), gamma)
    assert second.isfinite().all()
