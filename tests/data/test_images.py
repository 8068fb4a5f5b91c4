"""Every kind of pixel becomes the RGB that a viewer shows, or is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stylenat.data import to_rgb
from stylenat.data.images import RefusedImage, decode, scale_and_crop
from tests.data.writers import encoded, pixels

WHITE = (255, 255, 255)


def one_pixel(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (2, 3), value)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey16(value: int, kind: str = "<u2") -> Image.Image:
    return Image.fromarray(np.full((3, 2), value, kind))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 4), (1, 2, 3)),
        ("RGBA", (255, 0, 100, 0), WHITE),
        ("RGBA", (255, 0, 100, 255), (255, 0, 100)),
        ("RGBA", (255, 0, 100, 128), (255, 127, 177)),  # 255 * 127/255 + c * 128/255
        ("LA", (0, 51), (204, 204, 204)),
        ("PA", (0, 0), WHITE),
        ("La", (51, 51), WHITE),  # premultiplied: white at a fifth, over white
        ("RGBa", (0, 0, 0, 51), (204, 204, 204)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("LAB", (255, 128, 128), (254, 255, 254)),
        ("I", 200, (200, 200, 200)),
        ("I", 65535, WHITE),
    ],
)
def test_every_mode_of_pillow_becomes_rgb(mode, value, expected):
    image = to_rgb(one_pixel(mode, value))
    assert (image.mode, image.size) == ("RGB", (2, 3))
    assert image.getpixel((1, 2)) == expected


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (128, 0), (129, 1), (25700, 100), (40000, 156), (65535, 255)]
)
def test_16_bit_grey_is_scaled_not_saturated(value, expected, order):
    assert to_rgb(grey16(value, order)).getpixel((0, 0)) == (expected,) * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_files_are_scaled(kind):
    assert decode(stored(grey16(40000), kind)).getpixel((0, 0)) == (156, 156, 156)


def test_a_dark_16_bit_pgm_stays_dark():
    assert decode(stored(grey16(200), "PPM")).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bit_are_refused(value):
    with pytest.raises(RefusedImage, match=rf"outside 0..65535: {value}..{value}"):
        to_rgb(one_pixel("I", value))


def test_floating_point_pixels_are_refused():
    with pytest.raises(RefusedImage, match="floating-point"):
        decode(stored(one_pixel("F", 0.5), "TIFF"))


def test_palette_and_its_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    opaque = decode(stored(image))
    assert [opaque.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (40, 50, 60)]
    for kind in ("PNG", "GIF"):
        clear = decode(stored(image, kind, transparency=0))
        assert [clear.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (40, 50, 60)]


def test_transparent_colour_of_a_grey_and_an_rgb_png():
    assert decode(stored(one_pixel("L", 9), transparency=9)).getpixel((0, 0)) == WHITE
    rgb = stored(one_pixel("RGB", (1, 2, 3)), transparency=(1, 2, 3))
    assert decode(rgb).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied_once(orientation, kind):
    upright = pixels(0, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # EXIF 2.32, table 6: the stored rows and columns of each orientation.
    stored_as = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    image = decode(encoded(stored_as, kind, exif=exif.tobytes()))
    assert np.array_equal(np.asarray(image), upright)


def test_first_frame_of_an_animation():
    frames = [one_pixel("RGB", (200, 0, 0)), one_pixel("RGB", (0, 0, 200))]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode(data).getpixel((0, 0)) == (200, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_file_cut_short_is_refused(kind):
    data = encoded(pixels(0, 64, 64), kind)
    decode(data)
    with pytest.raises(RefusedImage, match=r"is damaged|no image"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(RefusedImage, match=r"^is no image of a known format"):
        decode(data)


@pytest.mark.parametrize("side", [9460, 40_000])  # 89,491,600 pixels: Pillow only warns; and more
@pytest.mark.filterwarnings("error")
def test_too_many_pixels_are_refused_before_they_are_decoded(side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    with pytest.raises(RefusedImage, match="more than 89,478,485 pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (16, 16), (17, 33), (9, 5), (33, 16)])
def test_scaling_is_the_published_pipeline_s(size):
    width, height = size
    image = Image.fromarray(pixels(0, height, width))
    resize = v2.Resize(16, interpolation=v2.InterpolationMode.BILINEAR)
    expected = v2.CenterCrop(16)(resize(image))
    ours = scale_and_crop(image, 16, "bilinear")
    assert ours.size == (16, 16)
    assert torch.equal(v2.functional.pil_to_tensor(ours), v2.functional.pil_to_tensor(expected))


def test_filters_differ_and_box_averages():
    image = Image.fromarray(pixels(0, 8, 8))
    scaled = {
        name: np.asarray(scale_and_crop(image, 4, name)) for name in ("bilinear", "lanczos", "box")
    }
    assert len({array.tobytes() for array in scaled.values()}) == 3
    means = pixels(0, 8, 8).reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(scaled["box"] - means).max() <= 1  # rounded in either direction


def test_an_endless_strip_is_not_scaled():
    with pytest.raises(RefusedImage, match="too long to be scaled to 256: 1x60000"):
        scale_and_crop(Image.new("RGB", (1, 60000)), 256, "box")
