"""Block names, the style mixing matrix, the truncation sweep and multimodal truncation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylenat.config import load_config
from stylenat.latents import (
    LoadedModel,
    Settings,
    blocks_text,
    find_centers,
    parse_blocks,
    parse_sweep,
)
from stylenat.sampling import generate
from tests.sampling.tiny import CONFIG, tiny_generator

NONE = {
    "fine": "a model for 16x16 has no fine blocks: choose from 0 to 2",
    "0,x": "blocks must be coarse, middle, fine, all, numbers or ranges such as 0-3: 'x'",
    "1-3": "blocks must run upwards from 0 to 2: 1-3",
    "2-1": "blocks must run upwards from 0 to 2: 2-1",
}


def test_names_of_blocks_follow_the_levels():
    big = load_config("configs/ffhq256.yaml").model.generator
    assert parse_blocks("coarse", big) == (0, 1, 2, 3)
    assert parse_blocks("middle", big) == (4, 5, 6, 7)
    assert parse_blocks("fine", big) == tuple(range(8, 14))
    assert parse_blocks("all", big) == tuple(range(14))
    assert parse_blocks("9, coarse,2-5", big) == (0, 1, 2, 3, 4, 5, 9)
    small = load_config("configs/faces64.yaml").model.generator
    assert [parse_blocks(name, small) for name in ("coarse", "middle", "fine")] == [
        (0, 1), (2, 3), (4,)
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), NONE.items())
def test_other_blocks_are_one_sentence(text, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_blocks(text, CONFIG)
    assert str(caught.value) == sentence


def test_text_of_blocks_is_read_back():
    assert blocks_text([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert parse_blocks(blocks_text([0, 2]), CONFIG) == (0, 2)


def test_the_matrix_has_both_margins_and_takes_blocks_of_the_columns(run, model, tmp_path, pixels):
    out = tmp_path / "mix.png"
    result = run("mix", model, "--rows=5,6", "--cols=7,8,9", "--blocks=1-2", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: 2 rows, 3 columns; blocks 1-2 are those of the columns\n"
    sheet = pixels(out).reshape(3, 16, 4, 16, 3).swapaxes(1, 2)
    (seeds,) = generate(tiny_generator(), [5, 6, 7, 8, 9])
    assert not sheet[0, 0].any()
    assert np.abs(sheet[1:, 0] - seeds[:2].numpy()).max() <= 1
    assert np.abs(sheet[0, 1:] - seeds[2:].numpy()).max() <= 1
    ws = LoadedModel(model).styles("6,8").all(batch=2).ws
    crossed = torch.cat([ws[:1, :1], ws[1:, 1:]], dim=1)
    (expected,) = LoadedModel(model).images(crossed)
    assert np.abs(sheet[2, 2] - expected[0].numpy()).max() <= 1
    assert np.abs(sheet[2, 2] - sheet[2, 0]).max() > 1


def test_rows_can_be_those_of_a_ws_file(run, model, tmp_path, pixels):
    run("sample", model, "--seeds=5,6", "--save-w", "--outdir", tmp_path)
    ws = tmp_path / "ws.safetensors"
    assert run("mix", model, "--rows", ws, "--cols=7", "--out", tmp_path / "a.png").exit_code == 0
    assert run("mix", model, "--rows=5,6", "--cols=7", "--out", tmp_path / "b.png").exit_code == 0
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png")).max() <= 1


def test_a_sweep_has_a_row_a_seed_and_a_column_a_psi(run, model, tmp_path, pixels):
    arguments = ["sample", model, "--seeds=5,6", "--trunc-sweep=-1:1:3", "--outdir", tmp_path / "o"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["sweep.png"]
    sheet = pixels(tmp_path / "o" / "sweep.png").reshape(2, 16, 3, 16, 3).swapaxes(1, 2)
    for column, psi in enumerate((-1, 0, 1)):
        (expected,) = generate(tiny_generator(), [5, 6], truncation_psi=psi)
        assert np.abs(sheet[:, column] - expected.numpy()).max() <= 1
    for option in ("--trunc=0.5", "--grid=1x1", "--save-w"):
        assert "no meaning beside --trunc-sweep" in run(*arguments, option).stderr


@pytest.mark.parametrize("text", ["", "1:2", "a:1:3", "0:1:1", "0:1:101", "0:inf:3", "0:1:3:4"])
def test_a_sweep_that_is_none_is_one_sentence(text):
    with pytest.raises(ValueError, match="--trunc-sweep must be FROM:TO:COUNT"):
        parse_sweep(text)


def test_truncation_leads_to_the_nearest_center(model):
    pytest.importorskip("sklearn")
    loaded = LoadedModel(model, Settings(trunc=0.0, trunc_modes=4))
    ws = loaded.styles("0-19").all(batch=20).ws
    centers = find_centers(loaded.generator, 4)
    assert torch.equal(centers, find_centers(tiny_generator(), 4))
    plain = LoadedModel(model).styles("0-19").all(batch=20).ws
    nearest = torch.cdist(plain[:, 0], centers).argmin(1)
    assert len(set(nearest.tolist())) > 1
    torch.testing.assert_close(ws, centers[nearest][:, None].expand(-1, 3, -1))


def test_without_scikit_learn_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr("stylenat.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs scikit-learn.*stylenat\[modes\]"):
        Settings(trunc=0.5, trunc_modes=4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trunc_modes": 4}, "--trunc 1 means none: give a --trunc below 1"),
        ({"trunc_cutoff": 2}, "--trunc 1 means none: give a --trunc below 1"),
        ({"trunc_modes": 1, "trunc": 0.5}, "--trunc-modes must be 2 to 1,000 centers: 1"),
    ],
)
def test_settings_without_effect_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings(**options)
