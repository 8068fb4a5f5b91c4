"""The modules of every level: arguments, state dicts, small maps, and what they compute.

Shapes: B batch, H height, W width, C channels, N heads.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from tests.golden_values import golden_arrays, golden_json, golden_randn

GOLDEN = golden_json("na2d_rpb")
LEVELS = ("0.14.4", "0.14", "0.15", "0.17")
OLD = ("0.14.4", "0.14", "0.15")


def build(package, level: str, dims: int = 2, *, bias: bool = True, **options) -> nn.Module:
    name = "bias" if level in ("0.14", "0.15") else "rel_pos_bias"
    more = {} if level == "0.14.4" else {name: bias}
    return getattr(package, f"NeighborhoodAttention{dims}D")(**more, **options)


@pytest.mark.parametrize("deferred", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_golden_values_of_natten(index, level, deferred, natten, used):
    """qkv hands the three inputs over, and proj the output: what is between is the operation."""
    case, arrays = GOLDEN[index], golden_arrays("na2d_rpb")
    heads, head_dim = case["heads"], case["head_dim"]
    options = {"kernel_size": case["kernel_size"], "dilation": case["dilation"]}
    dim = heads * head_dim
    module = build(natten(level), level, dim=dim, num_heads=heads, **options)
    shape = (case["batch"], heads, case["height"], case["width"], head_dim)
    q, k, v = (golden_randn(shape, f"na/{index}/{name}") for name in "qkv")
    qkv = torch.stack([x.permute(0, 2, 3, 1, 4).flatten(-2) for x in (q, k, v)], -2)
    qkv = qkv.flatten(-2).requires_grad_()
    rpb = golden_randn(module.rpb.shape, f"na/{index}/rpb")
    module.rpb.data.copy_(rpb)
    module.qkv, module.proj = nn.Identity(), nn.Identity()
    if not deferred:  # a program that watches the weights
        module.attn_drop.register_forward_hook(lambda _module, _inputs, weights: weights + 0)
    out = module(qkv)
    assert used == (["fused"] if deferred else ["qk", "av"])

    def heads_last(x):
        return x.permute(0, 2, 3, 1, 4).flatten(-2)

    loss = (out * heads_last(golden_randn(shape, f"na/{index}/grad"))).sum()
    dqkv, drpb = torch.autograd.grad(loss, [qkv, module.rpb])
    found = dict(zip(("dq", "dk", "dv"), dqkv.chunk(3, -1), strict=True)) | {"out": out}
    for name, value in found.items():
        error = (value - heads_last(arrays[f"{index}.{name}"])).abs().max().item()
        assert error <= (2e-5 if name == "out" else 1e-4), f"{name}: error {error:.3g}"
    assert (drpb - arrays[f"{index}.drpb"]).abs().max() <= 1e-4


def test_the_default_bias_is_the_level_s(natten):
    for level in LEVELS:
        for dims in (1, 2, 3) if level in ("0.15", "0.17") else (1, 2):
            module = getattr(natten(level), f"NeighborhoodAttention{dims}D")(
                dim=8, num_heads=2, kernel_size=3
            )
            assert (module.rpb is not None) == (level != "0.17")


@pytest.mark.parametrize("level", LEVELS)
def test_state_dicts_are_those_of_natten(level, natten):
    package = natten(level)
    module = build(package, level, dim=8, num_heads=2, kernel_size=3)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {
        "rpb": (2, 5, 5),
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    if level != "0.14.4":
        module = build(package, level, bias=False, dim=8, num_heads=2, kernel_size=3)
        assert "rpb" not in module.state_dict()
        assert module.rpb is None
    module = build(package, level, dim=8, num_heads=2, kernel_size=3, qkv_bias=False)
    assert "qkv.bias" not in module.state_dict()
    line = build(package, level, 1, dim=8, num_heads=2, kernel_size=3)
    assert line.rpb.shape == (2, 5)


def test_three_axes_of_0_15_take_the_depth_apart(natten):
    make = natten("0.15").NeighborhoodAttention3D
    module = make(8, 2, 5, 3, 2, 1)
    assert (module.kernel_size, module.kernel_size_d) == (5, 3)
    assert (module.dilation, module.dilation_d) == (2, 1)
    assert module.rpb.shape == (2, 5, 9, 9)
    assert module(torch.randn(1, 3, 10, 11, 8)).shape == (1, 3, 10, 11, 8)
    assert make(8, 2, 5).rpb.shape == (2, 9, 9, 9)
    module = natten("0.17").NeighborhoodAttention3D(8, 2, (3, 5, 5), (1, 2, 2), rel_pos_bias=True)
    assert module.rpb.shape == (2, 5, 9, 9)


def test_attributes_have_the_level_s_form(natten):
    module = natten("0.14").NeighborhoodAttention2D(8, 2, 3, dilation=2, qk_scale=0.7)
    assert (module.kernel_size, module.dilation) == (3, 2)
    assert (module.num_heads, module.head_dim, module.scale) == (2, 4, 0.7)
    module = natten("0.17").NeighborhoodAttention2D(8, 2, 3, 2, (True, False))
    assert (module.kernel_size, module.dilation) == ((3, 3), (2, 2))
    assert module.is_causal == (True, False)
    assert module.scale == 0.5
    assert "kernel_size=(3, 3)" in repr(module)


def test_order_of_arguments_before_0_14_5_is_told_by_what_is_possible(natten):
    make = natten("0.14").NeighborhoodAttention2D
    for module in (make(32, 7, 4), make(32, 4, 7), make(32, num_heads=4, kernel_size=7)):
        assert (module.num_heads, module.kernel_size) == (4, 7)
    assert make(105, 7, 5).num_heads == 7  # possible in both orders: that of 0.14.6
    package = natten("0.14.4")
    assert package.NeighborhoodAttention is package.NeighborhoodAttention2D
    module = package.NeighborhoodAttention(105, 7, 5, False)
    assert (module.num_heads, module.kernel_size, module.qkv.bias) == (5, 7, None)
    assert list(inspect.signature(package.NeighborhoodAttention).parameters)[1] == "kernel_size"


def test_a_word_as_dilation_means_as_much_as_the_map_allows(natten):
    module = natten("0.14.4").NeighborhoodAttention2D(8, 3, 2, dilation="auto")
    x = torch.randn(1, 9, 13, 8)
    word = module(x)
    module.dilation = 3
    assert torch.equal(word, module(x))
    assert "auto" not in repr(module)


def test_either_name_of_the_bias_is_taken_and_two_opinions_are_not(natten):
    for level in ("0.14", "0.17"):
        make = natten(level).NeighborhoodAttention2D
        assert make(8, 2, 3, bias=True).rpb is not None
        assert make(8, 2, 3, rel_pos_bias=False).rpb is None
        with pytest.raises(TypeError, match="two names of one argument"):
            make(8, 2, 3, bias=True, rel_pos_bias=False)
    with pytest.raises(NotImplementedError, match="causal"):
        make(8, 2, 3, is_causal=True, rel_pos_bias=True)


@pytest.mark.parametrize("name", ["stride", "embed_dim", "kernel"])
def test_unknown_arguments_are_refused(name, natten):
    with pytest.raises(TypeError, match=name):
        natten().NeighborhoodAttention2D(8, 2, 3, **{name: 2})
    with pytest.raises(TypeError, match="num_heads"):
        natten().NeighborhoodAttention2D(8)


# Small maps.


@pytest.mark.parametrize("level", OLD)
def test_small_maps_are_padded_after_their_last_row_and_column(level, natten):
    module = build(natten(level), level, dim=8, num_heads=2, kernel_size=5, dilation=2)
    nn.init.normal_(module.rpb)
    x = torch.randn(2, 7, 12, 8)
    padded = torch.zeros(2, 10, 12, 8)
    padded[:, :7] = x
    assert torch.equal(module(x), module(padded)[:, :7])
    exact = torch.randn(1, 10, 10, 8)
    assert module(exact).shape == exact.shape


def test_padded_pixels_are_keys_like_others(natten):
    """A map of 2x3 in a window of 3: one row of what qkv makes of zeros stands below it."""
    module = natten("0.14").NeighborhoodAttention2D(4, 1, 3, bias=False)
    x = torch.randn(1, 2, 3, 4)
    tokens = torch.cat([x, torch.zeros(1, 1, 3, 4)], 1).flatten(1, 2)
    q, k, v = module.qkv(tokens).chunk(3, -1)
    full = ((q * module.scale) @ k.mT).softmax(-1) @ v
    expected = module.proj(full).view(1, 3, 3, 4)[:, :2]
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=1e-5)


def test_other_axes_are_padded_too(natten):
    package = natten("0.15")
    assert package.NeighborhoodAttention1D(8, 2, 5)(torch.randn(1, 3, 8)).shape == (1, 3, 8)
    module = package.NeighborhoodAttention3D(8, 2, 3)
    assert module(torch.randn(1, 2, 1, 4, 8)).shape == (1, 2, 1, 4, 8)


def test_0_17_refuses_small_maps_unless_it_is_asked_to_pad(natten):
    x = torch.randn(1, 7, 4, 8)
    with pytest.raises(RuntimeError, match=r"5 \* 1 > 4"):
        natten("0.17").NeighborhoodAttention2D(8, 2, 5)(x)
    assert natten("0.17", pad=True).NeighborhoodAttention2D(8, 2, 5)(x).shape == x.shape
    with pytest.raises(RuntimeError, match=r"5 \* 1 > 4"):
        natten("0.14", pad=False).NeighborhoodAttention2D(8, 2, 5)(x)


def test_another_rank_is_refused(natten):
    with pytest.raises(ValueError, match="4 axes"):
        natten().NeighborhoodAttention2D(8, 2, 3)(torch.randn(7, 9, 8))


# Dropout, and who watches.


def test_dropout_of_weights_drops_in_training_alone(natten, used):
    module = natten("0.14").NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5)
    x = torch.randn(1, 7, 9, 8)
    module(x)
    assert used == ["qk", "av"]
    torch.manual_seed(0)
    first = module(x)
    torch.manual_seed(1)
    assert not torch.equal(first, module(x))
    used.clear()
    module.eval()(x)
    assert used == ["fused"]


def test_fused_mode_leaves_dropout_of_weights_out_as_in_natten(natten, used):
    package = natten("0.17")
    module = package.NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5)
    package.use_fused_na()
    x = torch.randn(1, 7, 9, 8)
    assert torch.equal(module(x), module.eval()(x))
    assert used == ["fused", "fused"]


def test_experimental_operations_are_for_fused_mode(natten):
    package = natten("0.17")
    module = package.NeighborhoodAttention2D(8, 2, 3, use_experimental_ops=True)
    x = torch.randn(1, 7, 9, 8)
    with pytest.raises(NotImplementedError, match="use_fused_na"):
        module(x)
    package.use_fused_na()
    assert module(x).shape == x.shape


def test_whole_models_can_be_saved_and_loaded(natten, tmp_path):
    for level in LEVELS:
        module = build(natten(level), level, dim=8, num_heads=2, kernel_size=3)
        torch.save(module, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        x = torch.randn(1, 7, 9, 8)
        assert torch.equal(again(x), module(x))
