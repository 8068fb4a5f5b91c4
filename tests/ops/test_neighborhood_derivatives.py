"""Derivatives beyond a plain gradient: right through the reference, refused in a sentence by all
others, and never zeros that nobody asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from ops.derivatives import first_order, in_transform
from ops.neighborhood import BACKENDS, HeadGroup, neighborhood_attention_2d
from ops.neighborhood.backends import choose
from ops.neighborhood.impl import cpu, reference
from ops.neighborhood.problem import describe
from ops.neighborhood.window import window_indices

GROUPS = (HeadGroup(1, 3), HeadGroup(2, 3, 2))
ALONE = tuple(range(5))  # q, k, v and the two tables, each with a tangent alone
FORWARD = r'no forward-mode derivatives .*; backend="reference" has'
NAMES = [row.name for row in BACKENDS if row.has_gradient and not row.has_all_derivatives]
needs_build = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))


def draw(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, ...]:
    shapes = [(1, 6, 7, 3, 2)] * 3 + [group.rpb_shape for group in GROUPS]
    return tuple(scale * torch.randn(shape, dtype=dtype) for shape in shapes)


def attend(*inputs: Tensor, backend: str = "auto") -> Tensor:
    q, k, v, *rpb = inputs
    return neighborhood_attention_2d(q, k, v, GROUPS, rpb, scale=0.6, backend=backend)


def loss(*inputs: Tensor) -> Tensor:
    return attend(*inputs).square().sum()


def tangents(*which: int) -> tuple[Tensor, ...]:
    """Random for these inputs, and zero for the others."""
    return tuple(
        t if index in which else torch.zeros_like(t) for index, t in enumerate(draw(scale=0.5))
    )


@pytest.mark.parametrize("which", [*((index,) for index in ALONE), ALONE])
def test_forward_mode_agrees_with_finite_differences_and_double_backward(which):
    inputs, direction = draw(), tangents(*which)
    eps = 1e-5
    shifted = [
        attend(*(x + sign * eps * t for x, t in zip(inputs, direction, strict=True)))
        for sign in (1, -1)
    ]
    out, tangent = torch.func.jvp(attend, inputs, direction)
    assert torch.equal(out, attend(*inputs))
    assert tangent.abs().max() > 1e-3
    torch.testing.assert_close(tangent, (shifted[0] - shifted[1]) / (2 * eps), atol=1e-8, rtol=1e-6)
    twice = torch.autograd.functional.jvp(attend, inputs, direction)[1]
    torch.testing.assert_close(tangent, twice, atol=1e-12, rtol=1e-10)


@needs_build
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_takes_the_reference_where_an_input_has_a_tangent(dtype):
    inputs, direction = draw(), tangents(*ALONE)
    exact = torch.func.jvp(loss, inputs, direction)[1]
    got = torch.func.jvp(
        loss, tuple(x.to(dtype) for x in inputs), tuple(t.to(dtype) for t in direction)
    )[1]
    assert abs(got.double() - exact) < 100 * torch.finfo(dtype).eps * abs(exact)


@needs_build
def test_dual_tensors_of_autograd_are_seen_and_plain_ones_beside_them_too():
    inputs, direction = draw(torch.float32), tangents(2)
    with forward_ad.dual_level():
        v = forward_ad.make_dual(inputs[2], direction[2].float())
        tangent = forward_ad.unpack_dual(attend(*inputs[:2], v, *inputs[3:])).tangent
        assert tangent is not None
        with pytest.raises(RuntimeError, match=FORWARD):
            attend(*inputs[:2], v, *inputs[3:], backend="cpu")
        plain = attend(*inputs, backend="cpu")  # nothing here has a tangent
    assert forward_ad.unpack_dual(plain).tangent is None
    exact = torch.func.jvp(attend, draw_again(inputs), direction)[1]
    torch.testing.assert_close(tangent.double(), exact, atol=1e-4, rtol=1e-4)


def draw_again(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.double() for x in inputs)


@needs_build
def test_a_backward_pass_in_forward_mode_is_not_silently_zero():
    """Recorded without tangents, then run with one: the gradient of the fused operation sees it."""
    q, *rest = draw(torch.float32)
    q.requires_grad_()
    for backend in ("cpu", "reference"):
        out = attend(q, *rest, backend=backend)
        with forward_ad.dual_level():
            dout = forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
            if backend == "cpu":
                with pytest.raises(RuntimeError, match=FORWARD):
                    torch.autograd.grad(out, q, dout)
            else:
                (dq,) = torch.autograd.grad(out, q, dout)
                unpacked = forward_ad.unpack_dual(dq)
                torch.testing.assert_close(unpacked.tangent, unpacked.primal)


def test_transforms_of_torch_func_agree_with_each_other():
    inputs = draw()
    q, *rest = inputs
    direction = torch.randn_like(q)

    def of_q(q: Tensor) -> Tensor:
        return loss(q, *rest)

    grad = torch.autograd.functional.jacobian(of_q, q)
    torch.testing.assert_close(torch.func.grad(of_q)(q), grad)
    torch.testing.assert_close(torch.func.jacrev(of_q)(q), grad)
    torch.testing.assert_close(torch.func.jacfwd(of_q)(q), grad)
    hessian = torch.autograd.functional.hessian(of_q, q)
    torch.testing.assert_close(torch.func.hessian(of_q)(q), hessian)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(of_q))(q), hessian)
    product = torch.tensordot(hessian, direction, dims=5)
    torch.testing.assert_close(
        torch.func.jvp(torch.func.grad(of_q), (q,), (direction,))[1], product
    )
    through = torch.func.grad(lambda q: torch.func.jvp(of_q, (q,), (direction,))[1])
    torch.testing.assert_close(through(q), product)


def test_vmap_gives_each_its_own_whichever_inputs_have_the_extra_dimension():
    q, k, v, *rpb = draw(torch.float32)
    several = torch.stack([q, 2 * q, -q])
    for which in range(3):
        inputs = [q, k, v]

        def one(x: Tensor, inputs: list[Tensor] = inputs, which: int = which) -> Tensor:
            return attend(*inputs[:which], x, *inputs[which + 1 :], *rpb, backend="reference")

        expected = torch.stack([one(x) for x in several])
        torch.testing.assert_close(torch.func.vmap(one)(several), expected)
    batched_grad = torch.func.vmap(torch.func.grad(lambda q: loss(q, k, v, *rpb)))(several)
    one_by_one = torch.stack([torch.func.grad(lambda q: loss(q, k, v, *rpb))(x) for x in several])
    torch.testing.assert_close(batched_grad, one_by_one)


@needs_build
def test_vmap_through_the_cpu_backend_is_right():
    q, *rest = draw(torch.float32)
    several = torch.stack([q, 2 * q])
    got = torch.func.vmap(lambda q: attend(q, *rest, backend="cpu"))(several)
    torch.testing.assert_close(got, torch.stack([attend(q, *rest) for q in several]))


@needs_build
def test_batched_gradients_of_a_recorded_graph_are_right():
    q, *rest = draw(torch.float32)
    q.requires_grad_()
    out = attend(q, *rest, backend="cpu")
    dout = torch.randn(3, *out.shape)
    (batched,) = torch.autograd.grad(out, q, dout, is_grads_batched=True, retain_graph=True)
    for row, expected in zip(batched, dout, strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(out, q, expected, retain_graph=True)[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_other_backend_refuses_tangents_and_func_s_gradients_in_a_sentence(name, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    q = torch.zeros(1, 7, 7, 3, 8)
    on = "cpu" if name in ("cpu", "triton") else "cuda"
    problem = dataclasses.replace(describe(q, q, q, GROUPS, None), device_type=on, device_index=0)
    with pytest.raises(RuntimeError, match=rf"'{name}' can't run this call: it has {FORWARD}"):
        choose(dataclasses.replace(problem, has_tangent=True), name)
    with pytest.raises(RuntimeError, match=rf'\'{name}\' can.t .* torch.func.* "?backend="refer'):
        choose(dataclasses.replace(problem, is_transformed=True), name)
    assert choose(dataclasses.replace(problem, has_tangent=True), "auto").name == "reference"


@needs_build
@pytest.mark.parametrize(
    "twice",
    [
        lambda f, x: torch.autograd.functional.hvp(f, x, x),
        lambda f, x: torch.autograd.functional.jvp(f, x, x),
        lambda f, x: torch.autograd.functional.hessian(f, x),
    ],
)
def test_a_gradient_of_a_gradient_names_the_reference(twice):
    q, *rest = (x.float() for x in draw())
    with pytest.raises(RuntimeError, match=r'first order only; backend="reference" has'):
        twice(lambda q: attend(q, *rest, backend="cpu").square().sum(), q)


@needs_build
def test_a_gradient_that_could_be_differentiated_is_itself_unchanged():
    q, *rest = (x.float() for x in draw())
    q.requires_grad_()
    out = attend(q, *rest, backend="cpu").square().sum()
    (with_graph,) = torch.autograd.grad(out, q, create_graph=True)
    (without,) = torch.autograd.grad(out, q)
    assert torch.equal(with_graph, without)


class Constant(torch.autograd.Function):
    """As NATTEN's kernels: the gradient is no function of x to autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, dx):
        with torch.no_grad():
            return 2 * ctx.saved_tensors[0] * dx


