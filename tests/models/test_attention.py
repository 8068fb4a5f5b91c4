"""The generator's attention: against its definition written as loops, and by its own rules."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.models import attention as attention_module
from stylenat.models.attention import (
    GlobalAttention,
    HydraAttention,
    WindowAttention,
    relative_bias,
)
from stylenat.models.levels import Windows, deal_heads, kind_of

CHANNELS = 8
TWO_GROUPS = (HeadGroup(1, 3, 1), HeadGroup(1, 3, 2))


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64 with every parameter well away from 0."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(values / 2)
    return module


def tokens(height: int, width: int, channels: int = CHANNELS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, height, width, channels, generator=generator, dtype=torch.float64)


def attend_by_loops(module: nn.Module, x: Tensor, pairs) -> Tensor:
    """Attention by definition. `pairs(head, query)` yields the keys and their biases."""
    batch, height, width, channels = x.shape
    heads, head_dim = module.heads, channels // module.heads
    projected = (x @ module.qkv.weight.T + module.qkv.bias).view(
        batch, height, width, 3, heads, head_dim
    )
    q, k, v = projected.unbind(3)
    out = torch.zeros(batch, height, width, heads, head_dim, dtype=x.dtype)
    positions = list(product(range(height), range(width)))
    for b, head, (y, x_) in product(range(batch), range(heads), positions):
        keys, biases = zip(*pairs(head, (y, x_)), strict=True)
        logits = torch.stack(
            [
                module.scale * (q[b, y, x_, head] @ k[b, ky, kx, head]) + bias
                for (ky, kx), bias in zip(keys, biases, strict=True)
            ]
        )
        weights = logits.softmax(0)
        values = torch.stack([v[b, ky, kx, head] for ky, kx in keys])
        out[b, y, x_, head] = weights @ values
    return out.flatten(-2) @ module.proj.weight.T + module.proj.bias


# Dealing heads


def test_heads_are_dealt_evenly():
    assert deal_heads(16, [7], [1, 4]) == (HeadGroup(8, 7, 1), HeadGroup(8, 7, 4))


def test_left_over_heads_go_to_the_last_groups():
    groups = deal_heads(11, [7], [1, 2, 3, 4])
    assert [group.heads for group in groups] == [2, 3, 3, 3]


def test_one_dilation_serves_all_kernel_sizes():
    assert deal_heads(2, [3, 5], [2]) == (HeadGroup(1, 3, 2), HeadGroup(1, 5, 2))


def test_single_values_make_one_group():
    assert deal_heads(4, [7], [1]) == (HeadGroup(4, 7, 1),)


@pytest.mark.parametrize(
    ("kernel_sizes", "dilations"), [([3, 5], [1, 2, 3]), ([], [1]), ([3], []), ([], [])]
)
def test_lists_of_unequal_lengths_are_refused(kernel_sizes, dilations):
    with pytest.raises(ValueError, match="must have one length"):
        deal_heads(8, kernel_sizes, dilations)


def test_fewer_heads_than_groups_are_refused():
    with pytest.raises(ValueError, match="each head group needs a head: 1 heads for 2 groups"):
        deal_heads(1, [7], [1, 2])


# Rules of a level


@pytest.mark.parametrize(
    ("attention", "heads", "resolution", "message"),
    [
        ("local", 2, 8, "'global', Windows, or a tuple .* 'local' at level 8x8"),
        ((), 2, 8, r"at least one HeadGroup: \(\) at level 8x8"),
        ([HeadGroup(2, 3)], 2, 8, "a tuple of at least one HeadGroup"),
        ((HeadGroup(2, 3), 3), 2, 8, "a tuple of at least one HeadGroup"),
        (TWO_GROUPS, 3, 8, r"1 \+ 1 = 2, not 3, at level 8x8"),
        (
            (HeadGroup(2, 7, 3),),
            2,
            16,
            r"must not exceed the feature map: 7 \* 3 = 21 > 16 at 16x16",
        ),
        (Windows(3), 2, 8, "windows must divide the feature map: 3 against 8 at level 8x8"),
        (Windows(16), 2, 8, "windows must divide the feature map: 16 against 8 at level 8x8"),
        (Windows(4), 3, 8, "an even number of heads: 3 at level 8x8"),
        ("global", 2, 64, "up to 32x32, .*: 64 at level 64x64"),
    ],
)
def test_attention_that_does_not_fit_its_level_is_refused(attention, heads, resolution, message):
    with pytest.raises(ValueError, match=message):
        kind_of(attention, resolution=resolution).check(heads=heads, resolution=resolution)


def test_window_without_a_size_is_refused():
    with pytest.raises(ValueError, match="window_size must be at least 1, got 0"):
        Windows(0)


@pytest.mark.parametrize("kind", [HydraAttention, GlobalAttention, WindowAttention])
def test_heads_that_do_not_divide_the_channels_are_refused(kind):
    setting = TWO_GROUPS if kind is HydraAttention else 4
    with pytest.raises(ValueError, match="heads must divide the channels: 3 against 8"):
        kind(8, 3, setting)


@pytest.mark.parametrize(
    ("attention", "kind"),
    [("global", GlobalAttention), (Windows(4), WindowAttention), (TWO_GROUPS, HydraAttention)],
)
def test_configuration_chooses_the_module(attention, kind):
    settings = {"qkv_bias": False, "qk_scale": 0.5, "backend": "reference"}
    module = kind_of(attention, resolution=8).build(8, 2, 8, **settings)
    assert type(module) is kind
    assert module.qkv.bias is None
    assert module.scale == 0.5
    assert module(torch.randn(1, 8, 8, 8)).shape == (1, 8, 8, 8)


# Head groups


def test_each_group_attends_to_its_own_neighborhood():
    module = randomised(HydraAttention(CHANNELS, 2, TWO_GROUPS, backend="reference"))
    x = tokens(7, 6)
    q, k, v = module.qkv(x).chunk(3, dim=-1)
    outputs = []
    for index, group in enumerate(TWO_GROUPS):
        q_1, k_1, v_1 = (t[..., 4 * index : 4 * index + 4].unsqueeze(-2) for t in (q, k, v))
        rpb = (module.rpb[index],)
        outputs.append(neighborhood_attention_2d(q_1, k_1, v_1, (group,), rpb, backend="reference"))
    expected = module.proj(torch.cat(outputs, dim=-1).squeeze(-2))
    torch.testing.assert_close(module(x), expected)


def test_all_groups_run_in_one_call_on_views_of_the_projection(monkeypatch):
    calls = []

    def record(q, k, v, groups, rpb, **settings):
        calls.append((q, k, v, groups))
        return neighborhood_attention_2d(q, k, v, groups, rpb, **settings)

    monkeypatch.setattr(attention_module, "neighborhood_attention_2d", record)
    HydraAttention(CHANNELS, 2, TWO_GROUPS, backend="reference").double()(tokens(6, 6))
    [(q, k, v, groups)] = calls
    assert groups == TWO_GROUPS
    storages = {tensor.untyped_storage().data_ptr() for tensor in (q, k, v)}
    assert len(storages) == 1
    assert [t.storage_offset() for t in (q, k, v)] == [0, CHANNELS, 2 * CHANNELS]


def test_unknown_backend_reaches_the_operation():
    module = HydraAttention(CHANNELS, 2, TWO_GROUPS, backend="natten17")
    with pytest.raises(ValueError, match="unknown attention backend 'natten17'"):
        module(torch.randn(1, 6, 6, CHANNELS))


def test_groups_that_do_not_add_up_to_the_heads_are_refused():
    with pytest.raises(ValueError, match=r"must add up to the module's: 1 \+ 1 = 2, not 4"):
        HydraAttention(CHANNELS, 4, TWO_GROUPS)


# Global attention


def test_global_attention_is_its_definition():
    side = 4
    module = randomised(GlobalAttention(CHANNELS, 2, side))

    def pairs(head, query):
        for key in product(range(side), range(side)):
            y, x = (key[axis] - query[axis] + side - 1 for axis in (0, 1))
            yield key, module.rpb[head, y, x]

    x = tokens(side, side)
    torch.testing.assert_close(module(x), attend_by_loops(module, x, pairs))


def test_neighborhood_of_the_whole_map_is_global_attention():
    module = randomised(GlobalAttention(CHANNELS, 2, 5))
    hydra = HydraAttention(CHANNELS, 2, (HeadGroup(2, 5),), backend="reference").double()
    tensors = module.state_dict()
    hydra.load_state_dict({"rpb.0": tensors.pop("rpb"), **tensors})
    torch.testing.assert_close(module(tokens(5, 5)), hydra(tokens(5, 5)))


def test_relative_bias_is_indexed_by_key_minus_query():
    rpb = torch.arange(50).view(2, 5, 5)
    bias = relative_bias(rpb, 3).view(2, 3, 3, 3, 3)
    assert bias[1, 0, 2, 1, 1] == rpb[1, 1 - 0 + 2, 1 - 2 + 2]
    assert bias[0, 2, 0, 0, 2] == rpb[0, 0, 4]


def test_global_attention_refuses_another_map():
    with pytest.raises(ValueError, match=r"\[B, 4, 4, C\]: \(2, 4, 5, 8\)"):
        GlobalAttention(CHANNELS, 2, 4)(tokens(4, 5))


# Double windows


def window_pairs(module: WindowAttention, side: int):
    """Keys in the query's own window, without any roll: the map's edge cuts shifted windows."""
    size = module.window_size

    def pairs(head, query):
        shift = size // 2 if head >= module.heads // 2 and side > size else 0
        window = [(c - shift) // size for c in query]
        for key in product(range(side), range(side)):
            if [(c - shift) // size for c in key] == window:
                y, x = (key[axis] - query[axis] + size - 1 for axis in (0, 1))
                yield key, module.rpb[head, y, x]

    return pairs


@pytest.mark.parametrize(("side", "window_size"), [(4, 4), (4, 2), (6, 2), (6, 3)])
def test_double_windows_are_their_definition(side, window_size):
    module = randomised(WindowAttention(CHANNELS, 2, window_size))
    x = tokens(side, side)
    expected = attend_by_loops(module, x, window_pairs(module, side))
    torch.testing.assert_close(module(x), expected)


def test_window_of_the_whole_map_is_global_attention():
    module = randomised(WindowAttention(CHANNELS, 2, 4))
    whole = GlobalAttention(CHANNELS, 2, 4).double()
    whole.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(tokens(4, 4)), whole(tokens(4, 4)))


def test_double_windows_refuse_an_odd_number_of_heads():
    with pytest.raises(ValueError, match="an even number of heads: 1"):
        WindowAttention(CHANNELS, 1, 4)


@pytest.mark.parametrize("shape", [(6, 4), (6, 6)])
def test_windows_that_do_not_divide_the_map_are_refused(shape):
    with pytest.raises(ValueError, match=r"multiple of the window, 4: 6x"):
        WindowAttention(CHANNELS, 2, 4).double()(tokens(*shape))


# What they share


def all_kinds(**settings) -> list[nn.Module]:
    return [
        HydraAttention(CHANNELS, 2, TWO_GROUPS, backend="reference", **settings),
        GlobalAttention(CHANNELS, 2, 6, **settings),
        WindowAttention(CHANNELS, 2, 3, **settings),
    ]


def test_qk_scale_multiplies_the_logits():
    for default, scaled in zip(all_kinds(), all_kinds(qk_scale=0.125), strict=True):
        randomised(default), randomised(scaled)
        # A scale of a quarter is undone by four times the queries.
        scaled.qkv.weight.data[:CHANNELS] *= 4
        scaled.qkv.bias.data[:CHANNELS] *= 4
        torch.testing.assert_close(default(tokens(6, 6)), scaled(tokens(6, 6)))


def test_qkv_bias_can_be_left_out():
    for module in all_kinds(qkv_bias=False):
        assert module.qkv.bias is None


def test_first_weights_are_normal_with_std_0_02_and_biases_0():
    for module in (GlobalAttention(128, 64, 6), HydraAttention(128, 64, deal_heads(64, [7], [1]))):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                assert parameter.abs().max() == 0, name
            else:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_every_parameter_has_the_gradient_of_finite_differences():
    x = tokens(6, 6)
    for module in map(randomised, all_kinds()):
        names, parameters = zip(*module.named_parameters(), strict=True)

        def output(*values, module=module, names=names):
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

        assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


def test_autocast_computes_in_bfloat16():
    for module in map(randomised, all_kinds()):
        exact = module(tokens(6, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module.float()(tokens(6, 6).float())
        assert out.dtype == torch.bfloat16
        error = (out.double() - exact).abs().max() / exact.abs().max()
        assert error < 4 * 2**-8, f"{type(module).__name__}: {error:.4f}"


def test_settings_are_shown():
    hydra, whole, windows = map(repr, all_kinds())
    assert "groups=(1 heads 3x3 dilation 1, 1 heads 3x3 dilation 2), backend=reference" in hydra
    assert "heads=2, scale=0.5" in whole
    assert "window_size=3" in windows
