"""Classes of images: from folders, through `prepare`, to the batches of a run."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.data import class_labels, labelled_batches, open_images, training_batches
from stylenat.data.classes import FolderLabels
from tests.data.writers import about, make, pixels, png, write_folder, write_zip

FILES = {
    "owl/0.png": png(0),
    "cat/1.png": png(1),
    "cat/grey/2.png": png(2),
    "ant 3/3.png": png(3),
    "cat/dataset.json": b"{}",
}
NAMES = ["ant 3", "cat", "owl"]


def labelled(path, labels, names=None, **changed):
    """A folder of images with these labels; the images of None have none."""
    pairs = [[f"{i}.png", label] for i, label in enumerate(labels) if label is not None]
    content = {"labels": pairs or None, "stylenat": {"class_names": names}}
    files = {f"{i}.png": png(i) for i in range(len(labels))}
    index = {"dataset.json": json.dumps(content).encode()}
    return open_images(write_folder(path / "x", {**files, **index, **changed}))


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_the_first_folder_of_an_image_is_its_class(tmp_path, write):
    place = tmp_path / ("x.zip" if write is write_zip else "x")
    report = make(write(place, FILES), tmp_path / "made.zip", labels_from_folders=True)
    assert report.images == report.labelled == 4
    assert report.remarks[0] == "3 classes: ant 3 (1 images), cat (2 images), owl (1 images)"
    found = about(tmp_path / "made.zip")
    assert found["stylenat"]["class_names"] == NAMES
    assert [label for _, label in found["labels"]] == [0, 1, 1, 2]
    source = open_images(str(tmp_path / "made.zip"))
    assert source.class_names == tuple(NAMES)
    assert class_labels(source, 3).tolist() == [0, 1, 1, 2]
    shown = [
        int(np.flatnonzero([np.array_equal(source.read(i), pixels(j)) for j in range(4)])[0])
        for i in range(4)
    ]
    assert shown == [3, 1, 2, 0]


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    """Files are sorted by their whole names: `ant 3/...` comes before `ant/...`."""
    files = {"ant/0.png": png(0), "ant 3/1.png": png(1), "bee/2.png": png(2)}
    labels = FolderLabels(open_images(write_folder(tmp_path / "x", files)))
    assert labels.class_names == ("ant", "ant 3", "bee")
    assert {labels.name(i): labels.label(i) for i in range(3)} == {
        "ant/0.png": 0,
        "ant 3/1.png": 1,
        "bee/2.png": 2,
    }


def test_names_of_classes_outlast_another_prepare(tmp_path):
    make(write_folder(tmp_path / "x", FILES), tmp_path / "a.zip", labels_from_folders=True)
    make(str(tmp_path / "a.zip"), tmp_path / "b.zip")
    assert open_images(str(tmp_path / "b.zip")).class_names == tuple(NAMES)
    part = open_images(str(tmp_path / "a.zip"), max_images=2, resolution=8)
    assert part.class_names == tuple(NAMES)


def test_labels_from_folders_begin_the_work_anew(tmp_path):
    """Unfinished work without labels is no part of the zip with labels."""
    source = open_images(write_folder(tmp_path / "x", FILES))
    assert FolderLabels(source).fingerprint() != source.fingerprint()


def test_without_the_flag_there_are_no_classes(tmp_path):
    make(write_folder(tmp_path / "x", FILES), tmp_path / "made.zip")
    found = about(tmp_path / "made.zip")
    assert found["labels"] is None
    assert "class_names" not in found["stylenat"]


def test_names_are_left_out_if_an_image_has_no_label(tmp_path):
    source = labelled(tmp_path, [0, None, 1], ["a", "b"])
    make(source.path, tmp_path / "made.zip")
    assert "class_names" not in about(tmp_path / "made.zip")["stylenat"]


def test_the_command_makes_classes_of_folders(tmp_path):
    arguments = ["--resolution", "8", "--workers", "0", "--labels-from-folders"]
    place = write_folder(tmp_path / "x", FILES)
    done = CliRunner().invoke(main, ["prepare", place, str(tmp_path / "x.zip"), *arguments])
    assert done.exit_code == 0, done.output
    assert "Note: 3 classes: ant 3 (1 images), cat (2 images), owl (1 images).\n" in done.output


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"cat/0.png": png(0), "1.png": png(1)}, "1 of 2 lie in none, 1.png"),
        (
            {"cat/0.png": png(0), "cat/b/1.png": png(1)},
            "at least 2 folders in PATH: all images lie",
        ),
    ],
)
def test_folders_that_name_no_classes_are_refused(tmp_path, files, sentence):
    place = write_folder(tmp_path / "x", files)
    with pytest.raises(ValueError, match=re.escape(sentence.replace("PATH", place))):
        make(place, tmp_path / "made.zip", labels_from_folders=True)


def test_only_files_have_folders(tmp_path):
    with pytest.raises(ValueError, match=r"is for a folder or a zip of images: faces:3 is another"):
        make("faces:3", tmp_path / "made.zip", labels_from_folders=True)


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        ([None, None], 2, "/x has no labels, and a model of 2 classes needs one for each image"),
        ([0, None, 1], 2, "1 of 3 images have no label, and a model of 2 classes needs one"),
        ([[0.5], [1.0]], 2, "/x/0.png must be a class, a whole number from 0 to 1: [0.5]"),
        (
            [0, 2, 1],
            2,
            "1.png must be from 0 to 1, since the model has 2 classes: 2; the data need",
        ),
    ],
)
def test_labels_that_are_no_classes_of_the_model_are_refused(tmp_path, labels, classes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        class_labels(labelled(tmp_path, labels), classes)


def test_a_model_has_as_many_classes_as_the_data_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"names 2 classes, and the model has 3: set model.classes=2"
    ):
        class_labels(labelled(tmp_path, [0, 1], ["a", "b"]), 3)


@pytest.mark.parametrize("names", ["ab", ["a", "a"], ["a", 3], ["", "b"], {"a": 0}])
def test_names_that_are_no_names_are_refused(tmp_path, names):
    source = labelled(tmp_path, [0, 1], names)
    with pytest.raises(
        ValueError, match=r"class_names in dataset\.json must be a list of names that"
    ):
        source.label(0)


# Batches


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_with_the_classes_of_their_images(tmp_path, workers):
    source = labelled(tmp_path, [0, 1, 2, 3, 4])
    labels = class_labels(source, 5)
    settings = {"seed": 3, "batch": 4, "workers": workers, "mirror": False}
    batches = labelled_batches(source, labels, **settings)
    plain = training_batches(source, **settings)
    known = [pixels(i).tobytes() for i in range(5)]
    for batch, pixels_BHW3 in itertools.islice(zip(batches, plain, strict=True), 4):
        assert np.array_equal(batch.pixels_BHW3, pixels_BHW3)
        assert batch.labels_B.tolist() == [known.index(x.numpy().tobytes()) for x in pixels_BHW3]
    batches.close()
    plain.close()


def test_an_image_that_replaces_another_brings_its_own_class(tmp_path):
    source = labelled(tmp_path, [0, 1, 2, 3], **{"1.png": b"damaged"})
    batches = labelled_batches(source, class_labels(source, 4), seed=0, batch=8, workers=0)
    labels = next(batches).labels_B.tolist()
    batches.close()
    assert 1 not in labels
    assert sorted(set(labels)) == [0, 2, 3]


def test_without_classes_batches_have_no_labels(tmp_path):
    batches = labelled_batches(labelled(tmp_path, [0, 1]), None, seed=0, batch=2, workers=0)
    assert next(batches).labels_B is None
    batches.close()
