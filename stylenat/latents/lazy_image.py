"""An image of many frames for Pillow, which makes each frame only when it is encoded.

Pillow turns `append_images` into a list, and so holds all frames at once. A file of many frames
is read one frame at a time instead: this image behaves like such a file.
Legend: H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def lazy_image(frames: Iterator[Tensor], count: int) -> Any:
    """A PIL image of `count` frames, uint8 [H, W, 3], each taken from the iterator once, in order.

    Its `seek` only notes the number of the frame; the pixels are made when they are asked for.
    """
    from PIL import Image

    class LazyImage(Image.Image):
        n_frames = count
        is_animated = count > 1

        def __init__(self) -> None:
            super().__init__()
            self.wanted = self.made = 0
            self._show(next(frames))

        def _show(self, frame_HW3: Tensor) -> None:
            picture = Image.fromarray(frame_HW3.numpy())
            self._mode, self._size, self.im = picture.mode, picture.size, picture.im

        def seek(self, frame: int) -> None:
            if frame >= count:
                raise EOFError(f"there are {count} frames")
            self.wanted = frame

        def tell(self) -> int:
            return self.wanted

        def load(self) -> Any:
            if self.wanted != self.made:
                assert self.wanted == self.made + 1, "frames are made in order"
                self.made += 1
                self._show(next(frames))
            return super().load()

    return LazyImage()
