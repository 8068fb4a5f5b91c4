"""Files of every kind, through `prepare` and through the training loader: the right pixels from
both, or the file's name from both."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylenat.data import open_images, training_batches
from stylenat.data.images import RefusedImage, decode
from tests.data.writers import make, write_folder, write_zip

SIDE = 8
Colour = tuple[int, int, int]


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode: str, value: object, kind: str = "PNG", **options: object) -> bytes:
    return stored(Image.new(mode, (SIDE, SIDE), value), kind, **options)


def grey16(value: int, kind: str = "PNG") -> bytes:
    return stored(Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)), kind)


def palette(**options: object) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    return stored(image, "PNG", **options)


def turned(kind: str) -> bytes:
    """Red on the left once it is upright; stored lying on its side, with the EXIF tag."""
    upright = Image.new("RGB", (SIDE, SIDE), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, SIDE // 2, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return stored(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif, **options)


# What each file shows at its left and at its right edge; a JPEG may be off by 2.
GOLDEN: dict[str, tuple[bytes, Colour, Colour | None]] = {
    "1.png": (flat("1", 1), (255, 255, 255), None),
    "grey.png": (flat("L", 77), (77, 77, 77), None),
    "grey_alpha.png": (flat("LA", (0, 51)), (204, 204, 204), None),
    "grey_16_bit.png": (grey16(40000), (156, 156, 156), None),
    "grey_16_bit.tif": (grey16(40000, "TIFF"), (156, 156, 156), None),
    "grey_16_bit_dark.pgm": (grey16(200, "PPM"), (1, 1, 1), None),
    "palette.png": (palette(), (40, 50, 60), None),
    "palette_clear.png": (palette(transparency=1), (255, 255, 255), None),
    "rgba.png": (flat("RGBA", (255, 0, 100, 128)), (255, 127, 177), None),
    "cmyk.tif": (flat("CMYK", (255, 0, 0, 51), "TIFF"), (0, 204, 204), None),
    "cmyk.jpg": (flat("CMYK", (255, 0, 0, 51), "JPEG", quality=100), (0, 204, 204), None),
    "integers.tif": (flat("I", 51400, "TIFF"), (200, 200, 200), None),
    "turned.jpg": (turned("JPEG"), (255, 0, 0), (0, 0, 255)),
    "turned.tif": (turned("TIFF"), (255, 0, 0), (0, 0, 255)),
    "a_png_named.jpg": (flat("RGB", (1, 2, 3)), (1, 2, 3), None),
    "a_jpeg_named.png": (flat("RGB", (90, 90, 90), "JPEG", quality=100), (90, 90, 90), None),
}


def check_golden(name: str, image_HW3: np.ndarray) -> None:
    _, left, right = GOLDEN[name]
    tolerance = 2 if "jp" in name else 0
    assert image_HW3.shape == (SIDE, SIDE, 3)
    for column, colour in ((0, left), (-1, right or left)):
        found = image_HW3[:, column].astype(int)
        assert np.abs(found - np.array(colour)).max() <= tolerance, (name, found[0])


@pytest.fixture(params=["folder", "zip"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    files = {name: content for name, (content, *_) in GOLDEN.items()}
    if request.param == "zip":
        return write_zip(tmp_path / "golden.zip", files)
    return write_folder(tmp_path / "golden", files)


def test_prepare_gives_the_right_pixels_of_every_mode(golden, tmp_path):
    assert make(golden, tmp_path / "made.zip").images == len(GOLDEN)
    made = open_images(str(tmp_path / "made.zip"))
    for index, name in enumerate(sorted(GOLDEN)):
        check_golden(name, made.read(index))


def test_the_loader_gives_the_right_pixels_of_every_mode(golden):
    source = open_images(golden, resolution=SIDE)
    options = {"mirror": False, "workers": 1, "max_bad": 0}
    batches = training_batches(source, seed=0, batch=len(GOLDEN), **options)
    images = next(batches).numpy()
    batches.close()
    unseen = set(range(len(GOLDEN)))
    for image_HW3 in images:
        index = next(i for i in unseen if np.array_equal(source.read(i), image_HW3))
        check_golden(source.name(index), image_HW3)
        unseen.remove(index)
    assert not unseen


# Files that can't be used


def header(width: int, height: int, kind: str) -> bytes:
    """An image file of hardly more than its size."""
    if kind == "PNG":
        bodies = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
        chunks = (
            struct.pack(">I", len(b) - 4) + b + struct.pack(">I", zlib.crc32(b)) for b in bodies
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if kind == "JPEG":
        start = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3)
        scan = b"\xff\xda" + bytes([0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
        return start + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]) + scan
    bmp = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + bmp


def photo() -> Image.Image:
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3))
    return Image.fromarray(noise.astype(np.uint8))


def spoilt(data: bytes, at: float, content: bytes) -> bytes:
    start = int(len(data) * at)
    return data[:start] + content + data[start + len(content) :]


def with_a_hole(image: Image.Image, **options: object) -> bytes:
    """A JPEG of which Pillow makes pixels of its own, without a word."""
    return spoilt(stored(image, "JPEG", **options), 0.7, bytes(100))


UNUSABLE: dict[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "empty.jpg": lambda: b"",
    "text.png": lambda: b"no image",
    "half.jpg": lambda: (data := stored(photo(), "JPEG"))[: len(data) // 2],
    "almost_whole.jpg": lambda: stored(photo(), "JPEG")[:-40],
    "half_progressive.jpg": lambda: (d := stored(photo(), "JPEG", progressive=True))[: len(d) // 2],
    "overwritten.jpg": lambda: spoilt(stored(photo(), "JPEG"), 0.4, b"\xff\xc8\xff\xd8" * 60),
    "tables.jpg": lambda: spoilt(stored(photo(), "JPEG"), 0.02, b"\xff" * 60),
    "hole.jpg": lambda: with_a_hole(photo()),
    "hole_progressive.jpg": lambda: with_a_hole(photo(), progressive=True),
    "hole_cmyk.jpg": lambda: with_a_hole(photo().convert("CMYK")),
    "hole_grey.jpg": lambda: with_a_hole(photo().convert("L")),
    "half.png": lambda: (data := stored(photo(), "PNG"))[: len(data) // 2],
    "overwritten.png": lambda: spoilt(stored(photo(), "PNG"), 0.5, bytes(60)),
    "half.webp": lambda: (data := stored(photo(), "WEBP"))[: len(data) // 2],
    "floats.tif": lambda: flat("F", 0.5, "TIFF"),
    "negative.tif": lambda: flat("I", -5, "TIFF"),
    "huge.png": lambda: header(20_000, 20_000, "PNG"),
    "huge.jpg": lambda: header(20_000, 20_000, "JPEG"),
    "huge.bmp": lambda: header(20_000, 20_000, "BMP"),
    "a_vector.png": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.fixture
def with_unusable(tmp_path: Path) -> str:
    """Those, and one that is whole."""
    files = {name: content() for name, content in UNUSABLE.items()}
    return write_folder(tmp_path / "bad", {"!.png": flat("L", 9), **files})


def test_prepare_names_every_file_that_it_cannot_use(with_unusable, tmp_path):
    report = make(with_unusable, tmp_path / "made.zip", max_bad=len(UNUSABLE))
    assert report.images == 1
    assert [name for name, _ in report.skipped] == sorted(UNUSABLE)
    for name, reason in report.skipped:
        assert "\n" not in reason
        if name.startswith("huge"):
            assert reason.startswith("must not have more than 89,478,485 pixels: ")


def test_the_loader_names_every_file_that_it_cannot_use(with_unusable, caplog):
    source = open_images(with_unusable, resolution=SIDE)
    batches = training_batches(source, seed=0, batch=len(source), workers=1)
    images = next(batches).numpy()
    batches.close()
    assert (images == 9).all()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(UNUSABLE)
    for name in UNUSABLE:
        (sentence,) = (text for text in told if text.startswith(f"{with_unusable}/{name} "))
        assert "\n" not in sentence


def jpeg_of_one_block(horizontal: int, vertical: int) -> bytes:
    """8x8 of middle grey, luminance sampled so many times as finely as the colours."""
    table = b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([1] * 64)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, SIDE, SIDE, 3)
    frame += bytes([1, horizontal << 4 | vertical, 0, 2, 0x11, 0, 3, 0x11, 0])
    # One code, a zero bit: "no difference" for the mean of a block, "no more" for the rest of it.
    codes = (b"\xff\xc4" + struct.pack(">HB", 20, kind) + b"\1" + bytes(16) for kind in (0, 16))
    scan = b"\xff\xda" + bytes([0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    bits = "00" * (horizontal * vertical + 2)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\xff\xd8" + table + frame + b"".join(codes) + scan + coded + b"\xff\xd9"


WHOLE_JPEGS: dict[str, Callable[[], bytes]] = {
    **{f"4:{name}": lambda s=s: stored(photo(), "JPEG", subsampling=s) for s, name in
       enumerate(("4:4", "2:2", "2:0"))},
    "progressive": lambda: stored(photo(), "JPEG", progressive=True),
    "restart markers": lambda: stored(photo(), "JPEG", restart_marker_blocks=1),
    "optimised": lambda: stored(photo(), "JPEG", optimize=True),
    "coarse": lambda: stored(photo(), "JPEG", quality=1),
    "RGB": lambda: stored(photo(), "JPEG", keep_rgb=True),
    "grey": lambda: stored(photo().convert("L"), "JPEG"),
    "CMYK": lambda: stored(photo().convert("CMYK"), "JPEG"),
    "two pictures": lambda: stored(photo(), "MPO", save_all=True, append_images=[photo()]),
    "more after its end": lambda: stored(photo(), "JPEG") + b"a note",
    **{f"sampled {h}x{v}": lambda h=h, v=v: jpeg_of_one_block(h, v) for h, v in
       ((1, 1), (2, 2), (4, 1), (1, 4), (4, 2), (3, 1))},
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_JPEGS)
def test_a_whole_jpeg_of_any_kind_is_used(name):
    data = WHOLE_JPEGS[name]()
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGB")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


def smooth(height: int, width: int, seed: int) -> Image.Image:
    """Coarse, middling and fine structure with some noise, as photographs have."""
    random = np.random.RandomState(seed)
    pixels = random.normal(0, 3, (height, width, 3))
    for cell, weight in ((4, 0.2), (16, 0.3), (64, 0.5)):
        shape = (height // cell + 2, width // cell + 2, 3)
        coarse = Image.fromarray(random.randint(0, 256, shape).astype(np.uint8))
        pixels += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 2), (16, 17), (63, 65), (200, 7), (254, 255)]
)
def test_jpegs_are_pillow_s_to_the_bit(height, width, subsampling, progressive):
    """Pillow decodes the chroma of odd sides and of every quality as simplejpeg does."""
    for quality in (1, 30, 75, 95, 100):
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
        data = stored(smooth(height, width, quality), "JPEG", **options)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(decode(data)), np.asarray(image)), quality


# (what is written over a JPEG, how many bytes; how many of 100 such files are named at least)
DAMAGE = [("zeros", 512, 90), ("noise", 32, 85), ("noise", 1, 30), ("bit", 1, 15)]


@pytest.mark.parametrize(("content", "count", "at_least"), DAMAGE)
def test_jpegs_damaged_inside_are_mostly_named(content, count, at_least):
    """A JPEG has no checksum: where its codes stay in step, the pixels are others, and no more."""
    random = np.random.RandomState(0)
    data = stored(photo().resize((128, 128)), "JPEG", quality=90)
    named = 0
    for _ in range(100):
        spoiled = bytearray(data)
        start = random.randint(640, len(data) - count)  # behind the tables
        place = slice(start, start + count)
        if content == "bit":
            spoiled[start] ^= 1 << random.randint(8)
        else:
            spoiled[place] = bytes(count) if content == "zeros" else random.bytes(count)
        try:
            decode(bytes(spoiled))
        except RefusedImage:
            named += 1
    assert at_least <= named


def test_a_zip_s_checksum_finds_what_a_jpeg_decoder_passes_over(tmp_path):
    """A changed byte that leaves the codes in step: other pixels, and nothing to see it by."""
    name, data = "spot.jpg", jpeg_of_one_block(1, 1)
    table = data.index(bytes([1] * 64))
    changed = data[:table] + b"\7" + data[table + 1 :]
    decode(changed)
    path = write_zip(tmp_path / "x.zip", {"!.png": flat("L", 9), name: data})
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole.replace(data, changed))
    with pytest.raises(ValueError, match=r"spot\.jpg is damaged within the zip: "):
        open_images(path).read(1)


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path):
    path = write_folder(tmp_path / "x", {"!.png": flat("L", 9)})
    os.mkfifo(tmp_path / "x" / "pipe.png")
    (tmp_path / "x" / "zeros.png").symlink_to("/dev/zero")
    source = open_images(path)
    for index in (1, 2):
        with pytest.raises(ValueError, match=rf"{source.name(index)} is no regular file$"):
            source.read(index)


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    path = write_folder(tmp_path / "x", {"!.png": flat("L", 9), "large.png": b""})
    os.truncate(tmp_path / "x" / "large.png", 10**12)  # a hole: it takes no room
    with pytest.raises(ValueError, match=r"large\.png must not have more than 715,827,880 bytes"):
        open_images(path).read(1)
