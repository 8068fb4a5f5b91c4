"""Folders, zips and what `open_images` makes of a path."""

from __future__ import annotations

import json
import math
import os
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stylenat.data import open_images
from stylenat.sampling import save_sheet
from stylenat.training.outputs import draw_curves
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
    assert (first.dtype, first.shape, first.flags.c_contiguous) == (np.uint8, (8, 8, 3), True)


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
    for index, reason in ((1, "is damaged: .*"), (2, "is no image.*"), (3, "can't be read: .*")):
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
    labels = [["a.png", [0.5, -1]]]
    source = open_images(write_zip(tmp_path / "x.zip", files, labels))
    assert source.label(0) == [0.5, -1]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "folder")
    assert open_images(str(tmp_path / "folder")).label(0) == [0.5, -1]


@pytest.mark.parametrize(
    "labels", [5, "ab", {"a.png": 1}, [["a.png"]], [["a.png", 1, 2]], [[5, 1]], ["ab"], [None]]
)
def test_malformed_labels_are_refused_when_they_are_asked_for(tmp_path, labels):
    source = open_images(write_zip(tmp_path / "x.zip", {"a.png": png(0)}, labels))
    with pytest.raises(ValueError, match=r"x\.zip: labels in dataset\.json must be pairs"):
        source.label(0)
    assert [remark.partition(":")[2][:17] for remark in source.remarks] == [" labels in datase"]


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        ("cat", "must be a class, a whole number without a point, or a list of numbers: 'cat'"),
        (None, "must be a class, .*: None"),
        (0.0, "must be a class, .*: 0.0"),
        (2.5, "must be a class, .*: 2.5"),
        (True, "must be a class, .*: True"),
        ({}, "must be a class, .*: {}"),
        (math.nan, "must be a class, .*: nan"),
        (-1, "must be a class from 0 up: -1"),
        (2**63, "must be a class from 0 up, below 2\\*\\*63: 9223372036854775808"),
        ([], "must not be an empty list: \\[\\]"),
        ([1, math.nan], "must hold only finite numbers: \\[1, nan\\]"),
        ([math.inf], "must hold only finite numbers: \\[inf\\]"),
        ([0.5, False], "must hold only finite numbers"),
        ([0.5, "1"], "must hold only finite numbers"),
        ([[1]], "must hold only finite numbers"),
        ([10**400], "must hold only finite numbers"),
    ],
)
@pytest.mark.parametrize("place", ["zip", "folder"])
def test_a_label_that_is_none_is_refused_with_its_image(tmp_path, label, rule, place):
    labels = [["b.png", label]]
    path = write_zip(tmp_path / "x.zip", {"a.png": png(0), "b.png": png(1)}, labels)
    if place == "folder":
        path = unpacked(path)
    sentence = rf"^{path}: the label of b\.png in dataset\.json {rule}"
    with pytest.raises(ValueError, match=sentence):
        open_images(path).label(0)


@pytest.mark.parametrize(
    ("first", "second"), [(3, [0.5]), ([0.5], 3), ([1, 2], [1]), ([1], [1, 2])]
)
def test_labels_of_two_kinds_are_refused_with_both_images(tmp_path, first, second):
    labels = [["a.png", first], ["b.png", second]]
    path = write_zip(tmp_path / "x.zip", {"a.png": png(0), "b.png": png(1)}, labels)
    with pytest.raises(ValueError, match="must be classes, or lists of one length") as error:
        open_images(path).label(0)
    assert str(error.value).endswith(f"a.png has {first}, and b.png {second}")


# Names of labels and of files


