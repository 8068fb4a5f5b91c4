"""`stylenat prepare`: what it writes, that it continues, and what it refuses."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from stylenat.data import draw_face, open_images
from stylenat.data import prepare as module
from stylenat.data.images import scale_and_crop
from stylenat.data.source import FacesSource
from tests.data.writers import (
    PHOTO_SIZES,
    about,
    cifar_files,
    lsun_entries,
    make,
    multi_resolution_entries,
    pixels,
    png,
    write_folder,
    write_lmdb,
    write_zip,
)

# What is written


def test_the_zip_is_stylegan_s(tmp_path, folder):
    dest = tmp_path / "x.zip"
    make(folder, dest)
    with zipfile.ZipFile(dest) as archive:
        names = [f"00000/img{i:08d}.png" for i in range(40)]
        assert archive.namelist() == [*names, "dataset.json"]
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
        image = Image.open(io.BytesIO(archive.read(names[0])))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))
    assert about(dest)["labels"] is None


@pytest.mark.parametrize("resize", ["lanczos", "box", "bilinear"])
def test_images_are_scaled_by_the_filter_and_cropped(tmp_path, folder, resize):
    make(folder, tmp_path / "x.zip", resize=resize)
    source, made = open_images(folder), open_images(str(tmp_path / "x.zip"), resolution=8)
    for i in range(len(source)):
        expected = scale_and_crop(source.image(i), 8, resize)
        assert np.array_equal(made.read(i), np.asarray(expected))


def test_dataset_json_says_how_it_was_made_and_names_no_place(tmp_path, folder):
    write_folder(Path(folder), {"1/bad.jpg": b"", "2/bad.png": png(0)[:40]})
    report = make(folder, tmp_path / "x.zip", max_bad=2, resize="box")
    content = about(tmp_path / "x.zip")
    assert str(tmp_path) not in json.dumps(content)
    skipped = content["stylenat"].pop("skipped")
    assert [entry["name"] for entry in skipped] == ["1/bad.jpg", "2/bad.png"]
    assert skipped[0]["reason"] == "is no image of a known format, or its header is damaged"
    assert [(entry["name"], entry["reason"]) for entry in skipped] == list(report.skipped)
    assert content["stylenat"] == {
        "source": "photos",
        "resolution": 8,
        "crop": "center",
        "filter": "box",
        "max_images": None,
        "seed": 0,
        "images": 40,
        "enlarged": sum(PHOTO_SIZES.min(1) < 8),
    }
    assert report.enlarged == content["stylenat"]["enlarged"] > 0
    assert len(open_images(str(tmp_path / "x.zip"))) == 40


def test_labels_are_kept(tmp_path):
    files = {f"{i}.png": png(i) for i in range(4)}
    for name, kinds in (("classes", [0, 1, 2, 3]), ("lists", [[i, 0.5] for i in range(4)])):
        labels = [[f".\\{i}.jpg", kind] for i, kind in enumerate(kinds)]
        dest = tmp_path / f"{name}-made.zip"
        report = make(write_zip(tmp_path / f"{name}.zip", files, labels), dest)
        expected = [[f"00000/img{i:08d}.png", kind] for i, kind in enumerate(kinds)]
        assert about(dest)["labels"] == expected
        assert (report.labelled, report.images) == (4, 4)
    report = make(write_zip(tmp_path / "c.zip", files, labels[:3]), tmp_path / "d.zip")
    assert about(tmp_path / "d.zip")["labels"] is None
    assert (report.labelled, report.images) == (3, 4)
    assert report.remarks == ("3 of 4 images have a label in dataset.json",)


def test_faces_are_drawn_at_the_resolution(tmp_path):
    make("faces:5", tmp_path / "x.zip", resolution=16, seed=3)
    made = open_images(str(tmp_path / "x.zip"), resolution=16)
    assert all(np.array_equal(made.read(i), draw_face(i, 16, seed=3)) for i in range(5))


@pytest.mark.usefixtures("cache")
def test_databases_and_archives_are_sources_too(tmp_path):
    make(write_lmdb(tmp_path / "lsun", lsun_entries(3)), tmp_path / "lsun.zip")
    assert about(tmp_path / "lsun.zip")["stylenat"]["images"] == 3
    sizes = write_lmdb(tmp_path / "sizes", multi_resolution_entries(2, (4, 16)))
    make(sizes, tmp_path / "sizes.zip", resolution=16)
    assert np.array_equal(open_images(str(tmp_path / "sizes.zip")).read(1), pixels(1, 16, 16))
    make(sizes, tmp_path / "between.zip", resolution=8)  # from 16x16, not from 4x4
    assert about(tmp_path / "between.zip")["stylenat"]["enlarged"] == 0
    write_folder(tmp_path / "cifar-10-batches-py", cifar_files(10))
    with pytest.raises(ValueError, match="not the published file"):
        make(str(tmp_path / "cifar-10-batches-py"), tmp_path / "cifar.zip")


def test_a_subset_is_the_loader_s(tmp_path, folder):
    make(folder, tmp_path / "x.zip", max_images=7, seed=2, resize="box")
    chosen = open_images(folder, resolution=8, resize="box", max_images=7, seed=2)
    made = open_images(str(tmp_path / "x.zip"))
    assert len(made) == 7
    assert all(np.array_equal(made.read(i), chosen.read(i)) for i in range(7))


def test_the_number_of_workers_changes_no_byte(tmp_path, folder):
    for workers in (0, 1, 2):
        make(folder, tmp_path / f"{workers}.zip", workers=workers)
    first = (tmp_path / "0.zip").read_bytes()
    assert all((tmp_path / f"{workers}.zip").read_bytes() == first for workers in (1, 2))
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "0.zip", "1.zip", "2.zip"}


@pytest.mark.slow
def test_processes_may_be_spawned(tmp_path, folder):
    make(folder, tmp_path / "here.zip")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        make(folder, tmp_path / "there.zip", workers=1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert (tmp_path / "here.zip").read_bytes() == (tmp_path / "there.zip").read_bytes()


# What is refused


def test_too_many_bad_images_make_no_zip_but_a_list(tmp_path, folder):
    bad = {f"bad{i}.png": b"" for i in range(7)}
    write_folder(Path(folder), bad)
    with pytest.raises(ValueError, match=r"^7 of 47 images are bad, and --max-bad is 6: ") as error:
        make(folder, tmp_path / "x.zip", max_bad=6)
    assert error.match(r"bad0\.png is no image .* and 2 more; all are listed in (.*)$")
    assert "\n" not in str(error.value)
    listed = Path(str(error.value).rpartition(" ")[2]).read_text().splitlines()
    assert [line.split()[0] for line in listed] == sorted(bad)
    assert not (tmp_path / "x.zip").exists()
    report = make(folder, tmp_path / "x.zip", max_bad=7)  # what was made is kept
    assert (report.images, report.resumed, len(report.skipped)) == (40, 47, 7)


def test_a_hopeless_source_is_given_up_early(tmp_path):
    path = write_folder(tmp_path / "x", {f"{i:03d}.png": b"" for i in range(60)})
    with (
        patch.object(module, "HOPELESS", 10),
        pytest.raises(ValueError, match=r"16 of the first 16 images are bad"),
    ):
        make(path, tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"none of 60 images can be used: 000\.png is no image"):
        make(path, tmp_path / "x.zip", max_bad=60)


def test_without_crop_only_squares_are_taken(tmp_path):
    path = write_folder(tmp_path / "x", {"a.png": png(0, 16, 16), "b.png": png(1, 16, 17)})
    with pytest.raises(ValueError, match=r"b\.png is not square: 17x16; --crop center takes"):
        make(path, tmp_path / "x.zip", crop="none")
    assert make(path, tmp_path / "x.zip", crop="none", max_bad=1).images == 1


def test_dest_must_be_new_a_zip_and_in_a_folder(tmp_path, folder):
    dest = tmp_path / "x.zip"
    with pytest.raises(ValueError, match=r"DEST must be a \.zip: .*x\.tar"):
        make(folder, tmp_path / "x.tar")
    with pytest.raises(FileNotFoundError, match="absent"):
        make(folder, tmp_path / "absent" / "x.zip")
    dest.write_text("older")
    with pytest.raises(ValueError, match=r"x\.zip exists already; --overwrite replaces it"):
        make(folder, dest)
    assert dest.read_text() == "older"
    make(folder, dest, overwrite=True)
    assert len(open_images(str(dest))) == 40


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 0}, "resolution must be positive: 0"),
        ({"crop": "left"}, "crop must be center or none: left"),
        ({"resize": "cubic"}, "filter must be one of bilinear, lanczos, box: cubic"),
        ({"max_images": 0}, "max_images must be positive: 0"),
    ],
)
def test_values_without_meaning_are_refused(tmp_path, folder, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(folder, tmp_path / "x.zip", **options)
    assert {file.name for file in tmp_path.iterdir()} == {"photos"}


class Deadly(FacesSource):
    def image(self, index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


def test_a_lost_worker_is_one_sentence(tmp_path):
    deadly = Deadly(9, resolution=4, seed=0)
    with (
        patch.object(module, "open_unscaled", lambda *_, **__: deadly),
        pytest.raises(OSError, match=r"a process that reads images was lost.*lower --workers"),
    ):
        make("faces:9", tmp_path / "x.zip", workers=2)
