"""What a drawn face is made of: palettes, hairstyles, and the draw of one face's parts.

The frame spans -1..1, x to the right and y down; lengths are in that unit and angles in radians.
Colours are RGB, 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

RGB = tuple[float, float, float]
T = TypeVar("T")

SKIN: list[RGB] = [  # light to dark; a face's tone lies between two neighbours
    (253, 224, 203), (244, 203, 171), (231, 178, 138), (206, 146, 103), (163, 106, 71),
    (116, 74, 52),
]  # fmt: skip
IRIS: list[RGB] = [(88, 52, 30), (58, 36, 26), (122, 92, 44), (72, 128, 78), (62, 124, 188)]
DARK_HAIR: list[RGB] = [(38, 31, 34), (66, 42, 32), (98, 60, 38), (60, 46, 50)]
LIGHT_HAIR: list[RGB] = [(142, 78, 42), (190, 88, 40), (226, 182, 98), (244, 216, 150)]
AGED_HAIR: list[RGB] = [(168, 168, 174), (226, 226, 230)]
GLASSES: list[RGB] = [(40, 40, 46), (120, 62, 40), (170, 50, 60)]
CLOTHES: list[RGB] = [
    (46, 62, 104), (34, 122, 128), (226, 98, 84), (232, 176, 62), (238, 228, 208), (132, 40, 66),
    (58, 106, 74), (150, 122, 190), (84, 146, 206), (66, 68, 78),
]  # fmt: skip
BACKDROP: list[RGB] = [  # a wheel of hues: coral, apricot, butter, leaf, mint, sky, iris, orchid
    (240, 146, 128), (250, 192, 132), (248, 220, 140), (178, 210, 138), (132, 208, 180),
    (136, 196, 232), (150, 162, 228), (206, 158, 218), (240, 146, 128),
]  # fmt: skip
DYED_HAIR: list[RGB] = [(236, 112, 160), (72, 120, 216), (48, 170, 164), (146, 88, 196)]
BEARDS = ["none", "none", "full", "stubble", "moustache"]
COLLARS = ["crew", "vee", "shirt"]


@dataclass(frozen=True)
class Hairstyle:
    """The outline of a head of hair.

    `volume` lies between skull and hair. The hairline is `peak + drop * |u - part|^power`, where u
    runs from -1 at one temple to 1 at the other. `length` is the y at which the hair ends: below
    the ears it also falls behind the head, and in two locks before it. `curl` is the depth of the
    curls on the outline; `cloud` is round hair behind the ears, `knot` a bun on the crown, `tail` a
    ponytail at one side.
    """

    volume: float
    peak: float
    drop: float
    part: float = 0.0
    power: float = 2.0
    length: float = 0.0
    curl: float = 0.0
    cloud: bool = False
    knot: bool = False
    tail: bool = False


BALD = Hairstyle(volume=0.0, peak=-1.0, drop=0.0)
SHORT = [
    Hairstyle(volume=0.10, peak=-0.40, drop=0.10, power=4.0),
    Hairstyle(volume=0.14, peak=-0.46, drop=0.18, part=-0.6, power=1.3),
    Hairstyle(volume=0.11, peak=-0.29, drop=0.06),
    Hairstyle(volume=0.14, peak=-0.36, drop=0.08, curl=0.07),
    Hairstyle(volume=0.02, peak=-0.42, drop=0.16, power=4.0),
    BALD,
]
LONG = [
    Hairstyle(volume=0.11, peak=-0.48, drop=0.36, power=1.2, length=1.1),
    Hairstyle(volume=0.12, peak=-0.46, drop=0.24, part=-0.55, power=1.2, length=1.1),
    Hairstyle(volume=0.13, peak=-0.44, drop=0.30, part=0.3, power=1.2, length=0.9, curl=0.06),
    Hairstyle(volume=0.12, peak=-0.28, drop=0.06, length=0.5),
    Hairstyle(volume=0.12, peak=-0.46, drop=0.25, part=0.55, power=1.2, length=0.5),
    Hairstyle(volume=0.20, peak=-0.40, drop=0.12, curl=0.06, cloud=True),
    Hairstyle(volume=0.08, peak=-0.44, drop=0.20, power=2.5, knot=True),
    Hairstyle(volume=0.09, peak=-0.44, drop=0.22, part=0.6, power=1.2, tail=True),
]


@dataclass(frozen=True)
class Face:
    """Everything that tells one drawn face from another."""

    # Pose: the head's shift, scale and tilt in the frame; yaw moves the features over the head.
    shift: tuple[float, float]
    scale: float
    tilt: float
    yaw: float
    # Light: the direction that it comes from, its strength, its warmth.
    light: tuple[float, float]
    contrast: float
    warmth: float
    # The head
    skin: RGB
    width: float
    height: float
    jaw: float
    blush: float
    # Features
    iris: RGB
    eye_size: float
    eye_gap: float
    eye_open: float
    gaze: float
    lashes: bool
    brow_tilt: float
    brow_weight: float
    nose: float
    lips: RGB
    mouth_width: float
    smile: float
    mouth_open: float
    # Hair
    hairstyle: Hairstyle
    mirrored: bool
    hair: RGB
    beard: str
    # What is worn, and what lies behind
    glasses: RGB | None
    clothes: RGB
    collar: str
    background: tuple[RGB, RGB]
    background_angle: float


def sample_face(rng: np.random.Generator) -> Face:
    """A face drawn from `rng`. Only uniform numbers are used: they are the same on all machines."""
    feminine = rng.random() < 0.5
    tone = rng.random()
    skin = _along(SKIN, tone)
    long_haired = feminine != (rng.random() < 0.08)
    smile = rng.uniform(0.02, 0.12)
    return Face(
        shift=(rng.uniform(-0.05, 0.05), rng.uniform(0.01, 0.08)),
        scale=rng.uniform(1.04, 1.16),
        tilt=rng.uniform(-0.12, 0.12),
        yaw=rng.uniform(-0.08, 0.08),
        light=(_pick(rng, [-1.0, 1.0]) * rng.uniform(0.4, 1.0), rng.uniform(-0.9, -0.2)),
        contrast=rng.uniform(0.10, 0.24),
        warmth=rng.uniform(-0.04, 0.06),
        skin=skin,
        width=rng.uniform(0.49, 0.56),
        height=rng.uniform(0.62, 0.69),
        jaw=rng.uniform(0.04, 0.16) if feminine else rng.uniform(-0.06, 0.10),
        blush=rng.uniform(0.15, 0.45) if feminine else rng.uniform(0.05, 0.3),
        iris=_pick(rng, IRIS[:2] if tone > 0.6 else IRIS),
        eye_size=rng.uniform(0.125, 0.155),
        eye_gap=rng.uniform(0.205, 0.235),
        eye_open=rng.uniform(0.62, 0.78),
        gaze=rng.uniform(-0.3, 0.3),
        lashes=feminine,
        brow_tilt=rng.uniform(-0.01, 0.04),
        brow_weight=rng.uniform(0.022, 0.032) if feminine else rng.uniform(0.030, 0.046),
        nose=rng.uniform(0.075, 0.105),
        lips=_lip_colour(rng, skin, feminine),
        mouth_width=rng.uniform(0.165, 0.215),
        smile=smile,
        mouth_open=rng.uniform(0.05, 0.11) if smile > 0.05 and rng.random() < 0.7 else 0.0,
        hairstyle=_pick(rng, LONG if long_haired else SHORT),
        mirrored=bool(rng.random() < 0.5),
        hair=_hair_colour(rng, tone, feminine),
        beard="none" if feminine else _pick(rng, BEARDS),
        glasses=_pick(rng, GLASSES) if rng.random() < 0.16 else None,
        clothes=_pick(rng, CLOTHES),
        collar=_pick(rng, COLLARS),
        background=_background(rng),
        background_angle=rng.uniform(0.0, 2 * np.pi),
    )


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`share` 0 is the first colour, 1 the second."""
    r, g, b = (one + share * (two - one) for one, two in zip(first, second, strict=True))
    return (r, g, b)


