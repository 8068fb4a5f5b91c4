"""The discriminator against the official one's numbers, and by its own rules."""

import dataclasses
import functools

import pytest
import torch
from torch import Tensor, nn

from stylenat.legacy.tensors import discriminator_keys, is_constant
from stylenat.models.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
    minibatch_stddev,
)
from stylenat.models.layers import EqualizedConv2d, EqualizedLinear, pixel_norm
from tests.golden_values import (
    PUBLISHED_CHANNELS,
    golden_arrays,
    golden_json,
    golden_randn,
)

# The official logits are float32 numbers near 0.2. Without spectral norm the golden weights let
# through so little of the image that two images differ by 5e-7 only: a wavelet of the wrong sign
# would show from 2e-7.
GOLDEN_TOLERANCES = {"d16": 1e-5, "d32": 1e-5, "d32_nosn": 1e-7}


def published_config(resolution: int, *, spectral_norm: bool = True) -> DiscriminatorConfig:
    """The published network: the first level takes the channels of the image's own resolution."""
    channels = PUBLISHED_CHANNELS | {resolution // 2: PUBLISHED_CHANNELS[resolution]}
    levels = [DiscriminatorLevel(r, c) for r, c in channels.items() if r < resolution]
    return DiscriminatorConfig(tuple(levels), spectral_norm=spectral_norm)


def tiny_config(**settings) -> DiscriminatorConfig:
    return DiscriminatorConfig((DiscriminatorLevel(4, 4), DiscriminatorLevel(8, 3)), **settings)


def tiny_discriminator(**settings) -> Discriminator:
    """A float64 network for 16x16 images, with biases away from 0."""
    torch.manual_seed(0)
    D = Discriminator(tiny_config(**settings)).double()
    for parameter in D.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
    return D


def images(batch: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, side, side, generator=generator, dtype=torch.float64)


# The official numbers


@functools.cache
def golden_case(name: str) -> tuple[Discriminator, Tensor, Tensor]:
    """The network with the golden weights, its images, and the official logits."""
    case = golden_json("discriminators")[name]
    config = published_config(case["size"], spectral_norm=case["overrides"].get("sn", True))
    tensors = {
        key: golden_randn(parameter["shape"], f"D/{name}/{key}", parameter["std"])
        for key, parameter in case["params"].items()
    }
    tensors |= golden_arrays(f"discriminator_{name}")
    logits = tensors.pop("logits")
    keys = discriminator_keys(config)
    D = Discriminator(config).eval().requires_grad_(False)
    D.load_state_dict({keys[key]: tensor for key, tensor in tensors.items()})
    x = golden_randn((8, 3, case["size"], case["size"]), f"D/{name}/x")
    return D, x, logits


@pytest.mark.parametrize("name", GOLDEN_TOLERANCES)
def test_logits_are_the_official_ones(name):
    D, x, logits = golden_case(name)
    torch.testing.assert_close(D(x), logits, rtol=0, atol=GOLDEN_TOLERANCES[name])


@pytest.mark.parametrize("name", GOLDEN_TOLERANCES)
def test_every_official_tensor_is_mapped_or_a_constant(name):
    case = golden_json("discriminators")[name]
    config = published_config(case["size"], spectral_norm=name != "d32_nosn")
    informative = [key for key in case["state_dict_keys"] if not is_constant(key)]
    keys = discriminator_keys(config)
    with torch.device("meta"):
        native = Discriminator(config).state_dict()
    assert sorted(keys) == sorted(informative)
    assert sorted(keys.values()) == sorted(native)


@pytest.mark.parametrize("name", GOLDEN_TOLERANCES)
def test_parameter_count_is_the_official_one(name):
    case = golden_json("discriminators")[name]
    config = published_config(case["size"], spectral_norm=name != "d32_nosn")
    assert count_on_meta(config) == case["num_params"]


@pytest.mark.parametrize(("resolution", "parameters"), [(256, 26_211_585), (1024, 27_736_641)])
def test_published_networks_have_their_published_size(resolution, parameters):
    assert count_on_meta(published_config(resolution)) == parameters


def count_on_meta(config: DiscriminatorConfig) -> int:
    with torch.device("meta"):
        D = Discriminator(config)
    return sum(parameter.numel() for parameter in D.parameters())


# Spectral norm and equalised learning rates


@torch.no_grad()
def test_equalised_network_with_the_same_effective_weights_gives_the_same_logits():
    spectral, equalised = tiny_discriminator().eval(), tiny_discriminator(spectral_norm=False)
    spectral_modules = dict(spectral.named_modules())
    for name, module in equalised.named_modules():
        if hasattr(module, "weight_gain"):
            weight = spectral_modules[name].weight
            module.weight.copy_(weight * weight[0].numel() ** 0.5)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.copy_(spectral_modules[name].bias)
    equalised.hidden.bias.add_(spectral.hidden_bias)
    x = images(2)
    torch.testing.assert_close(spectral(x), equalised(x))


def test_equalised_weights_start_standard_normal():
    torch.manual_seed(0)
    weight = Discriminator(published_config(8, spectral_norm=False)).final_conv.conv.weight
    assert weight.std().item() == pytest.approx(1, abs=0.01)


@torch.no_grad()
def test_spectral_norm_leaves_every_weight_a_largest_singular_value_of_1():
    D = tiny_discriminator()
    for _ in range(200):
        D(images(1))
    D.eval()
    weights = {n: m.weight for n, m in D.named_modules() if hasattr(m, "parametrizations")}
    assert len(weights) == 7
    for name, weight in weights.items():
        largest = torch.linalg.matrix_norm(weight.flatten(1), ord=2).item()
        assert largest == pytest.approx(1, abs=1e-6), name


@torch.no_grad()
def test_spectral_vectors_stay_put_in_eval_mode_and_move_in_training():
    D = tiny_discriminator()
    D.hidden.parametrizations.weight[0]._v.normal_()
    for training in (False, True):
        D.train(training)
        before = D.hidden.parametrizations.weight[0]._v.clone()
        D(images(1))
        assert torch.equal(D.hidden.parametrizations.weight[0]._v, before) != training


# Minibatch standard deviation


def test_stddev_is_the_mean_over_a_group_of_every_second_image():
    x = images(8, side=4)
    stddev = minibatch_stddev(x, group=4, features=1)
    assert stddev.shape == (8, 1, 4, 4)
    for b in range(8):
        members = x[b % 2 :: 2].numpy()
        expected = ((members.var(axis=0) + 1e-8) ** 0.5).mean()
        torch.testing.assert_close(stddev[b], torch.full_like(stddev[b], expected))


def test_stddev_features_split_the_channels():
    x = torch.cat([images(4, side=4), 2 * images(4, side=4)], dim=1)
    stddev = minibatch_stddev(x, group=4, features=2)
    assert stddev.shape == (4, 2, 4, 4)
    for feature in range(2):
        alone = minibatch_stddev(x[:, 3 * feature : 3 * feature + 3], group=4, features=1)
        torch.testing.assert_close(stddev[:, feature : feature + 1], alone)


def test_stddev_takes_the_whole_batch_when_it_is_smaller_than_a_group():
    x = images(3, side=4)
    assert torch.equal(
        minibatch_stddev(x, group=4, features=1), minibatch_stddev(x, group=3, features=1)
    )


def test_stddev_of_one_image_is_almost_0_with_a_finite_gradient():
    x = images(1, side=4).requires_grad_()
    stddev = minibatch_stddev(x, group=4, features=1)
    torch.testing.assert_close(stddev, torch.full_like(stddev, 1e-4))
    (gradient,) = torch.autograd.grad(stddev.sum(), x)
    assert gradient.isfinite().all()


def test_batch_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="stddev_group: 6 images, groups of 4"):
        tiny_discriminator()(images(6))


