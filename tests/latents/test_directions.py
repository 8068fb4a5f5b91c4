"""Directions: how they are found, their file, and edits along them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from stylenat.files import sha256_of
from stylenat.latents import Directions, Edit, LoadedModel, edited, parse_edit, save_directions
from stylenat.latents import jacobian as jacobian_module
from stylenat.latents.directions import Direction, load_directions
from stylenat.latents.finding import (
    find_directions,
    random_edge,
    regional,
    remarks,
    strongest,
    style_rows,
    w_covariance,
)
from stylenat.latents.jacobian import derivatives, parse_region, region_products
from stylenat.models.pixels import to_rgb

SHA = "ab" * 32
SHAPE = {"model_sha256": SHA, "num_ws": 3, "style_dim": 8}


@dataclass
class OfTest:
    file: Directions

    def edit(self, text: str) -> Edit:
        return parse_edit(text, self.file)


def directions_of() -> OfTest:
    vectors = torch.linalg.qr(torch.randn(8, 2)).Q.T
    rows = (
        Direction("a", vectors[0], 1.5, (0, 1, 2)),
        Direction("b", vectors[1], 0.5, (0, 2)),
    )
    return OfTest(Directions("pca", SHA, 3, rows))


# Edits


def test_an_edit_moves_its_blocks_alone_by_sigmas():
    directions = directions_of()
    ws = torch.randn(2, 3, 8)
    moved = edited(ws, [directions.edit("b:+2.0")], 1.0) - ws
    expected = 2 * 0.5 * directions.file.directions[1].vector
    torch.testing.assert_close(moved[:, 0], expected.expand(2, -1))
    torch.testing.assert_close(moved[:, 2], expected.expand(2, -1))
    assert not moved[:, 1].any()
    both = edited(ws, [directions.edit("1:-1"), directions.edit("2:-3..3")], 0.5)
    torch.testing.assert_close(both, edited(ws, [directions.edit("a:-1")], 0.0))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2", "--set must be DIRECTION:STRENGTH"),
        ("2:", "--set must be DIRECTION:STRENGTH"),
        ("2:x", "--set must be DIRECTION:STRENGTH"),
        ("2:nan", "--set must be DIRECTION:STRENGTH"),
        ("2:inf", "at most 1000 sigma"),
        ("2:1..2..3", "--set must be DIRECTION:STRENGTH"),
        ("3:1", "there is no direction '3': choose 1 to 2, or a, b"),
        ("hair:1", "there is no direction 'hair'"),
    ],
)
def test_an_edit_that_is_none_is_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        directions_of().edit(text)


# The file


def test_a_file_gives_back_its_directions(tmp_path):
    directions = directions_of().file
    save_directions(directions, tmp_path / "d.json")
    found = load_directions(tmp_path / "d.json", **SHAPE)
    for one, other in zip(found.directions, directions.directions, strict=True):
        assert (one.name, one.sigma, one.blocks) == (other.name, other.sigma, other.blocks)
        assert torch.equal(one.vector, other.vector)


HOSTILE = {
    "kind": ({"kind": "ws"}, "is no directions file of format 1: kind is 'ws'"),
    "format": ({"stylenat_format": 2}, "format 2"),
    "num_ws": ({"num_ws": "3"}, "num_ws and style_dim must be whole numbers"),
    "shape": ({"num_ws": 4}, "holds directions for 4 blocks and style_dim 8"),
    "model": ({"model_sha256": "cd" * 32}, "was made with another model"),
    "no list": ({"directions": {}}, "a list of 1 to 1,000 directions"),
    "none": ({"directions": []}, "a list of 1 to 1,000 directions"),
    "no dict": ({"directions": [1]}, "direction 1: its name must be text: None"),
}
HOSTILE_ROW = {
    "number for a name": ({"name": "7"}, "more than a number: '7'"),
    "path for a name": ({"name": "../a"}, "letters, digits, dashes"),
    "name of another": ({"name": "b"}, "two directions have the name b"),
    "sigma": ({"sigma": -1}, "its sigma must be a positive number: -1"),
    "nan": ({"sigma": float("nan")}, "its sigma must be a positive number: nan"),
    "huge": ({"sigma": 10**400}, "its sigma must be a positive number: 1000"),
    "true": ({"sigma": True}, "its sigma must be a positive number: True"),
    "blocks": ({"blocks": "all"}, "its blocks must be a list of numbers"),
    "block": ({"blocks": [3]}, "its blocks must be different numbers from 0 to 2"),
    "blocks twice": ({"blocks": [1, 1]}, "its blocks must be different numbers from 0 to 2"),
    "text": ({"vector": ["1"] * 8}, "its vector must be a list of finite numbers"),
    "nan in it": ({"vector": [float("nan")] * 8}, "its vector must be a list of finite numbers"),
    "short": ({"vector": [1.0]}, "its vector must be 8 numbers, of length 1"),
    "long": ({"vector": [5.0] * 8}, "its vector must be 8 numbers, of length 1"),
}


@pytest.mark.parametrize("what", [*HOSTILE, *HOSTILE_ROW])
def test_a_hostile_file_is_one_sentence(what, tmp_path):
    path = tmp_path / "d.json"
    save_directions(directions_of().file, path)
    data = json.loads(path.read_text())
    if what in HOSTILE:
        changed, sentence = HOSTILE[what]
        data.update(changed)
    else:
        changed, sentence = HOSTILE_ROW[what]
        data["directions"][0].update(changed)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=sentence) as caught:
        load_directions(path, **SHAPE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"", "is no JSON"), (b"\xff\xfe", "is no JSON"), (b"[" * 100_000, "is no JSON"),
     (b"[1]", "is no directions file"), (b" " * (65 << 20), "at most 67,108,864 bytes")],
)  # fmt: skip
def test_a_file_that_is_no_json_is_one_sentence(data, sentence, tmp_path):
    (tmp_path / "d.json").write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        load_directions(tmp_path / "d.json", **SHAPE)


def test_names_can_be_given_once_each():
    directions = directions_of().file
    assert [d.name for d in directions.named(["hair"]).directions] == ["hair", "b"]
    with pytest.raises(ValueError, match="3 names for 2 directions"):
        directions.named(["x", "y", "z"])
    with pytest.raises(ValueError, match="two directions have the name b"):
        directions.named(["b"])


# How they are found


def test_pca_gives_orthogonal_directions_with_their_spread(model):
    loaded = LoadedModel(model)
    found = find_directions(loaded, "pca", count=8, blocks=(0, 1, 2))
    vectors = torch.stack([d.vector for d in found.directions])
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(8), atol=1e-5, rtol=0)
    w = loaded.generator.mapping(torch.randn(20_000, 8)).detach()
    spread = (w @ vectors.T).std(0)
    sigmas = torch.tensor([d.sigma for d in found.directions])
    assert sigmas.tolist() == sorted(sigmas.tolist(), reverse=True)
    torch.testing.assert_close(sigmas, spread, rtol=0.05, atol=1e-4)
    assert sum(found.about["share_of_variance"]) == pytest.approx(1)
    assert remarks(found) == ["they hold 100% of the variance of w"]


def test_sefa_finds_a_direction_that_was_planted(model):
    loaded = LoadedModel(model)
    planted = torch.nn.functional.normalize(torch.randn(8), dim=0)
    weights = [level.blocks[0].norm1.style.weight for level in loaded.generator.levels]
    with torch.no_grad():
        for weight in weights:
            weight += 20 * torch.randn(len(weight), 1) * planted
    found = find_directions(loaded, "sefa", count=3, blocks=(0, 1, 2))
    assert abs(float(found.directions[0].vector @ planted)) > 0.99
    assert found.about["eigenvalues"][0] > found.about["random_edge_95"]
    assert remarks(found)[1] == "1 of them stand above that; the others may be chance"


def test_sefa_says_that_untrained_weights_may_be_chance(model):
    loaded = LoadedModel(model)
    rows = style_rows(loaded.generator, (0, 1))
    assert rows.shape == (2 * 2 * 16, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(64, dtype=torch.float64))
    found = find_directions(loaded, "sefa", count=3, blocks=(0, 1))
    assert found.directions[0].blocks == (0, 1)
    assert "none of them stands above that: they may be chance" in remarks(found)[1]


def test_the_edge_is_that_of_random_matrices():
    largest = []
    for _ in range(400):
        rows = torch.nn.functional.normalize(torch.randn(192, 32, dtype=torch.float64), dim=1)
        largest.append(float(torch.linalg.eigvalsh(rows.T @ rows)[-1]))
    edge = random_edge(192, 32)
    assert edge["random_edge"] == pytest.approx(6 * (1 + np.sqrt(32 / 192)) ** 2)
    # 5 % lie above, with a standard error of 1.1 % in 400 trials; unit rows vary a little less.
    assert 0.005 <= np.mean(np.array(largest) > edge["random_edge_95"]) <= 0.085
    assert random_edge(1536, 128)["random_edge"] == pytest.approx(19.93, abs=0.01)


def test_derivatives_are_those_of_forward_mode(model):
    loaded = LoadedModel(model)
    G = loaded.generator
    ws = loaded.styles("3").all(batch=1).ws
    blocks, axes = [0, 2], torch.tensor([1, 6])
    found = derivatives(loaded, ws, blocks, axes, 0.01)
    for row, axis in enumerate(axes.tolist()):
        tangent = torch.zeros_like(ws)
        tangent[:, blocks, axis] = 1
        _, exact = torch.func.jvp(G.synthesis, (ws,), (tangent,))
        # to_rgb is affine: the difference of two values takes its offset away.
        space = G.config.pixel_space
        exact = (to_rgb(exact, space) - to_rgb(torch.zeros_like(exact), space))[0].detach()
        error = (found[row] - exact).norm() / exact.norm()
        assert error < 5e-3, float(error)


def test_directions_of_a_region_change_it_more_than_others_do(model):
    loaded = LoadedModel(model)
    box = (4, 2, 12, 8)
    inside, outside = region_products(loaded, (0, 1, 2), box, spread=1.0)
    found = find_directions(loaded, "jacobian", count=2, blocks=(0, 1, 2), region=box)

    def share(v):
        v = v.double()
        return float(v @ inside @ v / (v @ (inside + outside) @ v))

    others = [share(v) for v in torch.eye(8)]
    first = share(found.directions[0].vector)
    assert first > max(others)
    assert first == pytest.approx(found.about["share_inside"][0], abs=1e-3)
    whole, rest = region_products(loaded, (0, 1, 2), None, spread=1.0)
    torch.testing.assert_close(whole, inside + outside)
    assert not rest.any()
    plain = find_directions(loaded, "jacobian", count=1, blocks=(0, 1, 2))
    torch.testing.assert_close(
        plain.directions[0].vector.double(), strongest(whole, 1)[1][:, 0], atol=1e-2, rtol=0
    )


def test_a_model_whose_w_does_not_vary_is_one_sentence(model):
    loaded = LoadedModel(model)
    for value in (0.0, float("nan")):
        with torch.no_grad():
            loaded.generator.mapping_network.layers[-1].weight.fill_(value)
        with pytest.raises(ValueError, match=r"w of .* must vary and be finite: its spread is"):
            find_directions(loaded, "pca", count=1, blocks=(0,))


def test_a_planted_region_is_found():
    inside, outside = torch.zeros(2, 4, 4, dtype=torch.float64)
    inside[0, 0], outside[0, 0] = 5.0, 50.0  # strong, but everywhere
    inside[2, 2], outside[1, 1] = 1.0, 1.0
    assert regional(inside, outside, 1)[:, 0].abs().argmax() == 2
    with pytest.raises(ValueError, match="no direction of w changes the images"):
        regional(0 * inside, 0 * outside, 1)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,x", "-1,0,3,4", "5,0,5,4", "0,9,4,3"])
def test_a_region_that_is_none_is_one_sentence(text):
    with pytest.raises(ValueError, match="--region must "):
        parse_region(text)


# The commands


def test_the_command_writes_a_file_and_a_strip_for_each(run, model, tmp_path, pixels):
    out = tmp_path / "d.json"
    result = run("directions", model, "--count=3", "--names=hair, age", "--out", out)
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first == f"{out}: 3 directions by pca, blocks all"
    assert second.startswith("  they hold ")
    names = ["d.age.png", "d.hair.png", "d.json", "d.pca3.png", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    strip = pixels(tmp_path / "d.hair.png").reshape(4, 16, 7, 16, 3).swapaxes(1, 2)
    loaded = LoadedModel(model)
    ws = loaded.styles("0-3").all(batch=4).ws
    hair = loaded.load_directions(out).find("hair")
    for column, strength in ((0, -3), (3, 0), (6, 3)):
        (expected,) = loaded.images(edited(ws, [Edit(hair, strength, strength)], 1.0))
        assert np.abs(strip[:, column] - expected.numpy()).max() <= 1
    assert np.abs(strip[:, 0] - strip[:, 6]).max() > 5


@pytest.mark.parametrize(
    "options", [["--method=sefa", "--blocks=0-1"], ["--method=jacobian", "--region=2,2,9,9"]]
)
def test_the_other_methods_write_files_too(options, run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(jacobian_module, "IMAGES", 1)
    out = tmp_path / "d.json"
    result = run("directions", model, "--count=2", "--strip-seeds=1", "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert len(LoadedModel(model).load_directions(out).directions) == 2


def test_edit_shows_images_before_and_after_and_saves_them(run, model, tmp_path, pixels):
    directions, out = tmp_path / "d.json", tmp_path / "edit.png"
    run("directions", model, "--count=3", "--out", directions)
    arguments = ["edit", model, "--seeds=0-1", "--directions", directions, "--out", out]
    result = run(
        *arguments, "--set=1:+2.0", "--set=pca3:-1", "--save-w", tmp_path / "ws.safetensors"
    )
    assert result.exit_code == 0, result.output
    sheet = pixels(out).reshape(2, 16, 2, 16, 3).swapaxes(1, 2)
    loaded = LoadedModel(model)
    (before,) = loaded.images(loaded.styles("0-1").all(batch=2).ws)
    (after,) = loaded.images(loaded.load_ws(tmp_path / "ws.safetensors").ws)
    assert np.abs(sheet[:, 0] - before.numpy()).max() <= 1
    assert np.abs(sheet[:, 1] - after.numpy()).max() <= 1
    assert np.abs(sheet[:, 0] - sheet[:, 1]).max() > 1
    assert run(*arguments, "--set=1:-2..2", "--steps=3").exit_code == 0
    columns = pixels(out).reshape(2, 16, 4, 16, 3).swapaxes(1, 2)
    assert np.abs(columns[:, 2] - before.numpy()).max() <= 1
    ws = ["--ws", tmp_path / "ws.safetensors", "--directions", directions, "--set=1:-2"]
    assert run("edit", model, *ws, "--out", out).exit_code == 0


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("directions", ["--count=9"], "--count must be 1 to style_dim, 8: 9"),
        ("directions", ["--count=0"], "--count must be 1 to style_dim, 8: 0"),
        ("directions", ["--region=0,0,4,4"], "--region is for --method jacobian, and not for pca"),
        ("directions", ["--method=jacobian", "--region=0,0,4,40"], "must lie in the image, 16x16"),
        ("directions", ["--method=jacobian", "--region=x"], "--region must be x0,y0,x1,y1"),
        ("directions", ["--out=d.yaml"], "must end in .json: d.yaml"),
        ("directions", ["--names=1"], "more than a number: '1'"),
        ("directions", ["--blocks=fine"], "has no fine blocks"),
        ("edit", ["--set=9:1"], "there is no direction '9'"),
        ("edit", ["--set=1:1", "--steps=3"], "--steps is for strengths with two ends"),
        ("edit", ["--set=1:1..2", "--save-w=w.safetensors"], "--save-w writes one edit"),
        ("edit", ["--set=1:1", "--out=e.jpg"], "must end in .png: e.jpg"),
        ("edit", ["--set=1:1", "--save-w=model.safetensors"], "must be another file than"),
    ],
)
def test_bad_values_are_one_sentence(command, options, sentence, run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directions = directions_of().file
    save_directions(Directions("pca", sha256_of(model), 3, directions.directions), "d.json")
    given = ["--count=2"] if command == "directions" else ["--seeds=0", "--directions=d.json"]
    result = run(command, model, *given, *options)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert sentence in line


def test_directions_of_another_model_need_any_model(run, model, other_model, tmp_path):
    run("directions", model, "--count=2", "--out", tmp_path / "d.json")
    arguments = ["edit", other_model, "--seeds=0", "--directions", tmp_path / "d.json",
                 "--set=1:1", "--out", tmp_path / "e.png"]  # fmt: skip
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "was made with another model" in refused.stderr
    assert run(*arguments, "--any-model").exit_code == 0


def test_the_covariance_is_that_of_w(model):
    G = LoadedModel(model).generator
    w = G.mapping(torch.randn(20_000, 8)).detach().double()
    torch.testing.assert_close(w_covariance(G), torch.cov(w.T), rtol=0.1, atol=0.02)


def test_a_difference_leads_from_the_mean_of_some_styles_to_that_of_others(model):
    loaded = LoadedModel(model)
    first, second = (loaded.styles(seeds).all(batch=8).ws for seeds in ([0, 1, 2], [7, 8]))
    found = find_directions(loaded, "difference", count=1, blocks=[1, 2], pair=(first, second))
    (direction,) = found.directions
    step = second[:, 1].mean(0) - first[:, 1].mean(0)
    torch.testing.assert_close(direction.vector, step / step.norm(), rtol=1e-4, atol=1e-5)
    assert direction.blocks == (1, 2)
    ends = [(ws[:, 1] @ direction.vector).double() for ws in (first, second)]
    around = torch.cat([end - end.mean() for end in ends]).square().mean().sqrt()
    apart = (ends[1].mean() - ends[0].mean()) / around
    assert found.about["apart"] == pytest.approx(apart.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "difference"), "--from and --to are for --method difference, which needs"),
        (("--from", "1"), "--from and --to belong together: --to is missing"),
        (
            ("--from", "1", "--to", "2", "--count", "2"),
            "--from and --to are for --method difference",
        ),
        (
            ("--method", "difference", "--from", "1", "--to", "2", "--count", "3"),
            "--method difference finds 1 direction: --count 3",
        ),
        (
            ("--method", "difference", "--from", "1,2", "--to", "2,1"),
            "--from and --to must be different styles",
        ),
    ],
)
def test_a_difference_needs_two_different_ends(model, run, tmp_path, options, said):
    result = run("directions", model, *options, "--out", tmp_path / "out.json")
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "out.json").exists()
