"""`stylenat prepare --verify`: every kind of damage to a zip is found and named."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from stylenat.data.prepare import Settings, prepare
from stylenat.data.verify import verify
from tests.data.writers import png, write_zip


@pytest.fixture
def made(tmp_path) -> Path:
    prepare("faces:6", tmp_path / "x.zip", Settings(8), workers=0)
    return tmp_path / "x.zip"


def rewritten(path: Path, changes: dict[str, bytes | None]) -> str:
    """The same zip with other members, whose checksums are right; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **changes}.items():
            if content is not None:
                archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_whole_zip_passes(made, workers):
    found = verify(str(made), workers=workers)
    assert (found.images, found.width, found.height, found.labels) == (6, 8, 8, 0)


def test_other_zips_of_stylegan_pass_too(tmp_path):
    files = {"a.png": png(0, 8, 6), "b.png": png(1, 8, 6)}
    labelled = write_zip(tmp_path / "x.zip", files, [["a.png", 1], ["b.png", 2]])
    found = verify(labelled, workers=0)
    assert (found.images, found.width, found.height, found.labels) == (2, 6, 8, 2)


def test_every_flipped_byte_of_an_image_is_found(made):
    whole = made.read_bytes()
    start = whole.index(b"\x89PNG", 1)
    for spot in range(start, start + 60):
        made.write_bytes(whole[:spot] + bytes([whole[spot] ^ 4]) + whole[spot + 1 :])
        with pytest.raises(ValueError, match=r"1 fault: 00000/img00000000\.png is damaged within"):
            verify(str(made), workers=0)


def test_an_image_that_is_none_and_one_of_another_size_are_named(made):
    path = rewritten(
        made, {"00000/img00000001.png": b"text", "00000/img00000004.png": png(0, 8, 9)}
    )
    with pytest.raises(
        ValueError, match=r"x\.zip has 2 faults: 00000/img00000001\.png is no image of"
    ) as error:
        verify(path, workers=0)
    assert error.match(r"00000/img00000004\.png is 9x8, not 8x8$")


def test_all_images_of_another_size_than_noted_are_named(made):
    path = rewritten(made, {f"00000/img{i:08d}.png": png(i, 4, 4) for i in range(6)})
    with pytest.raises(ValueError, match=r"6 faults: .*00\.png is 4x4, not 8x8.* and 1 more$"):
        verify(path, workers=0)


def test_a_missing_image_is_noticed(made):
    path = rewritten(made, {"00000/img00000005.png": None})
    with pytest.raises(ValueError, match=r"dataset\.json counts 6 images, and there are 5$"):
        verify(path, workers=0)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", r"dataset\.json is malformed"),
        (b"[]", r"dataset\.json must hold an object"),
        (
            json.dumps({"labels": [["x.png", 1]]}).encode(),
            r"labels images that are not there: x\.png",
        ),
        (
            json.dumps({"labels": [["x.png", "cat"]]}).encode(),
            r"the label of x\.png in dataset\.json must be a class",
        ),
        (json.dumps({"labels": 5}).encode(), r"labels in dataset\.json must be"),
    ],
)
def test_a_faulty_index_is_named(made, content, fault):
    with pytest.raises(ValueError, match=rf"x\.zip has 1 fault: .*{fault}"):
        verify(rewritten(made, {"dataset.json": content}), workers=0)


def test_a_damaged_index_is_found_by_its_checksum(made):
    data = made.read_bytes()
    made.write_bytes(data.replace(b'"images": 6', b'"images": 7', 1))
    with pytest.raises(ValueError, match=r"1 fault: dataset\.json is damaged within the zip"):
        verify(str(made), workers=0)


def test_a_zip_cut_short_is_refused(made):
    made.write_bytes(made.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"x\.zip is no zip, or damaged"):
        verify(str(made), workers=0)
