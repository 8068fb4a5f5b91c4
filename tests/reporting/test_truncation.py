"""The truncation curve: measured, kept, shown again, and known to be old when it is."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.config import load_config, save_config
from stylenat.metrics import protocol_of, score
from stylenat.reporting.document import page_of
from tests.metrics.standin import save_inception

METRICS = ("pr_effnet_lite0", "dc_effnet_lite0")
NAMES = ("precision", "recall", "density", "coverage")


def report(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def measured(run, tmp_path):
    """A run with psi 0.5 and 1, by 12 images, against images of its own that it calls its data."""
    images = tmp_path / "images"
    made = CliRunner().invoke(main, ["sample", str(run), "--seeds=100-129", f"--outdir={images}"])
    assert made.exit_code == 0, made.output
    # The run measures itself by Inception; its file is not for the curve's features.
    config = load_config(run / "config.yaml", [f"data.path={images}", "metrics.weights=absent.pth"])
    save_config(config, run / "config.yaml")
    result = report(run, "--truncation=0.5:1:2", "--num=12", "--device=cpu")
    assert result.exit_code == 0, result.output
    points = [line for line in result.stdout.splitlines() if line.startswith("psi")]
    assert [line.split(":")[0] for line in points] == ["psi 0.5", "psi 1"]
    return run


def test_the_curve_is_what_fid_measures_at_each_psi(measured):
    kept = json.loads((measured / "truncation.json").read_text())
    protocol = protocol_of(str(measured), metrics=METRICS, num=12)
    for point in kept["points"]:
        scores = score(
            str(measured),
            protocol,
            device=torch.device("cpu"),
            truncation_psi=point["psi"],
        )
        named = {f"{name}_effnet_lite0": point[name] for name in NAMES}
        assert named == scores.values
    first, second = kept["points"]
    assert first != {**second, "psi": 0.5}  # so that a psi without effect is seen


def test_other_features_are_those_of_the_file_that_is_named(measured, tmp_path):
    weights = save_inception(tmp_path / "inception.pth")
    arguments = ("--truncation=0.5:1:2", "--num=12", "--space=inception", f"--weights={weights}")
    result = report(measured, *arguments)
    assert result.exit_code == 0, result.output
    kept = json.loads((measured / "truncation.json").read_text())
    found = kept["protocol"]["features"]["inception"]["network_sha256"]
    assert found == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_page_shows_the_curve_without_measuring_again(measured):
    kept = (measured / "truncation.json").read_text()
    assert report(measured).exit_code == 0
    page = (measured / "report.html").read_text()
    assert "precision against recall" in page
    assert "density against coverage" in page
    assert ">psi 0.5</text>" in page
    assert "12 images of best.safetensors, compared by features of effnet_lite0." in page
    assert (measured / "truncation.json").read_text() == kept


def test_a_curve_of_an_earlier_snapshot_is_called_so(measured):
    (measured / "snapshots" / "best.safetensors").unlink()
    (measured / "snapshots" / "000000040.safetensors").write_bytes(b"another")
    assert "best.safetensors, which is no longer the best snapshot" in page_of([measured])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"points": []}', '{"points": [{"psi": 1}], "space": ""}']
)
def test_another_file_in_its_place_is_one_sentence(run, content):
    (run / "truncation.json").write_text(content)
    result = report(run)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "truncation.json is not what `stylenat report --truncation` writes: delete it" in line
