"""The paper that faces are drawn on, and the outlines that they are drawn with.

The frame spans -1..1, x to the right and y down. A soft colour is a coarse grid of RGB values,
0..255, that is enlarged smoothly.

Legend: R resolution, N points of an outline.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from stylenat.data._face_parts import RGB, Face

_FIELD = 24  # points to the side of a soft colour

CIRCLE_N2 = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))], axis=1
)
SIDE_N = np.linspace(-1.0, 1.0, 25)  # from one end of a feature to the other


class Canvas:
    """A square that takes outlines in the head's coordinates, or in the frame's.

    It has `dots_per_pixel` dots to the side of a pixel; `pixels` averages them down.
    """

    def __init__(self, face: Face, resolution: int, dots_per_pixel: int) -> None:
        self.resolution, self.dots_per_pixel = resolution, dots_per_pixel
        self.size = resolution * dots_per_pixel
        cos, sin = np.cos(face.tilt) * face.scale, np.sin(face.tilt) * face.scale
        self.rotation = np.array([[cos, sin], [-sin, cos]])
        self.shift = np.array(face.shift)
        first, second = (np.array(colour) for colour in face.background)
        grid_x, grid_y = _grid()
        slope = np.cos(face.background_angle) * grid_x + np.sin(face.background_angle) * grid_y
        share = np.clip(0.5 + 0.4 * slope, 0, 1)[..., None]
        self.image = self._enlarge(first + share * (second - first))
        self.pen = ImageDraw.Draw(self.image)

    def pixels(self) -> np.ndarray:
        """uint8 [R, R, 3], 0..255."""
        return np.array(self.image.reduce(self.dots_per_pixel))

    def head_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The head's coordinates at the points of a soft colour."""
        frame = np.stack(_grid(), axis=-1) - self.shift
        head = frame @ np.linalg.inv(self.rotation)
        return head[..., 0], head[..., 1]

    def fill(self, outline_N2: np.ndarray, colour: RGB) -> None:
        """A flat shape on the head."""
        self._polygon(self.pen, outline_N2 @ self.rotation + self.shift, _dots(colour))

    def fill_frame(self, outline_N2: np.ndarray, colour: RGB) -> None:
        """A flat shape that does not tilt with the head."""
        self._polygon(self.pen, outline_N2 + self.shift * 0.7, _dots(colour))

    def fill_soft(self, outlines: list[np.ndarray], field: np.ndarray) -> None:
        """Shapes on the head that show a soft colour, [_FIELD, _FIELD, 3]."""
        mask = Image.new("L", (self.size, self.size))
        pen = ImageDraw.Draw(mask)
        for outline_N2 in outlines:
            self._polygon(pen, outline_N2 @ self.rotation + self.shift, 255)
        self.image.paste(self._enlarge(field), (0, 0), mask)

    def _polygon(
        self, pen: ImageDraw.ImageDraw, outline_N2: np.ndarray, fill: int | tuple[int, ...]
    ) -> None:
        dots = np.rint((outline_N2 + 1) * (self.size / 2) - 0.5)
        pen.polygon(dots.ravel().tolist(), fill=fill)

    def _enlarge(self, field: np.ndarray) -> Image.Image:
        small = Image.fromarray(np.clip(field + 0.5, 0, 255).astype(np.uint8))
        pixels = small.resize((self.resolution, self.resolution), Image.Resampling.BICUBIC)
        # A soft colour does not change within a pixel, so that its dots need no interpolation.
        return pixels.resize((self.size, self.size), Image.Resampling.NEAREST)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return np.array([x, y]) + CIRCLE_N2 * [half_width, half_height]


def stroke(x_N: np.ndarray, y_N: np.ndarray, half_N: np.ndarray) -> np.ndarray:
    """A line through the points (x, y), `half` thick to either side of it."""
    return np.stack(
        [np.concatenate([x_N, x_N[::-1]]), np.concatenate([y_N - half_N, (y_N + half_N)[::-1]])],
        axis=1,
    )


def spot(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.exp(-(x**2 + y**2) / radius**2)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(_FIELD) + 0.5) * (2 / _FIELD) - 1
    x, y = np.meshgrid(line, line)
    return x, y


def _dots(colour: RGB) -> tuple[int, int, int]:
    r, g, b = (min(max(round(value), 0), 255) for value in colour)
    return (r, g, b)
