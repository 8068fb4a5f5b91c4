"""ws files: what `sample --save-w` writes, `--ws` takes, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stylenat.files import sha256_of
from stylenat.latents import LoadedModel, Settings, load_ws, save_ws
from stylenat.sampling import NamedWs, Styles
from tests.sampling.tiny import tiny_generator

SHA = "ab" * 32
SHAPE = {"model_sha256": SHA, "num_ws": 3, "style_dim": 8}


def named(count=2):
    return NamedWs(tuple(f"w{i}" for i in range(count)), torch.randn(count, 3, 8))


def written(path, *, ws=None, names=None, **changed):
    """A file that differs from a good one in what is given."""
    ws = torch.randn(2, 3, 8) if ws is None else ws
    names = json.dumps(["a", "b"]) if names is None else names
    metadata = {"stylenat_format": "1", "kind": "ws", "names": names, "model_sha256": SHA}
    save_file({"ws": ws}, path, {**metadata, **changed})
    return path


def test_a_file_gives_back_names_and_ws(tmp_path):
    styles = named()
    save_ws(styles, tmp_path / "ws.safetensors", model_sha256=SHA)
    found = load_ws(tmp_path / "ws.safetensors", **SHAPE)
    assert found.names == styles.names
    assert torch.equal(found.ws, styles.ws)


def test_images_of_a_saved_file_are_those_of_its_seeds(run, model, tmp_path, pixels):
    first = run("sample", model, "--seeds=3,1,3", "--trunc=0.5", "--trunc-cutoff=2", "--save-w",
                "--outdir", tmp_path / "a")  # fmt: skip
    assert first.exit_code == 0, first.output
    assert first.stdout.endswith(f", ws {tmp_path / 'a' / 'ws.safetensors'}\n")
    ws = tmp_path / "a" / "ws.safetensors"
    second = run("sample", model, "--ws", ws, "--outdir", tmp_path / "b")
    assert second.exit_code == 0, second.output
    for name in ("seed0001.png", "seed0003.png"):
        assert np.abs(pixels(tmp_path / "a" / name) - pixels(tmp_path / "b" / name)).max() <= 1
    assert load_ws(ws, **{**SHAPE, "model_sha256": sha256_of(model)}).names == (
        "seed0003", "seed0001"
    )  # fmt: skip


def test_only_the_first_blocks_are_truncated(model):
    loaded = LoadedModel(model, Settings(trunc=0.0, trunc_cutoff=2))
    full = LoadedModel(model).styles("5").all(batch=1).ws
    ws = loaded.styles("5").all(batch=1).ws
    w_avg = loaded.generator.w_avg
    assert torch.equal(ws[0, :2], w_avg.expand(2, -1))
    assert torch.equal(ws[0, 2], full[0, 2])
    assert not torch.equal(full[0, 0], w_avg)


def test_truncation_moves_given_ws_too(tmp_path, model):
    path = tmp_path / "ws.safetensors"
    save_ws(named(), path, model_sha256=sha256_of(model))
    plain = LoadedModel(model).styles(ws_files=[path]).all(batch=1).ws
    half = LoadedModel(model, Settings(trunc=0.5)).styles(ws_files=[path]).all(batch=1).ws
    torch.testing.assert_close(half - plain, 0.5 * (tiny_generator().w_avg - plain))


def test_styles_of_seeds_come_before_those_of_files(tmp_path, model):
    path = tmp_path / "ws.safetensors"
    save_ws(named(), path, model_sha256=sha256_of(model))
    styles = LoadedModel(model).styles("7-8", [path])
    assert [styles.name(i) for i in range(4)] == ["seed0007", "seed0008", "w0", "w1"]
    mixed_batches = [ws for _, ws in styles.batches(range(4), batch=3)]
    torch.testing.assert_close(torch.cat(mixed_batches), styles.all(batch=4).ws)


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match="two styles have the name seed0001: leave one"):
        Styles(tiny_generator(), [1], given=NamedWs(("seed0001",), torch.zeros(1, 3, 8)))


def test_a_file_of_another_model_needs_any_model(run, model, other_model, tmp_path):
    run("sample", model, "--seeds=0", "--save-w", "--outdir", tmp_path / "a")
    arguments = ["sample", other_model, "--ws", tmp_path / "a" / "ws.safetensors", "--outdir"]
    refused = run(*arguments, tmp_path / "b")
    assert refused.exit_code == 1
    assert "was made with another model, of SHA-256" in refused.stderr
    assert not (tmp_path / "b").exists()
    assert run(*arguments, tmp_path / "b", "--any-model").exit_code == 0
    with pytest.raises(ValueError, match="does not fit the model: it holds ws for 3 blocks"):
        load_ws(tmp_path / "a" / "ws.safetensors", **{**SHAPE, "num_ws": 4}, any_model=True)


HOSTILE = {
    "shape": ({"ws": torch.zeros(2, 8)}, r"its ws must be \[2, num_ws, style_dim\]"),
    "rows": ({"ws": torch.zeros(3, 3, 8)}, "as it has 2 names"),
    "nan": ({"ws": torch.full((2, 3, 8), torch.nan)}, "must hold finite floating-point ws"),
    "whole numbers": ({"ws": torch.zeros(2, 3, 8, dtype=torch.int64)}, "finite floating-point"),
    "kind": ({"kind": "generator"}, "is no ws file"),
    "format": ({"stylenat_format": "7"}, "reads 1: update StyleNAT"),
    "names": ({"names": "["}, "are not JSON"),
    "deep names": ({"names": "[" * 100_000}, "are not JSON"),
    "no list": ({"names": '{"a": 1}'}, "must be a list of text"),
    "numbers": ({"names": "[1, 2]"}, "must be a list of text"),
    "path": ({"names": '["../x", "b"]'}, "a name in .* must be 1 to 80 letters"),
    "twice": ({"names": '["a", "a"]'}, "two ws in .* have the name a"),
    "none": ({"names": "[]"}, "must hold 1 to 10,000 ws: 0"),
    "many": ({"names": json.dumps([str(i) for i in range(10_001)])}, "1 to 10,000 ws: 10,001"),
    "model": ({"model_sha256": "cd" * 32}, "was made with another model"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_sentence(what, tmp_path):
    changed, sentence = HOSTILE[what]
    with pytest.raises(ValueError, match=sentence) as caught:
        load_ws(written(tmp_path / "ws.safetensors", **changed), **SHAPE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64, b"\0" * 8 + b"{}"])
def test_a_file_that_is_no_safetensors_is_one_sentence(data, tmp_path):
    path = tmp_path / "ws.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        load_ws(path, **SHAPE)
    with pytest.raises(FileNotFoundError):
        load_ws(tmp_path / "absent.safetensors", **SHAPE)


def test_a_ws_file_must_be_named_as_one(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_ws(named(), tmp_path / "ws.npz", model_sha256=SHA)