def test_a_gradient_that_autograd_takes_for_a_constant_is_not_left_out_of_a_second_one():
    x = torch.tensor(3.0, requires_grad=True)
    for function, is_refused in (
        (Constant.apply, False),
        (lambda x: Constant.apply(first_order(x)), True),
    ):
        y = function(x) + x**2
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        assert dx == 12
        if is_refused:
            with pytest.raises(RuntimeError, match=r"first order only; backend=.reference"):
                torch.autograd.grad(dx, x)
        else:  # what is mended: 4 would be right
            assert torch.autograd.grad(dx, x)[0] == 2


def test_the_plain_functions_are_the_reference_to_the_last_bit():
    keys = [window_indices(side, 3, 2, torch.device("cpu"))[0] for side in (6, 7)]
    x, y = torch.randn(2, 1, 6, 7, 3, 2).unbind()
    a = torch.randn(1, 6, 7, 3, 9)
    for function, plain, first, second in (
        (reference._query_key, reference._plain_query_key, x, y),
        (reference._gather, reference._plain_gather, a, y),
        (reference._scatter, reference._plain_scatter, a, x),
    ):
        assert torch.equal(function(first, second, *keys), plain(first, second, *keys))


def test_torch_compile_sees_the_transforms_that_it_traces():
    torch.compiler.reset()
    inputs, direction = draw(torch.float32), tuple(t.float() for t in tangents(*ALONE))

    def derivative(*inputs: Tensor) -> Tensor:
        return torch.func.jvp(loss, inputs, direction)[1]

    compiled = torch.compile(derivative, backend="eager")
    torch.testing.assert_close(compiled(*inputs), derivative(*inputs))
    plain = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(plain(*inputs), loss(*inputs))
    assert not in_transform("Grad", "Jvp", "Vmap")
