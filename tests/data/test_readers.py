"""Folders, zips and what `open_images` makes of a path."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stylenat.data import open_images
from tests.data.writers import (
    contents,
    encoded,
    numbered_zip,
    pixels,
    png,
    write_folder,
    write_zip,
)

# Folders


def test_folder_is_read_recursively_in_the_order_of_names(tmp_path):
    names = ["b.png", "a/z.PNG", "a [1]/x y.png", "ü/日本.png", "*.png", "-.png"]
    files = {name: png(i) for i, name in enumerate(names)}
    extra = {"notes.txt": b"", ".hidden.png": b"", ".cache/x.png": b"", "png": b"", "._b.png": b""}
    source = open_images(write_folder(tmp_path / "data [x]", {**files, **extra}))
    assert [source.name(i) for i in range(len(source))] == sorted(names)
    assert contents(source) == {name: pixels(i).tobytes() for i, name in enumerate(names)}
    first = source.read(0)
    assert (first.dtype, first.shape, first.flags.c_contiguous) == (np.uint8, (3, 8, 8), True)


def test_links_are_followed_but_not_back_up(tmp_path):
    folder = tmp_path / "data"
    write_folder(folder, {"a/1.png": png(1)})
    write_folder(tmp_path / "elsewhere", {"2.png": png(2)})
    (folder / "a" / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(folder)
    source = open_images(str(folder))
    assert [source.name(i) for i in range(len(source))] == ["a/1.png", "linked/2.png"]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    path = write_folder(tmp_path, {"1.png": png(1), "locked/2.png": png(2)})
    scandir = os.scandir

    def locked(folder: Path) -> object:  # root may list every folder
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="locked"):
        open_images(path)


def test_an_unreadable_file_is_named(tmp_path):
    path = write_folder(tmp_path, {"1.png": png(1), "2/b.png": png(2)[:50], "3.png": b""})
    (tmp_path / "4.png").symlink_to(tmp_path / "absent")
    source = open_images(path)
    source.fingerprint()
    for index, reason in ((1, "is damaged: .*"), (2, "is no image.*"), (3, "can't be read: No .*")):
        with pytest.raises(ValueError, match=rf"^{tmp_path}/{source.name(index)} {reason}$"):
            source.read(index)


def test_fingerprint_of_a_folder_changes_with_its_files(tmp_path):
    path = write_folder(tmp_path, {"1.png": png(1), "2.png": png(2)})
    prints = [open_images(path).fingerprint()]
    assert open_images(path).fingerprint() == prints[0]
    os.utime(tmp_path / "2.png", ns=(0, 1))
    prints.append(open_images(path).fingerprint())
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    prints.append(open_images(path).fingerprint())
    (tmp_path / "3.png").unlink()
    prints.append(open_images(path).fingerprint())
    (tmp_path / "dataset.json").write_text("{}")
    prints.append(open_images(path).fingerprint())
    assert len(set(prints)) == 5
    assert all(int(text, 16) for text in prints)


# Zips


def test_zip_is_read_in_place_with_its_labels(tmp_path):
    files = {"00000/b.png": png(0), "00000/a.png": png(1), "c.webp": encoded(pixels(2), "WEBP")}
    labels = [["00000/a.png", 7], ["00000/b.png", 3]]
    path = write_zip(tmp_path / "x.zip", {**files, "__MACOSX/._c.png": b"", "d.txt": b""}, labels)
    source = open_images(path)
    assert [source.name(i) for i in range(3)] == ["00000/a.png", "00000/b.png", "c.webp"]
    assert [source.label(i) for i in range(3)] == [7, 3, None]
    assert np.array_equal(source.read(0), pixels(1))
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_labels_may_be_lists_of_numbers_in_zips_and_folders(tmp_path):
    files = {"a.png": png(0)}
    labels = [["a.png", [0.5, 1]]]
    source = open_images(write_zip(tmp_path / "x.zip", files, labels))
    assert source.label(0) == [0.5, 1]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "folder")
    assert open_images(str(tmp_path / "folder")).label(0) == [0.5, 1]


@pytest.mark.parametrize("labels", [5, [["a.png"]], [["a.png", "cat"]], [["a.png", None]]])
def test_malformed_labels_are_refused_when_they_are_asked_for(tmp_path, labels):
    source = open_images(write_zip(tmp_path / "x.zip", {"a.png": png(0)}, labels))
    with pytest.raises(ValueError, match=r"x\.zip: labels in dataset\.json must be pairs"):
        source.label(0)


def test_damage_within_a_zip_is_found_by_its_checksum(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.bmp": encoded(pixels(0), "BMP"), "b.png": png(1)})
    data = (tmp_path / "x.zip").read_bytes()
    spot = data.index(pixels(0)[::-1, -1, 0].tobytes())  # BMP: the last row first, as BGR
    (tmp_path / "x.zip").write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
    with pytest.raises(ValueError, match=r"x\.zip: a\.bmp is damaged within the zip: Bad CRC-32"):
        open_images(path).read(0)


def test_compressed_members_are_read_and_encrypted_ones_named(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(0))
    assert np.array_equal(open_images(str(path)).read(0), pixels(0))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag, in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.zip: a\.png is damaged within the zip: .*encrypted"):
        open_images(str(path))


def test_a_forked_process_opens_the_zip_anew(tmp_path):
    # A file position shared between processes would tear their reads apart.
    source = open_images(numbered_zip(tmp_path / "x.zip", 2))
    inherited = source.archive()
    pid = os.fork()
    if pid == 0:
        anew = source.archive() is not inherited and source.archive() is source.archive()
        os._exit(0 if anew and np.array_equal(source.read(1), pixels(1)) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert source.archive() is inherited


def test_fingerprint_of_a_zip_is_that_of_its_content(tmp_path):
    first = open_images(numbered_zip(tmp_path / "1.zip", 2)).fingerprint()
    assert open_images(numbered_zip(tmp_path / "copy.zip", 2)).fingerprint() == first
    assert open_images(numbered_zip(tmp_path / "3.zip", 3)).fingerprint() != first
    swapped = {"00000/img00000000.png": png(1), "00000/img00000001.png": png(0)}
    assert open_images(write_zip(tmp_path / "4.zip", swapped)).fingerprint() != first


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.zip", b"no zip", r"x\.zip is no zip, or damaged: File is not a zip file"),
        ("x.tar", b"", r"x\.tar is no data set; give a folder of images, a \.zip, the folder of"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        open_images(str(tmp_path / name))


def test_no_images_is_an_error_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"^.*/empty\.zip holds no images$"):
        open_images(write_zip(tmp_path / "empty.zip", {"a.txt": b""}))
    with pytest.raises(ValueError, match=r"holds an LMDB, church/data\.mdb: unpack it"):
        open_images(write_zip(tmp_path / "lsun.zip", {"church/data.mdb": b""}))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"^.*/folder holds no images$"):
        open_images(str(tmp_path / "folder"))
    with pytest.raises(FileNotFoundError, match="absent"):
        open_images(str(tmp_path / "absent"))
