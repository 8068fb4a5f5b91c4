"""Between network values and 8-bit pixels."""

import pytest
import torch

from stylenat.models.pixels import IMAGENET, PixelSpace, from_uint8, to_uint8

# One step of value is one step of pixel, exactly.
PIXEL_STEPS = PixelSpace((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))


def test_pixels_become_imagenet_normalised_values():
    pixels = torch.tensor([[[[0, 51, 255], [255, 0, 102]]]], dtype=torch.uint8)
    expected = [
        [(0.0 - 0.485) / 0.229, (1.0 - 0.485) / 0.229],
        [(0.2 - 0.456) / 0.224, (0.0 - 0.456) / 0.224],
        [(1.0 - 0.406) / 0.225, (0.4 - 0.406) / 0.225],
    ]
    image = from_uint8(pixels, IMAGENET)
    assert image.shape == (1, 3, 1, 2)
    torch.testing.assert_close(image[0, :, 0], torch.tensor(expected))


@pytest.mark.parametrize("space", [IMAGENET, PixelSpace((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pixel_value_survives_the_round_trip(space, dtype):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    assert torch.equal(to_uint8(from_uint8(pixels, space).to(dtype), space), pixels)


def test_height_width_and_images_keep_their_places():
    pixels = torch.randint(256, (2, 3, 5, 3), dtype=torch.uint8)
    image = from_uint8(pixels, IMAGENET)
    assert image.shape == (2, 3, 3, 5)
    assert image.is_contiguous()
    back = to_uint8(image, IMAGENET)
    assert back.is_contiguous()
    assert torch.equal(back, pixels)


def test_halves_round_up():
    image = torch.tensor([0.0, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5]).expand(1, 3, 1, 7)
    assert to_uint8(image, PIXEL_STEPS)[0, 0, :, 0].tolist() == [0, 0, 1, 2, 3, 254, 255]


def test_values_outside_the_range_clamp():
    values = [-torch.inf, -1e9, -3.0, 300.0, 1e9, torch.inf]
    image = torch.tensor(values).expand(1, 3, 1, 6)
    assert to_uint8(image, PIXEL_STEPS)[0, 0, :, 0].tolist() == [0, 0, 0, 255, 255, 255]


def test_nan_is_refused():
    image = torch.zeros(2, 3, 4, 4)
    image[1, 0, :2, 3] = torch.nan
    with pytest.raises(ValueError, match="must not hold NaN: 2 of 96 values"):
        to_uint8(image, IMAGENET)


def test_bfloat16_images_are_converted_in_float32():
    image = torch.randn(1, 3, 8, 8).bfloat16()
    assert torch.equal(to_uint8(image, IMAGENET), to_uint8(image.float(), IMAGENET))


def test_meta_images_have_meta_pixels():
    image = torch.empty(2, 3, 4, 6, device="meta")
    assert to_uint8(image, IMAGENET).shape == (2, 4, 6, 3)
    assert from_uint8(to_uint8(image, IMAGENET), IMAGENET).shape == image.shape


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 3), torch.zeros(1, 3, 4, 4).byte()]
)
def test_to_uint8_refuses_other_shapes_and_dtypes(image):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] and floating"):
        to_uint8(image, IMAGENET)


@pytest.mark.parametrize(
    "pixels", [torch.zeros(4, 4, 3).byte(), torch.zeros(1, 3, 4, 4).byte(), torch.zeros(1, 4, 4, 3)]
)
def test_from_uint8_refuses_other_shapes_and_dtypes(pixels):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\] and uint8"):
        from_uint8(pixels, IMAGENET)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (1, 1, 1), "mean must be three finite numbers"),
        ((0.5, 0.5, float("nan")), (1, 1, 1), "mean must be three finite numbers"),
        ((0, 0, 0), (1, 1), "std must be three positive numbers"),
        ((0, 0, 0), (1, 0, 1), "std must be three positive numbers"),
    ],
)
def test_space_without_meaning_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        PixelSpace(mean, std)
