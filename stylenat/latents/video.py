"""Frames -> a film: WebP and AVIF by Pillow, MP4 by PyAV. Frames are made one at a time.

Legend: H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from stylenat.extras import require
from stylenat.files import replacing, user_path
from stylenat.latents.lazy_image import lazy_image

MOST_FPS = 1000  # WebP and AVIF count in milliseconds


def check_film(path: Path) -> None:
    """Raises ValueError unless the name says a format, and its package is installed."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"the name of a film must end in {', '.join(WRITERS)}: {path}")
    if suffix == ".mp4":
        require("a film as MP4", "av", extra="film", otherwise="name it .webp or .avif")


def parse_fps(text: str) -> Fraction:
    """`30`, `29.97` or `30000/1001` frames a second. Raises ValueError unless 0 < fps <= 1000."""
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if not 0 < fps <= MOST_FPS:
        raise ValueError(f"--fps must be a number above 0, at most {MOST_FPS}, such as 30: {text}")
    # Containers store numerator and denominator in few bits.
    return fps.limit_denominator(1001)


def save_film(
    frames: Iterator[Tensor], path: str | Path, *, count: int, fps: Fraction, quality: int
) -> None:
    """Write `count` frames, uint8 [H, W, 3], as a film that the name's end says.

    A frame is asked for when the one before has been encoded, so that memory does not grow with
    their number, but for what the encoder keeps. WebP and AVIF repeat for ever. `quality` is 0 to
    100. `path` is replaced atomically. Raises ValueError as `check_film` does.
    """
    path = user_path(path)
    check_film(path)
    with replacing(path) as temporary:
        WRITERS[path.suffix.lower()](frames, temporary, count, fps, quality)


def _save_by_pillow(format_: str, **options: Any) -> Callable[..., None]:
    def save(frames: Iterator[Tensor], path: Path, count: int, fps: Fraction, quality: int) -> None:
        # Rounded times, not rounded durations: the film does not drift from its frame rate.
        times = [round(1000 * frame / fps) for frame in range(count + 1)]
        durations = [end - start for start, end in pairwise(times)]
        lazy_image(frames, count).save(
            path,
            format=format_,
            save_all=True,
            duration=durations if count > 1 else durations[0],
            quality=quality,
            **options,
        )

    return save


def _save_mp4(
    frames: Iterator[Tensor], path: Path, count: int, fps: Fraction, quality: int
) -> None:
    """H.264 in 4:2:0, which every player shows. Quality 0 to 100 becomes x264's crf 51 to 0."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(round(51 * (1 - quality / 100)))}
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(next(frames).numpy(), format="rgb24")
            if index == 0:
                stream.width, stream.height = frame.width, frame.height
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


WRITERS: dict[str, Callable[..., None]] = {
    ".webp": _save_by_pillow("WEBP", loop=0, method=4),
    ".avif": _save_by_pillow("AVIF", speed=6),
    ".mp4": _save_mp4,
}