def _along(colours: list[RGB], position: float) -> RGB:
    """The colour at `position`, 0..1, of the line through `colours`."""
    place = position * (len(colours) - 1)
    left = min(int(place), len(colours) - 2)
    return mix(colours[left], colours[left + 1], place - left)


def _pick(rng: np.random.Generator, choices: list[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _hair_colour(rng: np.random.Generator, tone: float, feminine: bool) -> RGB:
    """Mostly dark on dark skin, anything on light skin; some of it aged or dyed."""
    kind = rng.random()
    if kind < 0.07 and feminine:
        return _pick(rng, DYED_HAIR)
    if kind < 0.15:
        return _pick(rng, AGED_HAIR)
    light = _pick(rng, LIGHT_HAIR)
    dark = _along(DARK_HAIR, rng.random())
    return light if kind > 0.45 + 0.7 * tone else dark


def _lip_colour(rng: np.random.Generator, skin: RGB, feminine: bool) -> RGB:
    paint = _pick(rng, [(200, 44, 70), (214, 84, 104), (176, 48, 82)])
    return mix(skin, paint, rng.uniform(0.6, 0.95) if feminine else rng.uniform(0.3, 0.45))


def _background(rng: np.random.Generator) -> tuple[RGB, RGB]:
    """Two neighbouring hues: the first paler, the second deeper."""
    hue, step = rng.random(), rng.uniform(-0.08, 0.08)
    pale = mix(_along(BACKDROP, hue), (255, 255, 255), rng.uniform(0.1, 0.45))
    deep = mix(_along(BACKDROP, (hue + step) % 1), (70, 50, 130), rng.uniform(0.05, 0.25))
    return pale, deep
