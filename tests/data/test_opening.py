"""What `open_images` makes of a path: faces, sizes, subsets, and its refusals."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
from PIL import Image

from stylenat.data import draw_face, open_images
from stylenat.data.source import hashed
from tests.data.writers import (
    contents,
    encoded,
    numbered_zip,
    pixels,
    png,
    write_folder,
    write_lmdb,
    write_zip,
)


def test_the_fingerprint_of_faces_stays_until_they_are_drawn_otherwise():
    """Runs and caches know their data by it: DRAWING_VERSION, and not the source, is part of it."""
    source = open_images("faces:3", resolution=16, seed=5)
    assert source.fingerprint() == hashed("faces", 3, 16, 5, 1)


def test_faces_are_drawn_as_they_are_read():
    source = open_images("faces:3", resolution=16, seed=5)
    assert (len(source), source.describe()) == (3, "faces:3: 3 images, 16x16")
    assert np.array_equal(source.read(2), draw_face(2, 16, seed=5))
    others = [("faces:4", 16, 5), ("faces:3", 8, 5), ("faces:3", 16, 6)]
    prints = {open_images(p, resolution=r, seed=s).fingerprint() for p, r, s in others}
    assert len(prints | {source.fingerprint()}) == 4


@pytest.mark.parametrize(
    "path",
    ["faces:0", "faces:abc", "faces:", "faces:-3", "faces:1_0", "faces:²", "faces:" + "9" * 5000],
)
def test_faces_need_a_whole_number(path):
    with pytest.raises(
        ValueError, match="faces:N needs a whole number of faces from 1 to 100,000,000: faces:"
    ):
        open_images(path, resolution=16)


def test_faces_need_a_resolution_that_can_be_drawn():
    with pytest.raises(ValueError, match="faces:3 has no size of its own; give a resolution"):
        open_images("faces:3")
    with pytest.raises(ValueError, match=r"resolution must lie in 4\.\.1024: 2048"):
        open_images("faces:3", resolution=2048)


def test_every_image_must_have_the_resolution(tmp_path):
    path = write_folder(tmp_path, {"1.png": png(1, 8, 8), "2.png": png(2, 8, 9)})
    source = open_images(path, resolution=8)
    assert (source.resolution, source.describe()) == (8, f"{tmp_path.name}: 2 images, 8x8")
    with pytest.raises(ValueError, match=rf"^{path}/2\.png must be 8x8: it is 9x8; ") as caught:
        source.read(1)
    ways_out = f"run `stylenat prepare {path} DEST.zip --resolution 8`, or .*data.resize=bilinear"
    assert caught.match(ways_out)
    with pytest.raises(ValueError, match=r"1\.png must be 16x16: it is 8x8"):
        open_images(path, resolution=16)


def test_without_a_resolution_images_keep_their_size(tmp_path):
    path = write_folder(tmp_path, {"1.png": png(1, 8, 8), "2.png": png(2, 8, 9)})
    source = open_images(path)
    assert source.resolution is None
    assert [source.read(i).shape for i in (0, 1)] == [(8, 8, 3), (8, 9, 3)]


def test_damaged_images_are_passed_over_where_any_other_would_do(tmp_path):
    files = dict.fromkeys(("a.png", "b.png", "d.png"), b"no image") | {"c.png": png(0)}
    source = open_images(write_folder(tmp_path / "x", files))
    assert [source.readable(index) for index in range(4)] == [2, 2, 2, 2]


def test_where_all_images_are_damaged_the_first_is_named(tmp_path):
    path = write_folder(tmp_path / "x", dict.fromkeys(("a.png", "b.png"), b"no image"))
    with pytest.raises(ValueError, match=rf"^{path}/a\.png is no image"):
        open_images(path)


def test_resize_scales_and_crops_each_image(tmp_path):
    path = write_folder(tmp_path, {"1.png": png(1, 8, 8), "2.png": png(2, 12, 8)})
    source = open_images(path, resolution=8, resize="bilinear")
    assert np.array_equal(source.read(0), pixels(1, 8, 8))
    assert np.array_equal(source.read(1), pixels(2, 12, 8)[2:10])
    assert source.describe() == f"{tmp_path.name}: 2 images, 8x8 (bilinear)"
    prints = {open_images(path, resolution=8, resize=f).fingerprint() for f in ("box", "lanczos")}
    assert len(prints | {source.fingerprint(), open_images(path).fingerprint()}) == 4


def test_a_subset_is_random_seeded_and_in_order(tmp_path):
    path = numbered_zip(tmp_path / "x.zip", 30)
    labels = [[f"{i // 2:05d}/img{i:08d}.png", i] for i in range(30)]
    write_zip(tmp_path / "x.zip", {name: png(i) for name, i in labels}, labels)
    chosen = {}
    for seed in (0, 0, 1):
        source = open_images(path, max_images=10, seed=seed)
        indices = [source.label(i) for i in range(10)]
        assert indices == sorted(set(indices))
        assert contents(source) == {labels[i][0]: pixels(i).tobytes() for i in indices}
        assert chosen.setdefault(seed, indices) == indices
    assert chosen[0] != chosen[1]
    assert chosen[0] != list(range(10))
    assert source.describe() == "x.zip: 10 of 30 images"
    whole = open_images(path)
    assert open_images(path, max_images=30).fingerprint() == whole.fingerprint()
    assert source.fingerprint() != open_images(path, max_images=10).fingerprint()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 0}, "resolution must be positive: 0"),
        ({"max_images": 0}, "max_images must be positive: 0"),
        ({"seed": -1}, "seed must not be negative: -1"),
        (
            {"resolution": 8, "resize": "cubic"},
            "resize must be one of bilinear, lanczos, box: cubic",
        ),
        ({"resize": "box"}, "resize=box needs a resolution to scale to"),
    ],
)
def test_values_without_meaning_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        open_images("faces:3", **options)


@pytest.mark.usefixtures("cache")
def test_every_source_can_be_pickled_after_it_was_read(tmp_path):
    paths = [
        write_folder(tmp_path / "folder", {"1.png": png(1)}),
        numbered_zip(tmp_path / "x.zip", 2),
        write_lmdb(tmp_path / "lsun", {b"\0\xff\0": png(3)}),
    ]
    for path in paths:
        source = open_images(path, resolution=8)
        copy = pickle.loads(pickle.dumps(source))
        assert np.array_equal(copy.read(0), source.read(0))
        assert copy.fingerprint() == source.fingerprint()


def test_odd_metadata_makes_no_noise(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05junk"  # five entries, and no room for one
    data = encoded(pixels(0), "JPEG", exif=exif)
    with pytest.warns(UserWarning):  # noqa: PT030 (Pillow's words)
        Image.open(io.BytesIO(data)).getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_images(write_folder(tmp_path, {"1.jpg": data})).read(0)
