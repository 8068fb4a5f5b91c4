"""NAT, DiNAT and DiNAT_s: the official numbers, padding, features, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.backbones import NAT, LevelConfig, NATConfig, variant
from stylenat.backbones.blocks import Attention, Block
from stylenat.backbones.network import PatchMerging, PatchStem
from stylenat.precision import without_tf32
from tests.backbones.golden import FILES, golden_classifier

TOLERANCE = 1e-4  # of the largest number
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def tiny_config(**changes: object) -> NATConfig:
    """Two levels; on a 32x32 image of 8x8 and 4x4 tokens, and the second is padded."""
    levels = (
        LevelConfig(16, (HeadGroup(2, 3, 1), HeadGroup(2, 3, 2))),
        LevelConfig(32, (HeadGroup(4, 5, 1),)),
    )
    return replace(NATConfig(levels, mlp_ratio=2, num_classes=10), **changes)


def close(found: Tensor, expected: Tensor) -> None:
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < TOLERANCE, error


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FILES)
def test_logits_and_levels_are_the_official_ones(name, device):
    golden = golden_classifier(name)
    network = NAT(variant(golden.variant)).eval()
    network.load_state_dict({k.replace("layers.", "levels."): x for k, x in golden.weights.items()})
    assert sum(parameter.numel() for parameter in network.parameters()) == golden.num_params
    after: list[Tensor] = []
    for level in list(network.levels)[:-1]:
        level.downsample.register_forward_hook(lambda *call: after.append(call[2]))
    network.norm.register_forward_hook(lambda *call: after.append(call[1][0]))
    network.to(device)
    with torch.no_grad(), without_tf32():
        close(network(golden.images.to(device)).cpu(), golden.logits)
    for found_1HWC, expected_2C in zip(after, golden.levels, strict=True):
        positions_LC = found_1HWC.flatten(0, 2).cpu()
        mean, square = positions_LC.mean(0), positions_LC.square().mean(0)
        close(torch.stack([mean, square.sqrt()]), expected_2C)


# Padding: what a map gives that is smaller than kernel_size * dilation.


@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4), (5, 3), (6, 6), (1, 1)])
def test_a_map_smaller_than_the_window_sees_zero_tokens_right_and_below(height, width):
    attention = Attention(8, HeadGroup(2, 3, 2))
    nn.init.normal_(attention.qkv.bias)
    x_BHWC = torch.randn(2, height, width, 8)
    filled = torch.zeros(2, max(6, height), max(6, width), 8)
    filled[:, :height, :width] = x_BHWC
    q, k, v = attention.qkv(filled).unflatten(-1, (3, 2, 4)).unbind(3)
    out = neighborhood_attention_2d(q, k, v, (attention.group,), (attention.rpb,))
    expected = attention.proj(out.flatten(-2))[:, :height, :width]
    found = attention(x_BHWC)
    assert found.shape == x_BHWC.shape
    torch.testing.assert_close(found, expected)


def test_a_padded_token_is_the_bias_of_qkv_and_is_seen():
    """One token among 8 padded ones, all with the logit 0: the mean of its value and theirs."""
    attention = Attention(2, HeadGroup(1, 3, 1))
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.weight[4:] = torch.eye(2)
        attention.qkv.bias.copy_(torch.tensor([0, 0, 0, 0, 5.0, -1.0]))
        attention.rpb.zero_()
        attention.proj.weight.copy_(torch.eye(2))
        attention.proj.bias.zero_()
    found = attention(torch.tensor([9.0, 18.0]).view(1, 1, 1, 2))
    torch.testing.assert_close(found.flatten(), torch.tensor([5.0 + 1, -1.0 + 2]))


def test_nothing_is_padded_if_the_window_fits(monkeypatch):
    monkeypatch.setattr("torch.nn.functional.pad", lambda *_: pytest.fail("padded"))
    attention = Attention(8, HeadGroup(2, 3, 2))
    assert attention(torch.randn(1, 6, 7, 8)).shape == (1, 6, 7, 8)


# Sizes


@pytest.mark.parametrize("shell", ["nat", "swin"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (1, 5), (50, 31)])
def test_every_size_of_image_gives_logits_and_maps(shell, height, width):
    network = NAT(tiny_config(shell=shell)).eval()
    images = torch.randn(2, 3, height, width)
    assert network(images).shape == (2, 10)
    maps = network.features(images)
    sides = [(-(-height // stride), -(-width // stride)) for stride in (4, 8)]
    assert [x.shape for x in maps] == [(2, 16, *sides[0]), (2, 32, *sides[1])]
    assert all(x.is_contiguous() for x in maps)


def test_an_isotropic_network_has_one_level_of_stride_16():
    """Its stem, blocks and head in plain PyTorch; 5x3 patches are fewer than the window has."""
    torch.manual_seed(0)
    level = LevelConfig(16, (HeadGroup(2, 3, 1), HeadGroup(2, 3, 2)))
    config = NATConfig((level,), shell="isotropic", mlp_ratio=4, num_classes=7)
    network = NAT(config).eval()
    images = torch.randn(2, 3, 80, 40)
    patches = nn.functional.pad(images, (0, 8)).unfold(2, 16, 16).unfold(3, 16, 16)
    weight = network.patch_embed.proj.weight
    tokens = torch.einsum("bchwij,dcij->bhwd", patches, weight) + network.patch_embed.proj.bias
    tokens = network.patch_embed.norm(tokens)
    for block in network.levels[0].blocks:
        tokens = block(tokens)
    assert tokens.shape == (2, 5, 3, 16)
    close(network(images), network.head(network.norm(tokens).mean((1, 2))))
    (features,) = network.features(images)
    assert features.shape == (2, 16, 5, 3)


def test_patches_are_filled_with_zeros_on_the_right_and_below():
    stem = PatchStem(3, 8, 4)
    images = torch.randn(1, 3, 6, 9)
    filled = torch.zeros(1, 3, 8, 12)
    filled[..., :6, :9] = images
    torch.testing.assert_close(stem(images), stem(filled), rtol=0, atol=0)


def test_merging_takes_the_four_tokens_column_by_column():
    merging = PatchMerging(1)
    x_BHWC = torch.arange(6.0).view(1, 2, 3, 1)  # rows 0 1 2 and 3 4 5; a column of zeros follows
    seen = []
    merging.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert merging(x_BHWC).shape == (1, 1, 2, 2)
    assert seen[0].tolist() == [[[[0, 3, 1, 4], [2, 5, 0, 0]]]]


def test_images_of_another_shape_are_refused():
    network = NAT(tiny_config())
    for images in (torch.zeros(3, 32, 32), torch.zeros(1, 3, 0, 32)):
        with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\]"):
            network(images)


# Features


def test_features_are_the_normalised_maps_before_downsampling():
    config = tiny_config(num_classes=0, out_levels=(0, 1))
    network = NAT(config).eval()
    for norm in (network.norm0, network.norm1):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    images = torch.randn(1, 3, 40, 24)
    first, second = network.maps(images)
    expected = [network.norm0(first), network.norm1(second)]
    found = network.features(images)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y.permute(0, 3, 1, 2), rtol=0, atol=0)
    (alone,) = network.features(images, out_levels=[1])
    torch.testing.assert_close(alone, found[1], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"call features\(images\)"):
        network(images)


def test_a_classifier_s_features_are_those_of_fresh_norms():
    classifier = NAT(tiny_config()).eval()
    network = NAT(tiny_config(num_classes=0, out_levels=(1,))).eval()
    network.load_state_dict(classifier.state_dict(), strict=False)
    images = torch.randn(1, 3, 32, 36)
    torch.testing.assert_close(network.features(images)[0], classifier.features(images)[1])


@pytest.mark.parametrize("out_levels", [(2,), (0, -1), ()])
def test_levels_that_there_are_not_are_refused(out_levels):
    with pytest.raises(ValueError, match="out_levels must name levels, 0 to 1"):
        NAT(tiny_config()).features(torch.zeros(1, 3, 32, 32), out_levels)


def test_without_classes_the_pooled_features_come_out():
    network = NAT(tiny_config(num_classes=0)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert not hasattr(network, "head")
    torch.testing.assert_close(network(images), network.norm(network.tokens(images)).mean((1, 2)))


# Training


@pytest.mark.parametrize("shell", ["nat", "swin"])
def test_every_parameter_has_the_gradient_of_finite_differences(shell):
    """In float64, padding and layer scale included, along a random direction per parameter."""
    torch.manual_seed(1)
    network = NAT(tiny_config(shell=shell, layer_scale=0.5)).double()
    images = torch.randn(2, 3, 33, 29, dtype=torch.float64)
    aim = torch.randn(2, 10, dtype=torch.float64)

    def loss() -> Tensor:
        return (network(images) * aim).sum()

    gradients = torch.autograd.grad(loss(), list(network.parameters()))
    step = 1e-6
    for (name, parameter), gradient in zip(network.named_parameters(), gradients, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        slope = (above - below).item() / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_activation_checkpointing_changes_no_gradient():
    network = NAT(tiny_config(drop_path=0.5)).train()
    images, gradients = torch.randn(2, 3, 32, 32), []
    for network.activation_checkpointing in (False, True):
        torch.manual_seed(3)
        loss = network(images).square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_drop_path_rates_rise_linearly_to_the_last_block():
    network = NAT(tiny_config(drop_path=0.4))
    rates = [module.drop_path for module in network.modules() if isinstance(module, Block)]
    assert rates == pytest.approx([0, 0.2, 0.4])


def test_drop_path_takes_whole_branches_in_training_and_scales_the_rest():
    torch.manual_seed(0)
    block = Block(8, HeadGroup(2, 3), mlp_channels=8, drop_path=0.25)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    x_BHWC = torch.randn(1, 4, 4, 8).expand(400, -1, -1, -1)
    whole = (block.eval()(x_BHWC) - x_BHWC)[:1]
    added = block.train()(x_BHWC) - x_BHWC
    kept = added.flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(added[kept], (whole / 0.75).expand(int(kept.sum()), -1, -1, -1))
    # 400 draws: three standard deviations are 0.065.
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.065)


def test_layer_scale_multiplies_each_branch():
    block = Block(8, HeadGroup(2, 3), mlp_channels=8, layer_scale=0.0)
    x_BHWC = torch.randn(1, 4, 4, 8)
    torch.testing.assert_close(block(x_BHWC), x_BHWC, rtol=0, atol=0)
    nn.init.ones_(block.gamma2)
    torch.testing.assert_close(block(x_BHWC), x_BHWC + block.mlp(block.norm2(x_BHWC)))


def test_fresh_weights_are_the_published_ones_in_spread():
    network = NAT(variant("nat_mini"))
    block = network.levels[2].blocks[0]
    for weight in (block.attn.qkv.weight, block.attn.rpb, network.head.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not block.attn.qkv.bias.any()
    assert NAT(variant("nat_small")).levels[0].blocks[0].gamma1.unique().item() == pytest.approx(
        1e-5
    )