def test_images_of_another_group_do_not_change_a_logit():
    D, x = tiny_discriminator(stddev_group=2).eval(), images(4)
    changed = x.clone()
    changed[1] += 1
    # Groups are {0, 2} and {1, 3}.
    same = (D(changed) == D(x)).flatten().tolist()
    assert same == [True, False, True, False]


def test_settings_of_the_stddev_act():
    x = images(4)
    pairs = tiny_discriminator(stddev_group=2)
    assert not torch.allclose(tiny_discriminator()(x), pairs(x))
    assert tiny_discriminator(stddev_features=2).final_conv.conv.weight.shape == (4, 6, 3, 3)


# Gradients


def r1(D: Discriminator, x: Tensor) -> Tensor:
    """The mean over the batch of the squared norm of the logit's gradient."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_gradient_of_r1_matches_finite_differences(spectral_norm):
    D, x = tiny_discriminator(spectral_norm=spectral_norm).eval(), images(4)
    generator = torch.Generator().manual_seed(2)
    parameters = [p for p in D.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(r1(D, x), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
            values.append(r1(D, x).item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=sign * step)
        slope = (values[0] - values[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_r1_in_training_mode_reaches_every_weight():
    D = tiny_discriminator().train()
    r1(D, images(4)).backward()
    for name, parameter in D.named_parameters():
        if parameter.ndim > 1:
            assert parameter.grad.abs().sum() > 0, name


def test_two_forwards_share_a_backward_in_training_mode():
    D = tiny_discriminator().train()
    (D(images(4)).mean() - D(-images(4)).mean()).backward()
    assert all(p.grad.isfinite().all() for name, p in D.named_parameters() if name != "logit.bias")


def test_channels_last_images_give_the_same_logits():
    D, x = tiny_discriminator().eval(), images(4)
    D_last = tiny_discriminator().eval().to(memory_format=torch.channels_last)
    torch.testing.assert_close(D_last(x.contiguous(memory_format=torch.channels_last)), D(x))


# The layers


def test_equalized_linear_multiplies_weight_and_bias():
    layer = EqualizedLinear(4, 3, bias_init=0.5, lr_multiplier=0.01).double()
    x = images(2)[:, :, 0, :4]
    expected = x @ layer.weight.T * (0.01 / 4**0.5) + 0.5
    torch.testing.assert_close(layer(x), expected)
    layer.bias.data.add_(100)
    torch.testing.assert_close(layer(x), expected + 1)


def test_equalized_linear_activation_is_leaky_relu_with_gain_sqrt_2():
    layer, active = EqualizedLinear(4, 3, bias_init=-1), EqualizedLinear(4, 3, activation=True)
    active.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 4)
    expected = 2**0.5 * nn.functional.leaky_relu(layer(x), 0.2)
    torch.testing.assert_close(active(x), expected)


def test_equalized_linear_weights_start_at_the_inverse_of_the_multiplier():
    weight = EqualizedLinear(512, 64, lr_multiplier=0.01).weight
    assert weight.std().item() == pytest.approx(100, rel=0.02)


def test_equalized_linear_without_a_positive_multiplier_is_refused():
    with pytest.raises(ValueError, match="lr_multiplier must be positive: 0"):
        EqualizedLinear(2, 2, lr_multiplier=0)


def test_equalized_convolution_strides_and_pads():
    layer = EqualizedConv2d(3, 2, 3, stride=2, padding=1).double()
    plain = nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=False).double()
    plain.weight.data.copy_(layer.weight / 27**0.5)
    torch.testing.assert_close(layer(images(2)), plain(images(2)))


def test_pixel_norm_gives_every_vector_a_mean_square_of_1():
    torch.testing.assert_close(
        pixel_norm(torch.tensor([[3.0, -4.0]])), torch.tensor([[0.6, -0.8]]) * 2**0.5
    )
    assert pixel_norm(torch.zeros(1, 2)).abs().max() == 0


# Rules


def test_resolution_is_twice_the_last_level():
    assert tiny_config().resolution == 16


def test_smallest_network_has_one_level():
    D = Discriminator(DiscriminatorConfig((DiscriminatorLevel(4, 2),)))
    assert D(torch.zeros(2, 3, 8, 8)).shape == (2, 1)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().stddev_group = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ([], "at least 1 level"),
        ([8, 16], "must be 4x4: 8x8"),
        ([4, 16], "double the one before: 16 after 4"),
        ([4, 8, 8], "double the one before: 8 after 8"),
    ],
)
def test_levels_that_do_not_double_from_4x4_are_refused(resolutions, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(tuple(DiscriminatorLevel(r, 4) for r in resolutions))


def test_level_without_channels_is_refused():
    with pytest.raises(ValueError, match="at least 1 channel: 0 at level 8x8"):
        DiscriminatorLevel(8, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stddev_group": 0}, "stddev_group must be at least 1: 0"),
        ({"stddev_features": 0}, "0 against 4 channels"),
        ({"stddev_features": 3}, "3 against 4 channels"),
    ],
)
def test_stddev_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 16, 8), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, 3, 16, 16\]"):
        tiny_discriminator()(torch.zeros(shape, dtype=torch.float64))


def test_settings_are_shown():
    shown = repr(tiny_discriminator())
    assert "resolution=16, spectral_norm=True, stddev_group=4, stddev_features=1" in shown