def unpacked(path: str) -> str:
    folder = Path(path).with_suffix("")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("a/b.png", "a\\b.png"),
        ("a/b.png", "./a/b.png"),
        ("a/b.png", ".\\a\\b.png"),
        ("a/b.png", "a//b.png"),
        ("a/b.png", "/a/b.png"),
        ("a/b.png", "a/b.jpg"),
        ("a/b.png", "a/b.PNG"),
        ("a/b.png", "a\\b.JPEG"),
        ("a/b.png", "a/b"),
        ("a/b.c.png", "a/b.c.webp"),
        ("\u00e9/\u00fc.png", "e\u0301/u\u0308.png"),
        ("e\u0301/u\u0308.png", "\u00e9\\\u00fc.jpg"),
    ],
)
def test_a_label_finds_its_image_however_its_name_is_written(tmp_path, file, label):
    files = {file: png(0), "other.png": png(1)}
    path = write_zip(tmp_path / "x.zip", files, [[label, 3], ["other.png", 4]])
    for source in (open_images(path), open_images(unpacked(path))):
        assert {source.name(i): source.label(i) for i in range(2)} == {file: 3, "other.png": 4}
        assert source.remarks == ("2 of 2 images have a label in dataset.json",)


@pytest.mark.parametrize("member", ["a\\b.png", "./a/b.png", "a//b.png", "/a/b.png"])
def test_a_zip_s_own_names_may_be_written_in_any_way_too(tmp_path, member):
    source = open_images(write_zip(tmp_path / "x.zip", {member: png(5)}, [["a/b.png", 3]]))
    assert (source.name(0), source.label(0)) == (member, 3)
    assert source.read(0).tobytes() == pixels(5).tobytes()


def test_hidden_files_are_none_however_their_names_are_written(tmp_path):
    hidden = ["__MACOSX\\._x.png", ".git\\x.png", "./.git/x.png", "a\\.cache\\b\\x.png", "._x.png"]
    for path in both(tmp_path, {"x.png": png(0), **dict.fromkeys(hidden, b"")}):
        source = open_images(path)
        assert [source.name(i) for i in range(len(source))] == ["x.png"]
        assert source.remarks == ()


def test_an_index_with_another_name_s_way_of_writing_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("./a.png", png(0))
        archive.writestr("./dataset.json", json.dumps({"labels": [["a.png", 2]]}))
    assert open_images(str(tmp_path / "x.zip")).label(0) == 2


def test_how_many_labels_and_images_match_is_said(tmp_path):
    files = {f"{i:02d}.png": png(i) for i in range(64)}
    labels = [[name, 1] for name in list(files)[:61]]
    labels += [[f"gone{i}.png", 1] for i in range(3)]
    source = open_images(write_zip(tmp_path / "x.zip", files, labels), resolution=8, max_images=9)
    assert source.remarks == (
        "61 of 64 images have a label in dataset.json",
        "dataset.json labels 3 images that are not there: gone0.png, gone1.png, gone2.png",
    )


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a.png", "a.webp"], ["a.jpg"]),
        (["a.png"], ["a.jpg", "a.webp"]),
        (["a.png"], ["a.png", "a.jpg"]),
        (["a/x.png"], ["b/x.png"]),
        (["a.b.png"], ["a.png"]),
    ],
)
def test_a_label_that_fits_no_image_or_several_belongs_to_none(tmp_path, names, labels):
    path = write_zip(tmp_path / "x.zip", {n: png(0) for n in names}, [[n, 1] for n in labels])
    source = open_images(path)
    exact = [name for name in names if name in labels]
    assert [source.label(i) for i in range(len(names))] == [
        1 if n in exact else None for n in names
    ]
    assert "not there: " in source.remarks[1]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a/b.png", "a\\b.png"], ["a/b.png"]),
        (["\u00e9.png", "e\u0301.png"], ["\u00e9.png"]),
        (["a.png", "./a.png"], ["a.png"]),
        (["a.png"], ["a.png", "./a.png"]),
        (["a.png"], ["a.png", "a.png"]),
    ],
)
def test_two_names_that_are_the_same_are_refused(tmp_path, names, labels):
    path = write_zip(tmp_path / "x.zip", {n: png(0) for n in names}, [[n, 1] for n in labels])
    with pytest.raises(ValueError, match=r"x\.zip: two names .* are the same: ") as error:
        open_images(path).label(0)
    assert all(name in str(error.value) for name in (names if len(names) == 2 else labels))


