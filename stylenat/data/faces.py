"""Drawn faces: an endless data set that needs no download.

A face is a pure function of its seed and index. Its parts are drawn in an artist's order, from the
back to the front, several dots to the side of a pixel, and averaged down.

Legend: R resolution, N points of an outline.
"""

from __future__ import annotations

import numpy as np

from stylenat.data._face_canvas import CIRCLE_N2, SIDE_N, Canvas, ellipse, spot, stroke
from stylenat.data._face_parts import BALD, RGB, Face, mix, sample_face

MIN_RESOLUTION, MAX_RESOLUTION = 4, 1024
# Part of the fingerprint of drawn faces: raise this number whenever a pixel of a face changes.
DRAWING_VERSION = 1
_CANVAS = 256  # dots to a side, at least; few enough for hundreds of faces a second
_INK: RGB = (44, 30, 32)


def what_is_drawn(index: int, *, seed: int = 0) -> Face:
    """What face number `index` of a series looks like: its hair's colour, its glasses, and so on.

    Raises ValueError for a negative index or seed.
    """
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must not be negative: {value}")
    return sample_face(np.random.default_rng([seed, index]))


def draw_face(index: int, resolution: int, *, seed: int = 0) -> np.ndarray:
    """Face number `index` of the endless series `seed`: uint8 [R, R, 3], RGB, 0..255.

    The pixels are the same in any process and order, and on any machine with the same numpy and
    Pillow. Another resolution shows the same face. Raises ValueError for a negative index or seed,
    and for a resolution outside 4..1024.
    """
    face = what_is_drawn(index, seed=seed)
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution must lie in {MIN_RESOLUTION}..{MAX_RESOLUTION}: {resolution}")
    dots_per_pixel = max(2, -(-_CANVAS // resolution))
    canvas = Canvas(face, resolution, dots_per_pixel)
    _paint(canvas, face)
    return canvas.pixels()


def _paint(canvas: Canvas, face: Face) -> None:
    hair = _hair_field(canvas, face)
    _hair_behind(canvas, face, hair)
    _body(canvas, face)
    _head(canvas, face)
    _beard(canvas, face, hair)
    for side in (-1.0, 1.0):
        _eye(canvas, face, side)
        _brow(canvas, face, side)
    _nose(canvas, face)
    _mouth(canvas, face)
    if face.glasses is not None:
        _glasses(canvas, face, face.glasses)
    _hair_before(canvas, face, hair)


# --- Head ----------------------------------------------------------------------------------------


def _body(canvas: Canvas, face: Face) -> None:
    neck, skin = 0.66 * face.width, mix(face.skin, (70, 20, 30), 0.16)
    canvas.fill_frame(np.array([[-neck, 0.3], [neck, 0.3], [neck, 1.3], [-neck, 1.3]]), skin)
    under_chin = np.stack([neck * SIDE_N, 0.70 + 0.14 * (1 - SIDE_N**2)], axis=1)
    under_chin = np.concatenate([[[-neck, 0.3]], under_chin, [[neck, 0.3]]])
    canvas.fill_frame(under_chin, mix(face.skin, (70, 20, 30), 0.34))
    shoulders = np.stack([1.1 * SIDE_N, 1.3 - 0.46 * (1 - SIDE_N**4)], axis=1)
    canvas.fill_frame(shoulders, face.clothes)
    throat = np.array([[-neck, 0.8], [neck, 0.8], [0, 0.98 if face.collar == "shirt" else 1.06]])
    canvas.fill_frame(ellipse(0, 0.82, neck, 0.1) if face.collar == "crew" else throat, skin)
    if face.collar == "shirt":
        for side in (-1, 1):
            flap = np.array([[side * neck, 0.76], [0, 0.97], [side * 0.26, 1.12]])
            canvas.fill_frame(flap, mix(face.clothes, (255, 255, 255), 0.8))


def _head(canvas: Canvas, face: Face) -> None:
    ear = mix(face.skin, (150, 50, 50), 0.2)
    for side in (-1, 1):
        canvas.fill(ellipse(side * face.width, 0.08, 0.085, 0.13), mix(face.skin, ear, 0.5))
        canvas.fill(ellipse(side * face.width * 1.02, 0.08, 0.045, 0.08), ear)
    canvas.fill_soft([_head_outline(face)], _skin_field(canvas, face))


def _head_outline(face: Face, grow: float = 0.0) -> np.ndarray:
    """An egg; below the ears its sides draw in by `jaw`."""
    x, y = CIRCLE_N2[:, 0], CIRCLE_N2[:, 1]
    narrow = 1 - face.jaw * np.maximum(y, 0) ** 2
    x = np.sign(x) * np.abs(x) ** 0.86
    return np.stack([(face.width + grow) * x * narrow, (face.height + grow) * y], axis=1)


def _skin_field(canvas: Canvas, face: Face) -> np.ndarray:
    """Skin under a light from one side, with its shadows, highlights and blush."""
    x, y = canvas.head_grid()
    round_off = (x / face.width) ** 2 + (y / face.height) ** 2
    shade = face.contrast * (face.light[0] * x + face.light[1] * y) - 0.08 * round_off + 0.05
    for side in (-1, 1):
        shade -= 0.10 * spot(x - side * face.eye_gap - face.yaw, y + 0.04, 0.15)
    shade += 0.08 * spot(x - 1.3 * face.yaw, y - 0.13, 0.10)
    tint = 1 + face.warmth * np.array([1.0, 0.1, -1.0])
    field = np.array(face.skin) * tint * (1 + shade[..., None] * np.array([0.8, 1.0, 1.1]))
    for side in (-1, 1):
        cheek = face.blush * spot(x - 1.45 * side * face.eye_gap - face.yaw, y - 0.23, 0.13)
        field += cheek[..., None] * (np.array([228, 92, 96]) - field)
    return field


def _turn(face: Face, outline_N2: np.ndarray) -> np.ndarray:
    """Moves an outline as turning the head would: most at the middle."""
    x, y = outline_N2[:, 0], outline_N2[:, 1]
    depth = np.maximum(1 - (x / (1.2 * face.width)) ** 2, 0)
    return np.stack([x + face.yaw * depth, y], axis=1)


# --- Features ------------------------------------------------------------------------------------


def _eye(canvas: Canvas, face: Face, side: float) -> None:
    width, height = face.eye_size, face.eye_size * face.eye_open
    middle = side * face.eye_gap
    arch_N = 1 - np.abs(SIDE_N) ** 2.4

    def between(upper: float, lower: float, grow: float) -> np.ndarray:
        x = middle + SIDE_N * (width + grow)
        return np.concatenate(
            [
                np.stack([x, -(height + upper) * arch_N], axis=1),
                np.stack([x, (0.75 * height + lower) * arch_N], axis=1)[::-1],
            ]
        )

    socket = mix(face.skin, (120, 50, 50), 0.3)
    canvas.fill(_turn(face, between(0.0, 0.014, 0.012)), socket)
    canvas.fill(_turn(face, between(0.0, 0.0, 0.0)), (250, 248, 244))
    iris_x = middle + face.gaze * width * 0.5
    for radius, colour in ((1.02 * height, face.iris), (0.56 * height, (16, 12, 14))):
        disc = ellipse(iris_x, -0.12 * height, radius, radius)
        arch = 1 - np.minimum(np.abs((disc[:, 0] - middle) / width), 1) ** 2.4
        disc[:, 1] = np.clip(disc[:, 1], -height * arch, 0.75 * height * arch)
        canvas.fill(_turn(face, disc), colour)
    lid, corner = (0.05, 0.024) if face.lashes else (0.034, 0.014)
    canvas.fill(_turn(face, between(lid, -1.75 * height, corner)), _INK)
    glint = ellipse(iris_x + 0.032 * np.sign(face.light[0]), -0.45 * height, 0.026, 0.026)
    canvas.fill(_turn(face, glint), (255, 255, 255))


def _brow(canvas: Canvas, face: Face, side: float) -> None:
    x = side * (face.eye_gap + 1.15 * face.eye_size * SIDE_N)
    y = -0.20 + face.brow_tilt * SIDE_N - 0.04 * (1 - SIDE_N**2)
    half = face.brow_weight * (1 - 0.45 * np.abs(SIDE_N) ** 3)
    canvas.fill(_turn(face, stroke(x, y, half)), mix(mix(face.hair, _INK, 0.35), face.skin, 0.1))


def _nose(canvas: Canvas, face: Face) -> None:
    shadow = mix(face.skin, (130, 40, 40), 0.36)
    light = mix(face.skin, (255, 240, 225), 0.12)
    x = 0.5 * face.yaw
    canvas.fill(_turn(face, ellipse(x, 0.215, face.nose, 0.055)), shadow)
    canvas.fill(_turn(face, ellipse(x, 0.185, face.nose * 0.82, 0.055)), light)


def _mouth(canvas: Canvas, face: Face) -> None:
    """Lips between two curves; an open mouth shows its teeth."""
    level, half = 0.41, face.mouth_width
    bend = face.smile * SIDE_N**2
    arch = 1 - np.abs(SIDE_N) ** 2.6

    def between(upper: float, lower: float, share: float = 1.0) -> np.ndarray:
        x = SIDE_N * half * share
        top = level - bend - upper * arch
        bottom = level - bend + lower * arch
        return np.concatenate([np.stack([x, top], axis=1), np.stack([x, bottom], axis=1)[::-1]])

    opening = face.mouth_open
    canvas.fill(_turn(face, between(0.045, 0.055 + opening)), face.lips)
    if opening:
        canvas.fill(_turn(face, between(0.005, opening + 0.01, 0.88)), (110, 26, 38))
        canvas.fill(_turn(face, between(0.005, 0.55 * opening, 0.84)), (252, 250, 246))
    else:
        canvas.fill(_turn(face, between(0.004, 0.014)), mix(face.lips, _INK, 0.65))


def _beard(canvas: Canvas, face: Face, hair: np.ndarray) -> None:
    if face.beard == "moustache":
        middle = 0.325 + 0.05 * np.abs(SIDE_N) ** 1.5 - 0.7 * face.smile * SIDE_N**2
        half = 0.055 * (1 - np.abs(SIDE_N) ** 3)
        canvas.fill_soft(
            [_turn(face, stroke(1.05 * face.mouth_width * SIDE_N, middle, half))], hair
        )
    elif face.beard != "none":
        full = face.beard == "full"
        jaw = _head_outline(face, 0.025 if full else 0.0)
        jaw = jaw[jaw[:, 1] >= 0.0]
        edge_N = np.abs(SIDE_N)
        cheek = 0.31 + 0.10 * np.sin(np.pi * edge_N) ** 2 - 0.34 * edge_N**8
        cheek_line = _turn(face, np.stack([0.97 * face.width * SIDE_N, cheek], axis=1))
        share = 1.0 if full else 0.3
        field = _skin_field(canvas, face)
        canvas.fill_soft([np.concatenate([jaw, cheek_line])], field + share * (hair - field))


def _glasses(canvas: Canvas, face: Face, colour: RGB) -> None:
    radius = face.eye_gap * 0.84
    for side in (-1, 1):
        ring = np.concatenate(
            [
                ellipse(side * face.eye_gap, 0.0, radius, radius * 0.92),
                ellipse(side * face.eye_gap, 0.0, radius - 0.035, radius * 0.92 - 0.035)[::-1],
            ]
        )
        canvas.fill(_turn(face, ring), colour)
        arm_x = np.array([face.eye_gap + radius - 0.02, face.width * 0.98]) * side
        arm = np.array([[arm_x[0], -0.05], [arm_x[1], -0.05], [arm_x[1], 0], [arm_x[0], -0.01]])
        canvas.fill(_turn(face, arm), colour)
    gap = face.eye_gap - radius + 0.02
    bridge = np.array([[-gap, -0.05], [gap, -0.05], [gap, -0.01], [-gap, -0.01]])
    canvas.fill(_turn(face, bridge), colour)


# --- Hair ----------------------------------------------------------------------------------------


def _hair_field(canvas: Canvas, face: Face) -> np.ndarray:
    """Hair colour with a band of shine over the crown."""
    x, y = canvas.head_grid()
    shade = 0.8 * face.contrast * (face.light[0] * x + face.light[1] * y)
    shine = np.exp(-(((y + 0.56 - 0.35 * x**2) / 0.09) ** 2)) * np.exp(
        -(((x - 0.2 * face.light[0]) / 0.35) ** 2)
    )
    colour = face.hair if face.hairstyle.volume > 0.05 else mix(face.hair, face.skin, 0.35)
    field = np.array(colour) * (0.95 + shade[..., None])
    return field + 0.22 * shine[..., None] * (255 - field)


def _crown(face: Face) -> np.ndarray:
    """The outer outline of the hair, from the right over the top to the left."""
    style = face.hairstyle
    angle = np.linspace(0.15, np.pi - 0.15, 65)
    curls = 1 + style.curl * np.abs(np.sin(5 * angle))
    x = (face.width + 0.75 * style.volume) * curls * np.cos(angle)
    y = -(face.height + style.volume) * curls * np.sin(angle)
    return np.stack([x, y], axis=1)


def _hair_behind(canvas: Canvas, face: Face, field: np.ndarray) -> None:
    style, shadow = face.hairstyle, mix(face.hair, (20, 10, 20), 0.35)
    side = -1 if face.mirrored else 1
    if style.knot:
        canvas.fill(ellipse(0.0, -face.height - 0.07, 0.23, 0.2), face.hair)
    if style.tail:
        canvas.fill(ellipse(side * (face.width + 0.14), 0.2, 0.17, 0.5), shadow)
    if style.cloud:
        angle = np.linspace(0.0, 2 * np.pi, 97)
        radius = (face.width + style.volume) * (1 + style.curl * np.abs(np.sin(6.5 * angle)))
        edge = np.stack([radius * np.cos(angle), 1.12 * radius * np.sin(angle) - 0.12], axis=1)
        canvas.fill_soft([edge], field)
    if style.length:
        reach = face.width + 0.7 * style.volume
        foot = [[-reach, style.length], [reach, style.length]]
        canvas.fill(np.concatenate([_crown(face), foot]), shadow)


def _hair_before(canvas: Canvas, face: Face, field: np.ndarray) -> None:
    style = face.hairstyle
    if style == BALD:
        return
    u = -SIDE_N if face.mirrored else SIDE_N
    hairline = style.peak + style.drop * np.abs(u - style.part) ** style.power
    line = _turn(face, np.stack([0.82 * face.width * SIDE_N, hairline], axis=1))
    # Where yaw would carry the hairline off the head, the background would show.
    line[:, 0] = np.clip(line[:, 0], -0.84 * face.width, 0.84 * face.width)
    burn = np.array([[1.03, -0.02], [0.98, 0.06], [0.95, 0.10], [0.88, -0.04]]) * [face.width, 1]
    cap = np.concatenate([_crown(face), burn * [-1, 1], line, burn[::-1]])
    locks = [_lock(face) * [side, 1] for side in (-1, 1)] if style.length else []
    canvas.fill_soft([cap, *locks], field)


def _lock(face: Face) -> np.ndarray:
    """Hair that falls from the right temple, before ear and shoulder."""
    style = face.hairstyle
    t = np.linspace(0.0, 1.0, 33)
    y = -0.3 + t * (style.length + 0.3)
    bow = np.sqrt(1 - np.minimum(y / (face.height + style.volume), 0) ** 2)
    outer = (face.width + 0.75 * style.volume) * bow + 0.03 * t - 0.10 * t**12
    outer = outer + style.curl * np.abs(np.sin(9 * y)) * (y > 0)
    near = (0.92 - 0.10 * t) * face.width + 0.06 * t**12
    return np.concatenate([np.stack([outer, y], axis=1), np.stack([near, y], axis=1)[::-1]])
