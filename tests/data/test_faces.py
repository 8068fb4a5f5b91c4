"""Drawn faces: the same everywhere, and varied."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stylenat.data._face_parts import sample_face
from stylenat.data.faces import draw_face

# Corner, forehead, nose and collar of face 0: RGB of four cells of the 8x8 average.
FACE_ZERO = [[200, 144, 185], [157, 122, 100], [202, 170, 148], [224, 198, 191]]


def _digest(indices: list[int]) -> str:
    return hashlib.sha256(b"".join(draw_face(i, 16).tobytes() for i in indices)).hexdigest()


def _coarse(index: int, resolution: int) -> np.ndarray:
    """The face averaged to 8x8 cells: float [8, 8, 3], 0..255."""
    side = resolution // 8
    return draw_face(index, resolution).reshape(8, side, 8, side, 3).mean(axis=(1, 3))


def test_a_face_depends_on_neither_order_nor_thread() -> None:
    indices = list(range(12))
    forward = [draw_face(i, 16) for i in indices]
    backward = [draw_face(i, 16) for i in reversed(indices)][::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda i: draw_face(i, 16), indices))
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_array_equal(forward, threaded)


def test_another_process_draws_the_same_faces() -> None:
    code = (
        "import hashlib; from stylenat.data.faces import draw_face; "
        "print(hashlib.sha256(b''.join(draw_face(i, 16).tobytes() for i in [7, 3])).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == _digest([7, 3])


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    draw_face(0, 16)
    assert np.random.random() == expected


def test_no_two_of_the_first_faces_are_alike() -> None:
    faces = {draw_face(i, 16, seed=seed).tobytes() for seed in (0, 1) for i in range(50)}
    assert len(faces) == 100


@pytest.mark.parametrize("resolution", [4, 32, 64, 100, 256])
def test_a_face_is_a_square_of_8_bit_rgb(resolution: int) -> None:
    face_RR3 = draw_face(5, resolution)
    assert face_RR3.shape == (resolution, resolution, 3)
    assert face_RR3.dtype == np.uint8
    assert face_RR3.flags.c_contiguous
    assert int(face_RR3.max()) - int(face_RR3.min()) > 60


@pytest.mark.parametrize("resolution", [32, 128, 256])
def test_resolutions_show_the_same_face(resolution: int) -> None:
    same = np.mean([np.abs(_coarse(i, resolution) - _coarse(i, 64)).mean() for i in range(8)])
    other = np.mean([np.abs(_coarse(i, resolution) - _coarse(i + 1, 64)).mean() for i in range(8)])
    assert same < 1.5, f"the same face differs by {same:.2f} of 255"
    assert other > 10 * same, f"another face differs by {other:.2f}, the same one by {same:.2f}"


def test_colours_vary_in_every_part_of_the_picture() -> None:
    cells = np.stack([_coarse(i, 32) for i in range(200)])
    spread = cells.std(axis=0).mean(axis=2)
    assert spread.min() > 12, f"the least varied cell has a deviation of {spread.min():.1f}"


def test_backgrounds_lean_to_every_primary_colour() -> None:
    corners = np.stack([draw_face(i, 32)[0, 0] for i in range(200)])
    strongest = np.bincount(corners.argmax(axis=1), minlength=3)
    assert strongest.min() >= 20, f"red, green and blue lead in {strongest} of 200"


def test_every_kind_of_hair_beard_and_collar_appears() -> None:
    faces = [sample_face(np.random.default_rng([0, i])) for i in range(500)]
    assert len({face.hairstyle for face in faces}) == 14
    assert {face.beard for face in faces} == {"none", "full", "stubble", "moustache"}
    assert {face.collar for face in faces} == {"crew", "vee", "shirt"}
    assert 0.1 < np.mean([face.glasses is not None for face in faces]) < 0.25


def test_face_zero_stays_as_it_is() -> None:
    cells_43 = _coarse(0, 64)[[0, 2, 4, 7], [0, 3, 4, 5]]
    np.testing.assert_allclose(cells_43, FACE_ZERO, atol=2)


@pytest.mark.parametrize(
    ("index", "resolution", "seed", "message"),
    [
        (-1, 32, 0, "index must not be negative: -1"),
        (0, 32, -5, "seed must not be negative: -5"),
        (0, 3, 0, r"resolution must lie in 4\.\.1024: 3"),
        (0, 1025, 0, r"resolution must lie in 4\.\.1024: 1025"),
    ],
)
def test_an_argument_out_of_range_is_named(
    index: int, resolution: int, seed: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_face(index, resolution, seed=seed)