def test_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png(0))
        with pytest.warns(UserWarning, match="a.png"):
            archive.writestr("a.png", png(1))
    with pytest.raises(ValueError, match=r"x\.zip holds members of the same name: a\.png"):
        open_images(str(tmp_path / "x.zip"))


# What is left out


def both(tmp_path: Path, files: dict[str, bytes]) -> list[str]:
    """The same files in a folder and in a zip."""
    return [write_folder(tmp_path / "files", files), write_zip(tmp_path / "files.zip", files)]


def test_files_of_unknown_formats_are_counted_by_extension(tmp_path):
    files = {f"{i}.png": png(i) for i in range(10)}
    for kind in ("HEIC", "CR2", "jxl"):
        files |= {f"{kind}/{i}.{kind}": b"" for i in range(5)}
    files |= {".hidden.cr2": b"", ".git/config": b"", "._1.HEIC": b""}
    said = "left out 15 files that are no images of a known format: 5 .cr2, 5 .heic, 5 .jxl"
    for path in both(tmp_path, files):
        assert open_images(path).remarks == (said,)
        assert open_images(path, resolution=8, resize="box", max_images=3).remarks == (said,)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.TXT"], "1 file that is no image of a known format: 1 .txt"),
        (["README", "a/LICENSE"], "2 files that are no images of a known format: 2 without an ext"),
        (["a.nef", "b.NEF", "c.arw"], "3 files that are no images of a known format: 2 .nef, 1 .a"),
        ([f"x.{i}" for i in range(9)], "9 files that are no images of a known format: 1 .0, 1 .1"),
    ],
)
def test_whatever_is_left_out_is_said(tmp_path, names, said):
    for path in both(tmp_path, {"a.png": png(0), **dict.fromkeys(names, b"")}):
        (remark,) = open_images(path).remarks
        assert remark.startswith(f"left out {said}")


def test_an_index_that_is_not_at_the_top_is_named(tmp_path):
    for path in both(tmp_path, {"set/a.png": png(0), "set/dataset.json": b"{}"}):
        assert open_images(path).remarks == (
            "labels are read from dataset.json at the top alone, and not from set/dataset.json",
        )


