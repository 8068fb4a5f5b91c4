"""The functions: golden values, every order of arguments, and what is refused.

Shapes: B batch, N heads, H height, W width, D head_dim, K weights of a window.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from stylenat.compat import autograd as classes
from stylenat.compat import functional, levels
from tests.golden_values import golden_arrays, golden_json, golden_randn

GOLDEN = golden_json("na2d_rpb")
LIMITS = {"out": 2e-5, "dq": 1e-4, "dk": 1e-4, "dv": 1e-4, "drpb": 1e-4}  # as of other backends
DOUBLE = {"dtype": torch.float64}
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture
def level(request: pytest.FixtureRequest):
    """Sets what calls follow, and sets it back."""

    def at(name: str, **options: bool) -> None:
        levels.set_current(levels.settings(name, None, options.get("deferred", True)))

    yield at
    levels.set_current(levels.settings(levels.DEFAULT, None, deferred=True))


# Golden values, by every pair of functions.

PAIRS = {
    "0.17": (
        lambda q, k, r, n, d: functional.na2d_qk(q, k, kernel_size=n, dilation=d, rpb=r),
        lambda a, v, n, d: functional.na2d_av(a, v, kernel_size=n, dilation=d),
    ),
    "0.15": (functional.na2d_qk_with_bias, functional.na2d_av),
    "0.14.6": (functional.natten2dqkrpb, functional.natten2dav),
    "0.14.4": (
        lambda q, k, r, n, d: functional.natten2dqkrpb(q, k, r, d),
        lambda a, v, n, d: functional.natten2dav(a, v, d),
    ),
    "classes of 0.15": (
        lambda q, k, r, n, d: classes.NeighborhoodAttention2DQKAutogradFunction.apply(
            q, k, r, None, n, d
        ),
        lambda a, v, n, d: classes.NeighborhoodAttention2DAVAutogradFunction.apply(
            a, v, None, n, d
        ),
    ),
    "classes of 0.14.6": (
        classes.NATTEN2DQKRPBFunction.apply,
        classes.NATTEN2DAVFunction.apply,
    ),
}


@pytest.mark.parametrize("deferred", [True, False], ids=["deferred", "at once"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("index", range(len(GOLDEN)))
@pytest.mark.parametrize("device", DEVICES)
def test_golden_values_of_natten(device, index, pair, deferred, level, used):
    level("0.17", deferred=deferred)
    qk, av = PAIRS[pair]
    case, arrays = GOLDEN[index], golden_arrays("na2d_rpb")
    heads, kernel_size, dilation = case["heads"], case["kernel_size"], case["dilation"]
    shape = (case["batch"], heads, case["height"], case["width"], case["head_dim"])
    side = 2 * kernel_size - 1
    shapes = {"q": shape, "k": shape, "v": shape, "rpb": (heads, side, side)}
    q, k, v, rpb = (
        golden_randn(of, f"na/{index}/{name}").to(device).requires_grad_()
        for name, of in shapes.items()
    )
    scaled = q * case["head_dim"] ** -0.5
    out = av(qk(scaled, k, rpb, kernel_size, dilation).softmax(-1), v, kernel_size, dilation)
    grads = torch.autograd.grad(
        (out * golden_randn(shape, f"na/{index}/grad").to(device)).sum(), [q, k, v, rpb]
    )
    assert used == (["fused"] if deferred else ["qk", "av"])
    for (name, limit), value in zip(LIMITS.items(), [out, *grads], strict=True):
        error = (value.cpu() - arrays[f"{index}.{name}"]).abs().max().item()
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"


# Orders of arguments.


def draw(*shape: int, **more) -> Tensor:
    return torch.randn(shape, **more)


def test_three_axes_in_the_order_of_0_15_and_of_0_17():
    q, k, v = (draw(1, 2, 5, 6, 7, 4) for _ in range(3))
    rpb = draw(2, 5, 9, 9)
    window = {"kernel_size": (3, 5, 5), "dilation": (1, 1, 1)}
    plain = functional.na3d_qk(q, k, **window)
    biased = functional.na3d_qk(q, k, **window, rpb=rpb)
    out = functional.na3d_av(plain, v, (3, 5, 5), 1)
    old = {"kernel_size_d": 3, "kernel_size": 5, "dilation_d": 1, "dilation": 1}
    for got, expected in (
        (functional.na3d_qk(q, k, (3, 5, 5), 1), plain),
        (functional.na3d_qk(q, k, 3, 5, 1, 1), plain),
        (functional.na3d_qk(query=q, key=k, **old), plain),
        (functional.natten3dqk(q, k, 3, 5, 1, 1), plain),
        (functional.na3d_qk_with_bias(q, k, rpb, 3, 5, 1, 1), biased),
        (functional.natten3dqkrpb(q, k, rpb, 3, 5, 1, 1), biased),
        (functional.na3d_qk_with_bias(q, k, None, 3, 5, 1, 1), plain),
        (functional.na3d_av(plain, v, 3, 5, 1, 1), out),
        (functional.na3d_av(attn=plain, value=v, **old), out),
        (functional.natten3dav(plain, v, 3, 5, 1, 1), out),
    ):
        assert torch.equal(got, expected)
    extra = draw(1, 2, 3, 4)
    longer = functional.na3d_qk(q, k, 3, 5, 1, 1, extra)
    assert torch.equal(longer, functional.na3d_qk(q, k, (3, 5, 5), 1, extra))
    assert longer.shape[-1] == 75 + 3


def test_one_axis_in_every_order():
    q, k, v, rpb = draw(2, 2, 11, 4), draw(2, 2, 11, 4), draw(2, 2, 11, 4), draw(2, 9)
    plain, biased = functional.na1d_qk(q, k, 5, 2), functional.na1d_qk(q, k, 5, 2, rpb=rpb)
    out = functional.na1d_av(biased, v, 5, 2)
    for got, expected in (
        (functional.natten1dqk(q, k, 5, 2), plain),
        (functional.na1d_qk_with_bias(q, k, rpb, 5, 2), biased),
        (functional.na1d_qk_with_bias(q, k, bias=rpb, kernel_size=5, dilation=2), biased),
        (functional.natten1dqkrpb(q, k, rpb, 5, 2), biased),
        (functional.natten1dqkrpb(q, k, rpb, kernel_size=5, dilation=2), biased),
        (functional.natten1dqkrpb(q, k, rpb, 2), biased),
        (functional.natten1dqkrpb(q, k, rpb, dilation=2), biased),
        (classes.NATTEN1DQKRPBFunction.apply(q, k, rpb, 5, 2), biased),
        (functional.natten1dav(biased, v, 5, 2), out),
        (functional.natten1dav(biased, v, 2), out),
        (classes.NATTEN1DAVFunction.apply(biased, v, 2), out),
    ):
        assert torch.equal(got, expected)


def test_dilation_is_one_if_it_is_not_given():
    q, k, v = (draw(1, 2, 7, 9, 4) for _ in range(3))
    attn = functional.na2d_qk(q, k, 3)
    assert torch.equal(attn, functional.na2d_qk(q, k, (3, 3), [1, 1]))
    assert torch.equal(functional.na2d_av(attn, v, 3), functional.na2d_av(attn, v, 3, 1))


# What is right.


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_window_as_large_as_the_map_is_attention_over_all(dims):
    space = (5, 3, 7)[:dims]
    q, k, v = (draw(2, 2, *space, 4, **DOUBLE) for _ in range(3))
    qk, av = getattr(functional, f"na{dims}d_qk"), getattr(functional, f"na{dims}d_av")
    out = av(qk(q, k, space, 1).softmax(-1), v, space, 1)
    flat = (x.flatten(2, -2) for x in (q, k, v))
    full = torch.nn.functional.scaled_dot_product_attention(*flat, scale=1.0)
    torch.testing.assert_close(out.flatten(2, -2), full, atol=1e-12, rtol=0)
    heads_last = [x.movedim(1, -2) for x in (q, k, v)]
    fused = getattr(functional, f"na{dims}d")(*heads_last, space, scale=1.0)
    torch.testing.assert_close(fused.movedim(-2, 1), out, atol=1e-12, rtol=0)


def test_additional_tokens_join_the_softmax():
    q, k, v = (draw(2, 2, 5, 7, 4, **DOUBLE) for _ in range(3))
    more_k, more_v = (draw(1, 2, 3, 4, **DOUBLE).expand(2, 2, 3, 4) for _ in range(2))
    logits = functional.na2d_qk(q, k, (5, 7), 1, more_k)
    out = functional.na2d_av(logits.softmax(-1), v, (5, 7), 1, more_v)
    keys, values = (torch.cat([x.flatten(2, 3), y], 2) for x, y in ((k, more_k), (v, more_v)))
    full = (q.flatten(2, 3) @ keys.mT).softmax(-1) @ values
    torch.testing.assert_close(out.flatten(2, 3), full, atol=1e-12, rtol=0)
    heads_last = [x.movedim(1, -2) for x in (q, k, v)]
    tokens = {"additional_keys": more_k.transpose(1, 2), "additional_values": more_v.mT.mT}
    tokens["additional_values"] = more_v.transpose(1, 2)
    fused = functional.na2d(*heads_last, (5, 7), scale=1.0, **tokens)
    torch.testing.assert_close(fused.movedim(-2, 1), out, atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", itertools.product([True, False], repeat=2), ids=str)
def test_causal_axes_see_no_later_key(causal):
    q, k = draw(1, 1, 7, 6, 4), draw(1, 1, 7, 6, 4)
    attn = functional.na2d_qk(q, k, (3, 5), (2, 1), is_causal=list(causal))
    assert torch.isneginf(attn).any() == any(causal)
    pixel = torch.arange(42.0, dtype=torch.float32).view(1, 1, 7, 6, 1)
    seen = functional.na2d_av(
        attn.softmax(-1), pixel // 6 if causal[0] else pixel % 6, (3, 5), (2, 1), None, causal
    )
    if causal[0]:  # the mean row of the keys is not below the query's
        assert (seen <= pixel // 6 + 1e-4).all()


def test_fused_calls_without_a_fused_operation_are_right():
    q, k, v = (draw(1, 9, 8, 2, 4) for _ in range(3))
    for window in ((3, 5), 1, False), (3, (2, 1), False), (3, 2, (True, False)):
        first = [x.movedim(-2, 1) for x in (q * 0.3, k, v)]
        attn = functional.na2d_qk(*first[:2], *window[:2], is_causal=window[2]).softmax(-1)
        expected = functional.na2d_av(attn, first[2], *window[:2], None, window[2])
        got = functional.na2d(q, k, v, *window, scale=0.3)
        torch.testing.assert_close(got.movedim(-2, 1), expected, atol=1e-6, rtol=1e-5)


def test_even_windows_lean_to_the_left_in_fused_calls():
    """kernel_size 4 of 6 pixels: two to the left, one to the right, shifted inside at the ends."""
    starts = [0, 0, 0, 1, 2, 2]
    q = torch.zeros(1, 6, 1, 2)
    v = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 1, 2)
    out = functional.na1d(q, q, v, 4)
    assert out[0, :, 0, 0].tolist() == [start + 1.5 for start in starts]
    square = functional.na2d(*(x.expand(1, 6, 6, 1, 2) for x in (q[:, :, None], q[:, :, None])),
                             v[:, :, None].expand(1, 6, 6, 1, 2), (4, 3))  # fmt: skip
    assert square[0, :, 0, 0, 0].tolist() == [start + 1.5 for start in starts]


def test_nested_tensors_run_element_by_element():
    shapes = [(1, 2, 9, 8, 4), (2, 3, 7, 11, 6)]
    query, key, value = (
        torch.nested.nested_tensor([draw(*shape) for shape in shapes]) for _ in range(3)
    )
    attn = functional.na2d_qk(query, key, 3, 2)
    out = functional.na2d_av(attn, value, 3, 2)
    assert len(attn.unbind()) == len(out.unbind()) == 2
    rows = zip(*(x.unbind() for x in (query, key, value, attn, out)), strict=True)
    for q, k, v, a, o in rows:
        assert torch.equal(functional.na2d_qk(q, k, 3, 2), a)
        assert torch.equal(functional.na2d_av(a, v, 3, 2), o)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("extra", [0, 3])
def test_gradients_pass_gradcheck_and_repeat_bit_for_bit(extra, is_causal):
    more = {**DOUBLE, "requires_grad": True}
    q, k = draw(1, 1, 5, 6, 3, **more), draw(1, 1, 5, 6, 3, **more)
    tokens = draw(1, 1, extra, 3, **more) if extra else None
    rpb = None if is_causal else draw(1, 5, 5, **more)

    def weights(*inputs):  # a softmax after -inf, whose numerical gradient would be NaN
        attn = functional.na2d_qk(*inputs)
        return attn.softmax(-1) if is_causal else attn

    assert gradcheck(weights, (q, k, 3, (1, 2), tokens, is_causal, rpb), nondet_tol=0)
    attn = draw(1, 1, 5, 6, 9 + extra, **more)
    assert gradcheck(functional.na2d_av, (attn, q, 3, (1, 2), tokens, is_causal), nondet_tol=0)


def test_forward_mode_derivatives_are_right():
    more = {**DOUBLE, "requires_grad": True}
    q, k, attn = (
        draw(1, 1, 5, 6, 3, **more),
        draw(1, 1, 5, 6, 3, **more),
        draw(1, 1, 5, 6, 9, **more),
    )
    forward = {"check_forward_ad": True, "check_backward_ad": False, "check_undefined_grad": False}
    assert gradcheck(functional.na2d_qk, (q, k, 3, 1), **forward, check_batched_grad=False)
    assert gradcheck(functional.na2d_av, (attn, k, 3, 1), **forward, check_batched_grad=False)


def test_0_14_casts_under_autocast_and_later_ones_do_not(level):
    q = draw(1, 2, 7, 9, 4)
    for name, dtype in (("0.14", torch.bfloat16), ("0.17", torch.float32)):
        level(name)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            attn = functional.natten2dqkrpb(q, q, None, 3, 1)
            assert attn.dtype == dtype
            assert functional.natten2dav(attn.softmax(-1), q, 3, 1).dtype == dtype


def test_weights_are_cast_to_the_value_s_dtype():
    q = draw(1, 2, 7, 9, 4)
    weights = functional.na2d_qk(q, q, 3).softmax(-1)
    assert functional.na2d_av(weights, q.double(), 3).dtype == torch.float64
    assert (
        functional.na2d_qk(q.double(), q.double(), 3, rpb=torch.zeros(2, 5, 5)).dtype
        == torch.float64
    )
