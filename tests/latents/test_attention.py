"""Attention maps: they are the weights that the generator uses, summed up and drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ops.neighborhood import HeadGroup
from stylenat.export import save_generator
from stylenat.latents import LoadedModel, Settings
from stylenat.latents.ablation import lost_without, without_group
from stylenat.latents.attention_maps import Place, Weights, attention_weights, summaries
from stylenat.latents.attention_pictures import COLD, HOT, QUERY, bias_sheet, query_sheet
from stylenat.latents.attention_report import write_report
from stylenat.models import Generator, LevelConfig, Windows
from tests.sampling.tiny import CONFIG, tiny_generator


@pytest.fixture
def G():
    G = tiny_generator()
    with torch.no_grad():  # at the start of training, weights are nearly equal
        for name, parameter in G.named_parameters():
            if "qkv" in name or "rpb" in name:
                parameter.mul_(30)
    return G


def applied(found: Weights, v_BHWND):
    """The sum of the values at the keys, by the weights, one query at a time."""
    out = torch.zeros_like(v_BHWND)
    for y in range(v_BHWND.shape[1]):
        for x in range(v_BHWND.shape[2]):
            values = v_BHWND[:, found.rows[y]][:, :, found.columns[x]].flatten(1, 2)  # [B, K, N, D]
            out[:, y, x] = torch.einsum("bnk,bknd->bnd", found.weights[:, y, x], values)
    return out


def test_weights_are_those_that_the_generator_uses(G):
    """The weights times the values are what the module gives to its last layer."""
    ws = torch.randn(2, 3, 8)
    before_proj, tokens = {}, {}
    attentions = [level.blocks[0].attention for level in G.levels]
    for number, attention in enumerate(attentions):
        attention.proj.register_forward_pre_hook(
            lambda _, x, number=number: before_proj.__setitem__(number, x[0].detach())
        )
        attention.register_forward_pre_hook(
            lambda _, x, number=number: tokens.__setitem__(number, x[0].detach())
        )
    parts = {}
    for found in attention_weights(G, ws):
        place = found.place
        v = attentions[place.block].qkv_heads(tokens[place.block])[..., 2, :, :].detach()
        heads = slice(place.first_head, place.first_head + place.heads)
        parts.setdefault(place.block, []).append(applied(found, v[..., heads, :]))
    assert [len(groups) for groups in parts.values()] == [1, 1, 2]
    for number, groups in parts.items():
        out = torch.cat(groups, dim=-2).flatten(-2)
        expected = before_proj[number]
        assert expected.std() > 1e-3
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_places_name_level_block_group_and_heads(G):
    places = [found.place for found in attention_weights(G, torch.randn(1, 3, 8))]
    assert places == [
        Place(4, 0, 0, 0, 2, 0, 1),
        Place(8, 1, 0, 0, 2, 3, 1),
        Place(16, 2, 0, 0, 1, 3, 1),
        Place(16, 2, 1, 1, 1, 3, 2),
    ]
    assert places[0].label == "4x4, block 0, global"
    assert places[3].label == "16x16, block 2, kernel 3, dilation 2"


def test_equal_weights_have_the_largest_entropy_and_the_mean_distance():
    rows, columns = (torch.arange(n)[:, None].clamp(1, n - 2) + torch.arange(-1, 2) for n in (4, 6))
    place = Place(8, 0, 0, 3, 1, 3, 1)
    equal = Weights(place, torch.full((1, 4, 6, 1, 9), 1 / 9), rows, columns)
    (head,) = summaries(equal, 16)
    assert head.head == 3
    assert head.entropy == pytest.approx(math.log(9))
    assert head.uniform_entropy == pytest.approx(math.log(9))
    assert head.distance == pytest.approx(head.uniform_distance)
    assert head.on_itself == pytest.approx(1 / 9)
    # Only the first key: up and to the left, for a query that is not at an edge.
    first = Weights(place, torch.eye(9)[0].expand(1, 4, 6, 1, 9), rows, columns)
    (head,) = summaries(first, 16)
    dy, dx = np.array([0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 2])
    expected = 2 * np.hypot(dy[:, None], dx[None]).mean()  # a token is two pixels of the image
    assert head.distance == pytest.approx(expected)
    assert (head.entropy, head.on_itself) == (0, pytest.approx(1 / 24))


def test_a_silenced_group_is_one_whose_values_are_zero(G):
    ws = torch.randn(1, 3, 8)
    place = Place(16, 2, 1, 1, 1, 3, 2)
    before = G.synthesis(ws)
    with without_group(G, place):
        found = G.synthesis(ws)
    assert torch.equal(G.synthesis(ws), before)
    changed = tiny_generator()
    changed.load_state_dict(G.state_dict())
    attention = changed.levels[2].blocks[0].attention
    with torch.no_grad():  # rows of v of the second head
        attention.qkv.weight[16 + 4 : 24] = 0
        attention.qkv.bias[16 + 4 : 24] = 0
    torch.testing.assert_close(found, changed.synthesis(ws), rtol=1e-4, atol=1e-4)
    change, coarse = lost_without(G, ws, place)
    pixels = [G.to_uint8(images).double() for images in (before.detach(), found.detach())]
    difference = (pixels[1] - pixels[0])[0]
    assert change == pytest.approx(float(difference.square().mean()))
    boxes = difference.reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert coarse == pytest.approx(float(boxes.square().mean()))
    assert 0.1 < coarse < change


def test_the_picture_has_the_query_and_its_keys_at_their_places(G):
    found = list(attention_weights(G, torch.randn(1, 3, 8)))[3]
    image = torch.full((16, 16, 3), 100, dtype=torch.uint8)
    sheet = query_sheet(found, image, (9, 4)).reshape(192, 2, 192, 3).swapaxes(0, 1)
    cells = sheet[:, 6::12, 6::12]  # the middle of each token
    assert cells[0, 4, 9].tolist() == list(QUERY)
    assert cells[0, 0, 0].tolist() == [100, 100, 100]
    touched = {
        (y, x) for y in range(16) for x in range(16) if cells[1, y, x].tolist() != [60, 60, 60]
    }
    assert touched <= {(y, x) for y in (2, 4, 6) for x in (7, 9, 11)}
    assert (4, 9) in touched
    strongest = int(found.weights[0, 4, 9, 0].argmax())
    y, x = 2 + 2 * (strongest // 3), 7 + 2 * (strongest % 3)
    assert cells[1, y, x].tolist() in (list(HOT), list(QUERY))


def test_bias_tables_are_red_above_and_blue_below_zero():
    rpb = torch.zeros(2, 3, 3)
    rpb[0, 0, 2], rpb[1, 1, 1] = 4.0, -2.0
    cells = bias_sheet(rpb).reshape(96, 2, 96, 3).swapaxes(0, 1)[:, 16::32, 16::32]
    assert cells[0, 0, 2].tolist() == list(HOT)
    assert cells[0, 1, 1].tolist() == [255, 255, 255]
    half = [round(255 + 0.5 * (part - 255)) for part in COLD]
    assert np.abs(np.array(cells[1, 1, 1].tolist()) - half).max() <= 1


def test_the_command_writes_numbers_and_two_pictures_for_each_group(run, model, tmp_path):
    out = tmp_path / "out"
    result = run("attention", model, "--seed", "3", "--at", "2,15", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == (f"{out}: attention.md, attention.json and 8 pictures")
    assert len(list(out.glob("level*_group?.png"))) == 4
    assert len(list(out.glob("level*_bias.png"))) == 4
    written = (out / "attention.md").read_text()
    assert written in result.stdout
    assert len(written.splitlines()) == 6
    data = json.loads((out / "attention.json").read_text())
    assert data["styles"] == ["seed0003"]
    assert len(data["groups"][3]["heads"]) == 1
    assert data["groups"][3]["heads"][0]["dilation"] == 2
    assert run("attention", model, "--seeds=0-2", "--out", out).exit_code == 0


def test_numbers_do_not_depend_on_the_batch(model, tmp_path):
    reports = {}
    for batch in (2, 3):
        loaded = LoadedModel(model, Settings(batch=batch))
        reports[batch] = write_report(loaded, loaded.styles("0-2"), tmp_path / "o", at=None)
    for one, other in zip(reports[2], reports[3], strict=True):
        assert one.change == pytest.approx(other.change, rel=1e-3)
        assert one.coarse_share == pytest.approx(other.coarse_share, rel=1e-3)
        for name in ("distance", "entropy", "on_itself"):
            values = [getattr(report.heads[0], name) for report in (one, other)]
            assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_windows_are_left_out_and_said_so(run, tmp_path):
    levels = (CONFIG.levels[0], LevelConfig(8, 8, heads=2, attention=Windows(4), blocks=1))
    G = Generator(replace(CONFIG, levels=levels)).eval()
    G.store_w_avg()
    save_generator(G, tmp_path / "windows.safetensors")
    result = run("attention", tmp_path / "windows.safetensors", "--seed=0", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "levels with StyleSwin's windows, which are left out: 1" in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--seed=0", "--at=16,0"], 1, "--at must be x,y inside the image, 16x16: 16,0"),
        (["--seed=0", "--at=a"], 2, "'a' is not a pixel, such as 32,20"),
        ([], 1, "there must be at least one seed or ws file: give --seeds or --ws"),
    ],
)
def test_bad_values_are_one_sentence(options, code, sentence, run, model, tmp_path):
    result = run("attention", model, *options, "--out", tmp_path / "out")
    assert result.exit_code == code
    assert sentence in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_compiled_or_not_the_hooks_are_gone_afterwards(model):
    loaded = LoadedModel(model)
    list(attention_weights(loaded.generator, torch.randn(1, 3, 8)))
    assert not any(module._forward_pre_hooks for module in loaded.generator.modules())


def test_weights_of_several_groups_see_their_own_dilation(G):
    found = list(attention_weights(G, torch.randn(1, 3, 8)))
    steps = {int(f.rows[8].diff()[0]) for f in found[2:]}
    assert steps == {1, 2}
    assert HeadGroup(1, 3, 2) in CONFIG.levels[2].attention