def sheet(index: int, side: int = 8) -> bytes:
    """A PNG as `save_sheet` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        save_sheet(torch.from_numpy(pixels(index, side, side)), f"{folder}/x.png")
        return Path(folder, "x.png").read_bytes()


def curves() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        draw_curves([{"nimg": 1, "loss_d": 1.0}], Path(folder, "x.png"))
        return Path(folder, "x.png").read_bytes()


def test_contact_sheets_of_ours_are_no_images(tmp_path):
    files = {"seed0000.png": png(0), "grid.png": sheet(1), "a/reals.png": sheet(2)}
    files |= {"a/000008000.png": sheet(3), "a/progress.png": curves()}
    for path in both(tmp_path, files):
        source = open_images(path)
        assert [source.name(i) for i in range(len(source))] == ["seed0000.png"]
        names = "a/000008000.png, a/progress.png, a/reals.png, grid.png"
        assert source.remarks == (f"left out 4 contact sheets: {names}",)


def test_a_user_s_own_files_of_these_names_are_images(tmp_path):
    names = ["grid.png", "reals.png", "progress.png", "000000001.png"]
    for path in both(tmp_path, {name: png(i) for i, name in enumerate(names)}):
        source = open_images(path)
        assert (len(source), source.remarks) == (4, ())


def test_only_files_with_such_a_name_are_looked_into(tmp_path):
    for path in both(tmp_path, {"seed0000.png": sheet(0), "1.png": sheet(1), "grid.jpg": b"x"}):
        assert len(open_images(path)) == 3


def test_nothing_but_sheets_is_no_data_set(tmp_path):
    for path in both(tmp_path, {"grid.png": sheet(1)}):
        with pytest.raises(ValueError, match=r"holds no images: left out 1 contact sheet: grid\.p"):
            open_images(path)


RUN = {"config.yaml": b"model: {}\n", "stats.jsonl": b"", "samples/000000001.png": png(7)}
OTHER_RUN = {"config.yaml": b"", "checkpoints/x.pt": b"", "samples/a.png": png(8)}


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def test_runs_among_the_data_are_left_out(tmp_path):
    files = {"a.png": png(0), **below("runs/0001-x", RUN), **below("old", OTHER_RUN)}
    files |= {"config.yaml.d/b.png": png(1), "c/config.yaml": b"", "c/c.png": png(2)}
    for path in both(tmp_path, files):
        source = open_images(path)
        assert len(source) == 3
        assert source.remarks == (
            "left out 1 file that is no image of a known format: 1 .yaml",
            "left out 2 run folders: old, runs/0001-x",
        )


def test_a_sheet_s_name_on_a_member_without_bound_unpacks_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("grid.png", bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"grid\.png is compressed by another method than deflate"):
        open_images(str(tmp_path / "x.zip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_many_configs_in_a_zip_take_no_time(tmp_path):
    files = {f"{i}/config.yaml": b"" for i in range(20_000)} | {"a.png": png(0)}
    assert len(open_images(write_zip(tmp_path / "x.zip", files))) == 1


@pytest.mark.parametrize("inside", ["", "samples", "checkpoints", "snapshots"])
@pytest.mark.parametrize("run", [RUN, OTHER_RUN])
def test_a_run_s_folder_is_no_data_set(tmp_path, inside, run, monkeypatch):
    write_folder(tmp_path / "run", {**run, "checkpoints/a.png": png(1), "snapshots/a.png": png(2)})
    (tmp_path / "link").symlink_to(tmp_path / "run" / inside)
    monkeypatch.chdir(tmp_path / "run" / inside)
    for path in (str(tmp_path / "run" / inside), f"{tmp_path}/run/{inside}/", "../link", "."):
        if path == "../link":
            path = str(tmp_path / "link")
        with pytest.raises(ValueError, match="is the folder of a training run and no data set"):
            open_images(path)


def test_images_that_were_made_into_a_run_s_folder_are_images(tmp_path):
    write_folder(tmp_path / "run", {**RUN, "out/seed0000.png": png(1)})
    assert len(open_images(str(tmp_path / "run" / "out"))) == 1


def test_damage_within_a_zip_is_found_by_its_checksum(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.bmp": encoded(pixels(0), "BMP"), "b.png": png(1)})
    data = (tmp_path / "x.zip").read_bytes()
    spot = data.index(pixels(0)[-1, 0, ::-1].tobytes())  # BMP: the last row first, as BGR
    (tmp_path / "x.zip").write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
    with pytest.raises(ValueError, match=r"x\.zip: a\.bmp is damaged within the zip: "):
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
    with pytest.raises(ValueError, match=r"x\.zip: a\.png is damaged within the zip: "):
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
        ("x.zip", b"no zip", r"x\.zip is no zip, or damaged: "),
        ("x.tar", b"", r"x\.tar is no data set; give a folder of images, a \.zip, the folder of"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        open_images(str(tmp_path / name))


def test_no_images_is_an_error_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"^.*/empty\.zip holds no images$"):
        open_images(write_zip(tmp_path / "empty.zip", {}))
    with pytest.raises(
        ValueError, match=r"/none\.zip holds no images: left out 1 file .*: 1 \.txt$"
    ):
        open_images(write_zip(tmp_path / "none.zip", {"a.txt": b""}))
    with pytest.raises(ValueError, match=r"holds an LMDB, church/data\.mdb: unpack it"):
        open_images(write_zip(tmp_path / "lsun.zip", {"church/data.mdb": b""}))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"^.*/folder holds no images$"):
        open_images(str(tmp_path / "folder"))
    with pytest.raises(FileNotFoundError, match="absent"):
        open_images(str(tmp_path / "absent"))
