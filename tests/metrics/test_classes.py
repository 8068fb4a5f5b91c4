"""Scores of models with classes: all classes together, and each by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.data import open_images
from stylenat.data.source import SubsetSource
from stylenat.export import save_generator
from stylenat.metrics import Evaluator, evaluate, protocol_of, score_classes
from tests.data.writers import png, write_folder
from tests.sampling.tiny import generator_of_classes, tiny_generator

CPU = torch.device("cpu")
COUNTS = (8, 6, 4)


@pytest.fixture
def data(tmp_path) -> str:
    """18 images of 16x16, of three classes."""
    labels = [label for label, count in enumerate(COUNTS) for _ in range(count)]
    files = {f"{i:02d}.png": png(i, 16, 16) for i in range(len(labels))}
    pairs = [[name, label] for name, label in zip(files, labels, strict=True)]
    files["dataset.json"] = json.dumps({"labels": pairs}).encode()
    return write_folder(tmp_path / "data", files)


@pytest.fixture
def model(tmp_path) -> str:
    path = tmp_path / "model.safetensors"
    save_generator(generator_of_classes(), path)
    return str(path)


def evaluator(source, num: int = 12) -> Evaluator:
    return Evaluator(["swd"], source, num=num, workers=0, progress=False)


@pytest.fixture
def labels_of(monkeypatch):
    """The classes that were asked for when images were generated, and in which order."""
    asked: list[int] = []
    real = evaluate.generated

    def noting(network, first_seed, num, labels, **settings):
        asked.extend(labels)
        return real(network, first_seed, num, labels, **settings)

    monkeypatch.setattr(evaluate, "generated", noting)
    return asked


def test_generated_images_have_the_classes_of_random_images_of_the_data(data, labels_of):
    scores = evaluator(open_images(data), num=900)(generator_of_classes())
    shares = np.bincount(labels_of, minlength=3) / 900
    expected = np.array(COUNTS) / sum(COUNTS)
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 900)
    assert scores.protocol["images"]["classes"] == "as in the data"


def test_without_labels_every_class_is_equally_frequent(data, labels_of):
    scores = evaluator(open_images("faces:20", resolution=16))(generator_of_classes())
    assert labels_of == [0, 1, 2] * 4
    assert scores.protocol["images"]["classes"] == "all equally often"


def test_the_protocol_of_a_model_without_classes_has_none(data):
    scores = evaluator(open_images(data))(tiny_generator())
    assert "classes" not in scores.protocol["images"]


def test_each_class_is_compared_with_the_images_of_that_class(data, model):
    protocol = protocol_of(model, data=data, metrics=["swd"], num=12)
    found = score_classes(model, protocol, device=CPU, batch=32, workers=0)
    assert list(found) == ["cat", "dog", "great owl"]
    source, start = open_images(data, resolution=16), 0
    for label, (scores, count) in enumerate(zip(found.values(), COUNTS, strict=True)):
        own = SubsetSource(source, np.arange(start, start + count))
        expected = evaluator(own)(generator_of_classes(), of_class=label)
        assert scores.values == expected.values
        assert scores.protocol["reference"]["of"] == count
        assert scores.protocol["images"]["classes"] == label
        start += count


def test_the_command_prints_a_line_per_class_and_their_mean(data, model, tmp_path):
    out = tmp_path / "scores.json"
    arguments = ["--metrics", "swd", "-n", "12", "--workers", "0", "--per-class", "--out", out]
    done = CliRunner().invoke(main, ["fid", model, "--data", data, *map(str, arguments)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    (head,) = [number for number, line in enumerate(lines) if line.startswith("class ")]
    assert lines[head].split() == ["class", "swd", "swd_16"]
    assert [line.split("  ")[0] for line in lines[head + 1 : head + 5]] == [
        "cat",
        "dog",
        "great owl",
        "mean",
    ]
    content = json.loads(out.read_text())
    values = [content["classes"][name]["scores"]["swd"] for name in ("cat", "dog", "great owl")]
    assert float(lines[head + 4].split()[1]) == pytest.approx(np.mean(values), rel=1e-5)


def test_scores_per_class_need_classes_and_labels(data, model, tmp_path):
    save_generator(tiny_generator(), tmp_path / "plain.safetensors")
    settings = {"metrics": ["swd"], "num": 12}
    for subject, path, sentence in (
        (str(tmp_path / "plain.safetensors"), data, "--per-class is for models with classes, and"),
        (data, data, "--per-class is for models with classes, and"),
        (model, "faces:20", "faces:20 has no labels, and a model of 3 classes needs one"),
    ):
        with pytest.raises(ValueError, match=sentence):
            score_classes(
                subject, protocol_of(subject, data=path, **settings), device=CPU, workers=0
            )


def test_a_class_with_too_few_images_is_named(tmp_path, model):
    files = {f"{i}.png": png(i, 16, 16) for i in range(4)}
    pairs = [[name, int(name[0] == "3")] for name in files]
    files["dataset.json"] = json.dumps({"labels": pairs}).encode()
    place = write_folder(tmp_path / "few", files)
    protocol = protocol_of(model, data=place, metrics=["swd"], num=12)
    with pytest.raises(ValueError, match=r"^class great owl: swd takes at least 1 images of the"):
        score_classes(model, protocol, device=CPU, workers=0)
