"""Image files to pixels, for every reader and for `stylenat prepare`.

Legend: H height, W width, R resolution.
"""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from stylenat.choices import FILTERS, Filter
from stylenat.text import printable

_RESAMPLING = {name: Image.Resampling[name.upper()] for name in FILTERS}

# What counts as an image in a folder or a zip, in either case of letters.
EXTENSIONS = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
# Pillow goes by the content, not by the name. Without this list it would run PostScript in a .png.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "PPM",
    "TGA",
    "JPEG2000",
    "AVIF",
    "QOI",
)

MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb
MOST_BYTES = 8 * MOST_PIXELS  # of a file: MOST_PIXELS in RGBA of 16 bits, uncompressed
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RefusedImage(ValueError):
    """An image can't be used. The message is a predicate that follows the image's name."""


class ImageError(ValueError):
    """An image of a data set can't be used: `place` says which, `reason` is a predicate."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.reason = reason

    def __str__(self) -> str:
        return " ".join(self.args)


def decode(data: bytes, *, upright: bool = True) -> Image.Image:
    """The picture in an image file's bytes, upright, RGB; of an animation, the first frame.

    Without `upright` it stays as it is stored, whatever its EXIF data say.
    Raises RefusedImage for bytes that are no image, are damaged or cut short as far as their format
    shows it, hold more than 89,478,485 pixels, or pixels that `to_rgb` refuses.
    """
    try:
        with warnings.catch_warnings():
            # Warnings of odd metadata, which pixels do not depend on, and of size, checked below.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise _too_large(f"{image.width}x{image.height}")
                is_jpeg = image.format in ("JPEG", "MPO")
                stored = (_decode_jpeg(data, image) if is_jpeg else None) or image
                stored.load()
                rgb = _in_rgb(stored)
                return _upright(rgb, image) if upright else rgb
    except UnidentifiedImageError as error:
        raise RefusedImage("is no image of a known format, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise _too_large("it has more than twice that") from error
    except (RefusedImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise RefusedImage(printable(f"is damaged: {error or type(error).__name__}")) from error


def _decode_jpeg(data: bytes, header: Image.Image) -> Image.Image | None:
    """The picture of a JPEG as it is stored, or None if only Pillow can decode it.

    `header` is what Pillow has read of it. The pixels are those that Pillow makes, bit for bit.
    Raises RefusedImage if libjpeg-turbo warns: it then guesses pixels, and Pillow is silent. A
    JPEG has no checksum, so damage that keeps its codes in step cannot be seen.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return None  # a rare subsampling, which Pillow's decoder knows and this one does not
    if (width, height) != header.size:  # only the size that Pillow read has been checked
        raise RefusedImage("is damaged: its header gives two sizes")
    space = {"RGB": "RGB", "L": "GRAY"}.get(header.mode)
    try:
        if space is None:
            # CMYK: Pillow knows whether it is inverted. An eighth of each side is decoded here, so
            # that all codes are read and few pixels made.
            space = "CMYK" if colors == "CMYK" else "GRAY"
            simplejpeg.decode_jpeg(data, space, min_height=1, min_width=1)
            return None
        pixels_HWC = simplejpeg.decode_jpeg(data, space)
    except ValueError as error:
        raise RefusedImage(printable(f"is damaged inside: {error}")) from error
    return Image.fromarray(pixels_HWC if space == "RGB" else pixels_HWC[..., 0])


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def refuse_bytes(size: int) -> None:
    """Raises RefusedImage for a file of more bytes than the largest image has."""
    if size > MOST_BYTES:
        raise RefusedImage(f"must not have more than {MOST_BYTES:,} bytes: {size:,}")


def _too_large(size: str) -> RefusedImage:
    return RefusedImage(f"must not have more than {MOST_PIXELS:,} pixels: {size}; scale it down")


def to_rgb(image: Image.Image) -> Image.Image:
    """The same picture in mode RGB, turned upright as its EXIF data say.

    Transparent pixels are laid over white. 16-bit grey is scaled by 1/257 and rounded. 32-bit
    integers count as 16-bit if one exceeds 255 or the format says so, otherwise as 8-bit. Colour
    profiles are not applied. Raises RefusedImage for floating-point pixels, which have no range,
    and for integers outside 0..65535.
    """
    return _upright(_in_rgb(image), image)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise RefusedImage("has floating-point pixels, which have no range; convert it to 16 bits")
    if image.mode.startswith("I"):
        image = _from_integers(image)
    elif image.mode == "La":  # Pillow converts this mode only to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """The image turned as the EXIF data of the file that it comes from say."""
    turn = _UPRIGHT.get(source.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _from_integers(image: Image.Image) -> Image.Image:
    """8-bit grey of modes I (32-bit signed) and I;16 in either byte order."""
    values_HW = np.asarray(image).astype(np.int64)
    least, most = int(values_HW.min()), int(values_HW.max())
    if least < 0 or most > 65535:
        raise RefusedImage(f"has pixels outside 0..65535: {least}..{most}")
    # Pillow scales a PGM of more than 8 bits to 16.
    is_16_bit = image.mode != "I" or image.format == "PPM" or most > 255
    grey_HW = (values_HW + 128) // 257 if is_16_bit else values_HW
    return Image.fromarray(grey_HW.astype(np.uint8))


def scale_and_crop(image: Image.Image, resolution: int, resize: Filter) -> Image.Image:
    """[R, R]: the short side scaled to `resolution`, and the centre of the long one.

    The published data pipeline's torchvision.transforms.Resize and CenterCrop, to the pixel. Raises
    RefusedImage for a shape so long that it would have more than 89,478,485 pixels on the way.
    """
    width, height = image.size
    short = min(width, height)
    if short != resolution:
        size = (resolution * width // short, resolution * height // short)
        if size[0] * size[1] > MOST_PIXELS:
            raise RefusedImage(f"is too long to be scaled to {resolution}: {width}x{height}")
        image = image.resize(size, _RESAMPLING[resize])
    left, top = (round((side - resolution) / 2) for side in image.size)
    return image.crop((left, top, left + resolution, top + resolution))
