"""The unfused pair: its rules, against a loop over pixels, and its derivatives."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import strategies
from torch import Tensor

import ops.neighborhood
from ops.neighborhood import neighborhood_av, neighborhood_qk
from ops.neighborhood.impl import unfused_cpu
from tests.golden_values import golden_arrays, golden_json, golden_randn
from tests.ops.unfused_problems import Call, Tensors, attend, draw, loop

CALLS = (
    Call((7,), 3, 2, rpb=True, batch=2),
    Call((6,), 3, 2, True, extra=2, batch=2),
    Call((5, 4), 3, rpb=True, extra=2),
    Call((5, 7), (5, 3), (1, 2), (True, False), extra=1, heads=1),
    Call((3, 3, 4), 3, rpb=True, heads=1, head_dim=2),
    Call((3, 4, 6), 3, (1, 1, 2), (False, True, False), extra=1, heads=1, head_dim=1),
)
BACKENDS = [
    pytest.param("reference"),
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(
            unfused_cpu.missing() is not None, reason=str(unfused_cpu.missing())
        ),
    ),
]


@strategies.composite
def calls(draw_: strategies.DrawFn) -> Call:
    """One to three axes, each with a window of its own that just fits, or has some room."""
    axes = draw_(strategies.integers(1, 3))
    kernel, dilation, causal, space = [], [], [], []
    for _ in range(axes):
        kernel.append(draw_(strategies.sampled_from((3, 5, 7) if axes < 3 else (3,))))
        dilation.append(draw_(strategies.integers(1, 3 if axes < 3 else 2)))
        causal.append(draw_(strategies.booleans()))
        room = draw_(strategies.integers(0, 5 if axes < 3 else 1))
        space.append(kernel[-1] * dilation[-1] + room)
    hypothesis.assume(math.prod(space) * math.prod(kernel) <= 8000)
    return Call(
        tuple(space),
        tuple(kernel),
        tuple(dilation),
        tuple(causal),
        rpb=not any(causal) and draw_(strategies.booleans()),
        extra=draw_(strategies.integers(0, 2)),
        heads=1,
        head_dim=draw_(strategies.sampled_from((1, 3, 17))),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis.given(call=calls())
@hypothesis.settings(max_examples=15)
def test_any_call_equals_a_loop_over_pixels_and_places(backend, call):
    torch.manual_seed(0)
    dtype = torch.float64 if backend == "reference" else torch.float32
    x = draw(call, dtype)
    attn, _ = attend(call, x, backend)
    weights = torch.randn_like(attn)  # own weights; those of keys that are not there do not count
    tokens = {"additional_values": x.additional_values}
    out = neighborhood_av(weights, x.value, **call.window, **tokens, backend=backend)
    expected = loop(call, x, weights)
    for got, truth in zip((attn, out), expected, strict=True):
        torch.testing.assert_close(got, truth)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_gradients_match_finite_differences_forward_and_backward_bit_for_bit_again(call):
    """In float64, with nondet_tol=0: gradcheck itself repeats every gradient."""
    x = draw(call)
    inputs = x.map(lambda t: t.contiguous().requires_grad_()).present()
    torch.use_deterministic_algorithms(True)
    try:
        function = of_present(call, x)
        assert torch.autograd.gradcheck(function, inputs, nondet_tol=0, check_forward_ad=True)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_second_gradients_match_finite_differences_forward_over_reverse_too(call):
    x = draw(call)
    inputs = x.map(lambda t: t.contiguous().requires_grad_()).present()
    assert torch.autograd.gradgradcheck(
        of_present(call, x), inputs, fast_mode=True, check_fwd_over_rev=True
    )


def of_present(call: Call, like: Tensors):
    """The pair's output as a function of those tensors that are there."""

    def function(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        return attend(call, like.map(lambda _: next(given)))[1]

    return function


@pytest.mark.parametrize("name", ["query", "key", "rpb", "attn", "value"])
def test_forward_mode_of_one_half_agrees_with_finite_differences(name):
    call, eps = Call((6, 7), 3, (1, 2), rpb=True), 1e-6
    x = draw(call)
    attn = torch.randn(1, 2, 6, 7, 9, dtype=torch.float64)

    def half(**changed: Tensor) -> Tensor:
        if name in ("attn", "value"):
            return neighborhood_av(**{"attn": attn, "value": x.value} | changed, **call.window)
        inputs = {"query": x.query, "key": x.key, "rpb": x.rpb} | changed
        return neighborhood_qk(**inputs, **call.window)

    at = attn if name == "attn" else getattr(x, name)
    direction = torch.randn_like(at)
    with forward_ad.dual_level():
        dual = half(**{name: forward_ad.make_dual(at, direction)})
        tangent = forward_ad.unpack_dual(dual).tangent
    up, down = (half(**{name: at + sign * eps * direction}) for sign in (1, -1))
    torch.testing.assert_close(tangent, (up - down) / (2 * eps), atol=1e-7, rtol=1e-6)
    again = torch.func.jvp(lambda t: half(**{name: t}), (at,), (direction,))[1]
    assert torch.equal(again, tangent)


def test_transforms_of_torch_func_agree_with_autograd():
    call = Call((5, 6), 3, rpb=True, extra=1)
    x = draw(call)
    leaves = x.map(lambda t: t.detach().requires_grad_()).present()
    function = of_present(call, x)
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    got = torch.func.grad(lambda *t: function(*t).square().sum(), argnums=tuple(range(6)))(
        *x.present()
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
    queries = torch.stack([x.query, -x.query])
    many = torch.func.vmap(lambda query: neighborhood_qk(query, x.key, kernel_size=3))(queries)
    assert torch.equal(many[1], neighborhood_qk(-x.query, x.key, kernel_size=3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_that_is_not_there_has_weight_minus_infinity_and_no_gradient(backend):
    query = torch.randn(1, 1, 4, 2, requires_grad=True)
    attn = neighborhood_qk(query, query.detach(), kernel_size=3, is_causal=True, backend=backend)
    missing = attn == -torch.inf
    assert missing[0, 0].tolist() == [[False, True, True], [False, False, True], *[[False] * 3] * 2]
    (gradient,) = torch.autograd.grad(attn, query, torch.where(missing, torch.nan, 0.0))
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_av_skips_keys_that_are_not_there_and_gives_their_weights_no_gradient(backend):
    attn = torch.tensor([[1.0, torch.nan, torch.inf], [1.0, 1.0, torch.nan], [1.0, 1.0, 1.0]])
    attn = attn[None, None].requires_grad_()
    value = torch.ones(1, 1, 3, 1, requires_grad=True)
    out = neighborhood_av(attn, value, kernel_size=3, is_causal=True, backend=backend)
    assert out.flatten().tolist() == [1, 2, 3]
    dattn, dvalue = torch.autograd.grad(out, [attn, value], torch.ones_like(out))
    assert dattn[0, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert dvalue.flatten().tolist() == [3, 2, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_corner_query_sees_a_full_window_that_is_shifted_inside(backend):
    key = torch.arange(30.0).reshape(1, 1, 5, 6, 1)
    attn = neighborhood_qk(torch.ones_like(key), key, kernel_size=3, backend=backend)
    assert attn[0, 0, 0, 0].tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert attn[0, 0, 4, 5].tolist() == [15, 16, 17, 21, 22, 23, 27, 28, 29]


GOLDEN = golden_json("na2d_rpb")


@pytest.mark.parametrize("index", range(len(GOLDEN)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_values_of_natten_through_qk_softmax_and_av(backend, index):
    case, arrays = GOLDEN[index], golden_arrays("na2d_rpb")
    heads, side = case["heads"], 2 * case["kernel_size"] - 1
    shape = (case["batch"], heads, case["height"], case["width"], case["head_dim"])
    q, k, v = (golden_randn(shape, f"na/{index}/{name}").requires_grad_() for name in "qkv")
    rpb = golden_randn((heads, side, side), f"na/{index}/rpb").requires_grad_()
    window = {"kernel_size": case["kernel_size"], "dilation": case["dilation"], "backend": backend}

    def pair(rpb: Tensor | None) -> Tensor:
        attn = neighborhood_qk(q * shape[-1] ** -0.5, k, rpb=rpb, **window)
        return neighborhood_av(attn.softmax(-1), v, **window)

    out = pair(rpb)
    dout = golden_randn(shape, f"na/{index}/grad")
    gradients = torch.autograd.grad(out, [q, k, v, rpb], dout)
    values = (out, pair(None), *gradients)
    names = ("out", "out_nobias", "dq", "dk", "dv", "drpb")
    for name, value, limit in zip(names, values, [2e-5] * 2 + [1e-4] * 4, strict=True):
        error = (value - arrays[f"{index}.{name}"]).abs().max().item()
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"


# Refusals

MAP = torch.zeros(1, 2, 9, 12, 4)
WEIGHTS = torch.zeros(1, 2, 9, 12, 9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": MAP[0, 0]}, r"query must be \[B, heads, \*space, head_dim\] with one to 3 axes"),
        ({"key": MAP[..., :3]}, "must have one shape"),
        ({"key": MAP.double()}, "must share dtype and device"),
        ({"query": MAP.int()}, "floating point"),
        ({"key": None}, "key must be a torch.Tensor"),
        ({"kernel_size": 4}, "odd and greater than 1, got 4"),
        ({"kernel_size": (3, 1)}, r"odd and greater than 1, got \(3, 1\)"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size must be one value, .* has 3, .* have 2"),
        ({"kernel_size": 3.0}, "kernel_size must be a whole number: 3.0"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        ({"dilation": (3, 5)}, r"3 \* 5 = 15 > 12 on axis 1 of 9x12; lower the dilation"),
        ({"is_causal": 1}, "is_causal must be True or False: 1"),
        ({"rpb": torch.zeros(2, 5, 4)}, r"= \[2, 5, 5\], got \[2, 5, 4\]"),
        ({"rpb": torch.zeros(2, 5, 5).int()}, "rpb must be floating point"),
        ({"additional_keys": torch.zeros(1, 2, 3, 5)}, r"\[1, 2, tokens, 4\] as of query"),
        ({"additional_keys": torch.zeros(1, 2, 3, 4).double()}, "must share dtype"),
        ({"backend": "fast"}, "unknown attention backend 'fast'"),
    ],
)
def test_qk_refuses_what_breaks_a_rule_with_the_rule_and_the_values(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        neighborhood_qk(**{"query": MAP, "key": MAP, "kernel_size": 3} | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attn": WEIGHTS[..., :8]}, r"= \[1, 2, 9, 12, 9\] .*, got \[1, 2, 9, 12, 8\]"),
        ({"additional_values": torch.zeros(1, 2, 3, 4)}, "and 3 additional values, got"),
        ({"attn": WEIGHTS.double()}, "must share dtype and device"),
        ({"value": MAP[:, :, :8]}, "got"),
        ({"dilation": 4}, r"3 \* 4 = 12 > 9 on axis 0"),
    ],
)
def test_av_refuses_what_breaks_a_rule_with_the_rule_and_the_values(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        neighborhood_av(**{"attn": WEIGHTS, "value": MAP, "kernel_size": 3} | changes)


def test_a_causal_window_with_a_bias_is_refused():
    with pytest.raises(NotImplementedError, match="no relative positional bias"):
        neighborhood_qk(MAP, MAP, kernel_size=3, is_causal=(False, True), rpb=torch.zeros(2, 5, 5))


def test_a_backend_that_has_no_unfused_maps_is_refused_by_name(monkeypatch):
    sentence = "'flex'.* can't run this call: it is none of .*reference"
    with pytest.raises(RuntimeError, match=sentence):
        neighborhood_qk(MAP, MAP, kernel_size=3, backend="flex")
    monkeypatch.setenv("STYLENAT_ATTENTION", "flex")
    with pytest.raises(RuntimeError, match=sentence):
        neighborhood_av(WEIGHTS, MAP, kernel_size=3)


# The autograd functions


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_functions_carry_nattens_names_and_take_nattens_order_of_arguments(axes):
    call = Call((5, 6, 7)[-axes:], 3, extra=1, rpb=True)
    x = draw(call)
    attn = neighborhood_qk(
        x.query.requires_grad_(),
        x.key,
        kernel_size=3,
        rpb=x.rpb,
        additional_keys=x.additional_keys,
    )
    assert attn.grad_fn.name() == f"NeighborhoodAttention{axes}DQKAutogradFunctionBackward"
    qk = getattr(ops.neighborhood, f"NeighborhoodAttention{axes}DQKAutogradFunction")
    av = getattr(ops.neighborhood, f"NeighborhoodAttention{axes}DAVAutogradFunction")
    assert torch.equal(qk.apply(x.query, x.key, x.rpb, x.additional_keys, 3, 1, False), attn)
    out = neighborhood_av(attn, x.value, kernel_size=3, additional_values=x.additional_values)
    assert out.grad_fn.name() == f"NeighborhoodAttention{axes}DAVAutogradFunctionBackward"
    without_causal = av.apply(attn, x.value, x.additional_values, 3, 1)
    assert torch.equal(without_causal, out)
    assert torch.autograd.grad(without_causal.sum(), x.query)[0].shape == x.query.shape
    with pytest.raises(ValueError, match="odd and greater than 1"):
        qk.apply(x.query, x.key, None, None, 4, 1, False)
    with pytest.raises(ValueError, match=f"the {axes}-D function needs query"):
        qk.apply(*[torch.zeros(1, 1, *[3] * (axes % 3 + 1), 2)] * 2, None, None, 3, 1)
