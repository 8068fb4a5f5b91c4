"""The augmentations of ADA, against the official implementation's numbers and by what they do."""

import math

import pytest
import torch
import torch.nn.functional as F

from stylenat.augment.ada import augment, augment_at_percentile
from stylenat.augment.color import color_matrices
from stylenat.augment.corruptions import band_gains, filter_bank
from stylenat.augment.draws import (
    ADA_DRAWS,
    COUNTS,
    FIRST,
    SETS,
    multipliers_of,
    random_draws,
)
from stylenat.augment.geometry import inverse_matrices
from stylenat.precision import without_tf32
from tests.golden_values import golden_arrays, golden_json, golden_randn

CASES = golden_json("ada_shared")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(scope="module")
def official():
    return golden_arrays("ada_shared")


def pictures(count: int, height: int = 12, width: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


def uniform(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, ADA_DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_images_and_gradients_are_the_official_ones(name, device, official):
    case = CASES[name]
    noise = golden_randn([2, 3, case["height"], case["width"]], f"ada/shared/{name}")
    smooth = F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="reflect"), 5, 1)
    x = (2 * smooth).clamp(-1, 1).to(device).requires_grad_()
    with without_tf32():
        out = augment_at_percentile(x, case["on"], case["percentile"])
        loss = (out * golden_randn(out.shape, f"ada/shared/{name}/grad").to(device)).sum()
        (dx,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(out.cpu(), official[name], rtol=0, atol=1e-5)
    expected, scale = official[f"{name}.dx"], official[f"{name}.dx"].abs().max().item()
    torch.testing.assert_close(dx.cpu(), expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_p_0_gives_back_the_images_bit_for_bit(dtype):
    x = pictures(4, 24, 30).to(dtype)
    assert torch.equal(augment(x, uniform(4), p=0.0, transforms="bgcfnc"), x)


def test_three_tenths_flip_15_percent_and_leave_the_others_bit_for_bit():
    x = pictures(2000, 8, 10)
    out = augment(x, uniform(2000), p=0.3, transforms=["xflip"])
    same = (out == x).flatten(1).all(1)
    # Only nearly: the low-pass filter is not quite symmetric.
    flipped = (out - x.flip(3)).flatten(1).abs().mean(1) < 0.1
    assert (same ^ flipped).all()
    assert abs(flipped.double().mean() - 0.15) < 4 * math.sqrt(0.15 * 0.85 / 2000)


@pytest.mark.parametrize("name", [*SETS["geom"], "xint", "rotate90"])
def test_geometry_happens_with_probability_p_times_its_multiplier(name):
    p, count = 0.4, 4000
    matrices = inverse_matrices(random_draws(uniform(count), count, 0.8, {name: 0.5}), 64, 64)
    changed = (matrices != torch.eye(3)).flatten(1).any(1).double().mean()
    expected = {"rotate90": 0.75 * p, "xint": (1 - 1 / 17**2) * p}.get(name, p)
    assert abs(changed - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_random_numbers_have_the_deviations_of_the_paper():
    count = 20_000
    rows = uniform(count)

    def colors(name):
        return color_matrices(random_draws(rows, count, 1.0, [name]))

    def geometry(name):
        return inverse_matrices(random_draws(rows, count, 1.0, [name]), 64, 32)

    gains = band_gains(random_draws(rows, count, 1.0, {"imgfilter": 1}))
    found = {
        "brightness": (colors("brightness")[:, 0, 3].std(), 0.2),
        "contrast": (colors("contrast")[:, 0, 0].log2().std(), 0.5),
        # Its determinant is the square of the factor.
        "saturation": (torch.linalg.det(colors("saturation")).log2().std(), 2.0),
        "scale": (geometry("scale")[:, 0, 0].log2().std(), 0.2),
        "aniso": (geometry("aniso")[:, 1, 1].log2().std(), 0.2),
        "xfrac": (geometry("xfrac")[:, 0, 2].std(), 0.125 * 32),
        "yfrac": (geometry("xfrac")[:, 1, 2].std(), 0.125 * 64),
        # The bands are scaled alone, then all by a common factor.
        "imgfilter": ((gains[:, 1] / gains[:, 2]).log2().std(), math.sqrt(2)),
    }
    for name, (deviation, expected) in found.items():
        assert abs(deviation / expected - 1) < 4 / math.sqrt(2 * count), name


def test_a_quarter_turn_of_a_square_moves_every_pixel():
    x = pictures(1, 9, 9)
    rows = torch.zeros(1, ADA_DRAWS)
    rows[0, FIRST["rotate90"] + 1] = 0.25
    out = augment(x, rows, p=1.0, transforms=["rotate90"])
    # Only nearly: the low-pass filter is not quite symmetric.
    assert (out - x.rot90(1, (2, 3))).abs().mean() < 0.1


def test_whole_pixel_shifts_are_by_an_eighth_of_each_side_at_most_and_mirror_the_edge():
    x = pictures(1, 8, 16)
    rows = torch.zeros(1, ADA_DRAWS)  # -0.125 of the sides
    out = augment(x, rows, p=1.0, transforms=["xint"])
    mirrored = F.pad(x, (0, 2, 0, 1), mode="reflect")
    assert torch.allclose(out, mirrored[:, :, 1:, 2:], atol=1e-5)


def test_an_image_is_augmented_the_same_in_any_batch():
    count = 12
    x, rows = pictures(count, 24, 30).double(), uniform(count)
    whole = augment(x, rows, p=0.9, transforms="bgcfnc")
    assert ((whole - x).flatten(1).abs().amax(1) > 0.1).all()
    for i in range(count):
        alone = augment(x[i : i + 1], rows[i : i + 1], p=0.9, transforms="bgcfnc")
        assert torch.allclose(alone[0], whole[i], rtol=0, atol=1e-12)


def test_a_transformation_draws_the_same_whichever_others_are_on():
    count = 50
    rows = uniform(count)
    for name, first in FIRST.items():
        marked = rows.clone()
        marked[:, first : first + COUNTS[name]] = 0.999
        others = [other for other in COUNTS if other != name]
        x = pictures(count, 22, 22)
        assert torch.equal(
            augment(x, rows, p=0.5, transforms=others), augment(x, marked, p=0.5, transforms=others)
        )


def test_the_bands_of_the_filter_add_up_to_the_unit_impulse():
    impulse = torch.zeros(43, dtype=torch.float64)
    impulse[21] = 1
    assert torch.allclose(filter_bank().sum(0), impulse, atol=1e-12)


def test_noise_depends_on_the_image_s_own_draws_and_has_their_strength():
    rows = uniform(2)
    rows[:, FIRST["noise"]] = 0
    # |N| is below 1 standard deviation for 68.27 % of the draws.
    rows[:, FIRST["noise"] + 1] = 0.6827
    x = torch.zeros(2, 3, 64, 64)
    noise = augment(x, rows, p=1.0, transforms=["noise"])
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(augment(x[1:], rows[1:], p=1.0, transforms=["noise"])[0], noise[1])


def test_a_cutout_in_the_middle_takes_a_quarter_of_the_image():
    out = augment_at_percentile(torch.ones(1, 3, 8, 12), ["cutout"], 0.5)
    assert torch.equal(out[..., 2:6, 3:9], torch.zeros(1, 3, 4, 6))
    assert out.sum() == 3 * (8 * 12 - 4 * 6)


def test_gradients_are_right_to_the_second_order():
    rows = uniform(2)
    x = pictures(2, 5, 6).double().requires_grad_()

    def transformed(x):
        return augment(x, rows, p=1.0, transforms=[*SETS["bgc"], "noise", "cutout"])

    assert torch.autograd.gradcheck(transformed, x)
    assert torch.autograd.gradgradcheck(transformed, x)


def test_the_filter_s_gradients_are_right_to_the_second_order():
    x = pictures(1, 22, 23).double().requires_grad_()

    def transformed(x):
        return augment(x, uniform(1), p=1.0, transforms=["imgfilter"])

    assert torch.autograd.gradcheck(transformed, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(transformed, x, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_penalty_reaches_the_weights_behind_the_augmentation(device):
    x = pictures(2, 6, 5).double().to(device).requires_grad_()
    weight = torch.linspace(-1, 1, 6 * 5 * 3, dtype=torch.float64, device=device).requires_grad_()

    def penalty(weight):
        out = augment(x, uniform(2), p=1.0, transforms="bgc").flatten(1)
        (gradient,) = torch.autograd.grad(((out * weight) ** 3).sum(), x, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, weight)


def test_half_precision_is_computed_in_float32_with_and_without_autocast():
    x = pictures(3, 24, 24).bfloat16()
    expected = augment(x.float(), uniform(3), p=0.9, transforms="bgcf")
    assert torch.equal(augment(x, uniform(3), p=0.9, transforms="bgcf"), expected.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        out = augment(x.float(), uniform(3), p=0.9, transforms="bgcf")
    assert torch.equal(out, expected)


@pytest.mark.parametrize("edge", [0.0, 1 - 2.0**-24, 1 - 2.0**-53])
def test_the_least_and_the_largest_draws_give_finite_images(edge):
    rows = torch.full((1, ADA_DRAWS), edge, dtype=torch.float64)
    for column in FIRST.values():
        rows[0, column] = 0
    assert augment(pictures(1, 24, 24), rows, p=1.0, transforms="bgcfnc").isfinite().all()


def test_an_empty_batch_comes_back_empty():
    assert augment(pictures(0), uniform(0), p=1.0).shape == (0, 3, 12, 16)


def test_sets_add_up_and_default_to_multiplier_1():
    assert multipliers_of("bgc") == dict.fromkeys(SETS["blit"] + SETS["geom"] + SETS["color"], 1.0)
    assert multipliers_of({"hue": 0.5, "xflip": 2.0}) == {"hue": 0.5, "xflip": 2.0}
    assert set(multipliers_of("bgcfnc")) == set(COUNTS)
    assert ADA_DRAWS == 28 + 8 + 3 + 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": torch.zeros(2, 1, 8, 8)}, r"images must be \[B, 3, H, W\] and floating"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "and floating: .*uint8"),
        ({"draws": torch.zeros(3, ADA_DRAWS)}, r"draws must be .* for B = 2 images: \(3, 42\)"),
        ({"draws": torch.ones(2, ADA_DRAWS)}, r"draws must be in \[0, 1\): 1 to 1"),
        ({"draws": torch.full((2, ADA_DRAWS), math.nan)}, r"draws must be in \[0, 1\)"),
        ({"p": 1.5}, "from 0 to 1: 1.5"),
        ({"p": math.nan}, "from 0 to 1: nan"),
        ({"transforms": "bgx"}, "must be one of blit, .*, bgcfnc: bgx"),
        ({"transforms": ["flip"]}, "must be one of xflip, .*: flip"),
        ({"transforms": {"hue": -1.0}}, "the multiplier of hue must be at least 0: -1.0"),
        ({"transforms": ["imgfilter"]}, "sides of at least 22 pixels: 8x8"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(changes, sentence):
    given = {
        "images": torch.zeros(2, 3, 8, 8),
        "draws": torch.zeros(2, ADA_DRAWS),
        "p": 1.0,
        "transforms": "bgc",
        **changes,
    }
    with pytest.raises(ValueError, match=sentence):
        augment(given["images"], given["draws"], p=given["p"], transforms=given["transforms"])


@pytest.mark.parametrize("percentile", [-0.1, 1.0, math.nan])
def test_a_percentile_outside_0_to_1_is_refused(percentile):
    with pytest.raises(ValueError, match="the percentile must be at least 0 and below 1"):
        augment_at_percentile(pictures(1), ["xflip"], percentile)
