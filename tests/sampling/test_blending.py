"""`stylenat blend`: which part of the new generator is whose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from stylenat.cli import main
from stylenat.export import load_generator, save_generator
from stylenat.models import Generator
from stylenat.sampling import blend
from tests.sampling.tiny import CONFIG, tiny_generator


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["blend", *map(str, arguments)])


def pair(folder: Path) -> tuple[Path, Path]:
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for seed, path in enumerate(paths):
        save_generator(tiny_generator(seed), path)
    return paths


@pytest.mark.parametrize("from_level", [4, 8, 16])
def test_levels_below_are_a_s_and_the_others_b_s(tmp_path, from_level):
    a, b = pair(tmp_path)
    done = run(a, b, tmp_path / "out.safetensors", "--from-level", from_level)
    assert done.exit_code == 0, done.output
    tensors = load_generator(tmp_path / "out.safetensors").state_dict()
    A, B = (load_generator(path).state_dict() for path in (a, b))
    different = [name for name in tensors if not torch.equal(A[name], B[name])]
    assert {"const", "w_avg", "mapping_network.layers.0.weight"} <= {*different}
    for name in different:
        part, _, rest = name.partition(".")
        is_b = part == "levels" and 4 * 2 ** int(rest.partition(".")[0]) >= from_level
        assert torch.equal(tensors[name], (B if is_b else A)[name]), name


def test_the_command_says_what_is_whose(tmp_path):
    a, b = pair(tmp_path)
    out = tmp_path / "out.safetensors"
    first, second = run(a, b, out, "--from-level", 8).stdout.splitlines()
    assert first == f"{out}: mapping network and constant, levels 4 of {a}"
    assert second.strip() == f"levels 8, 16 of {b}"


def test_blending_changes_neither_generator():
    A, B = tiny_generator(0), tiny_generator(1)
    blend(A, B, from_level=8)
    for seed, generator in enumerate((A, B)):
        expected = tiny_generator(seed).state_dict()
        assert all(torch.equal(x, expected[n]) for n, x in generator.state_dict().items())


def with_changes(**settings: object) -> Generator:
    return Generator(dataclasses.replace(CONFIG, **settings)).eval()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: with_changes(levels=CONFIG.levels[:2]), "of one resolution .*: 16x16 and 8x8$"),
        (lambda: with_changes(style_dim=16), r"differ in style_dim \(8 and 16\)$"),
        (lambda: with_changes(qk_scale=0.5), r"differ in qk_scale \(None and 0\.5\)$"),
        (
            lambda: with_changes(
                levels=(*CONFIG.levels[:2], dataclasses.replace(CONFIG.levels[2], blocks=2))
            ),
            r"differ in levels\[2\] \(",
        ),
        (lambda: tiny_generator(1).double(), r"differ in dtype \(torch\.float32 and torch\.fl"),
    ],
)
def test_other_architectures_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        blend(tiny_generator(), other(), from_level=8)


def test_how_attention_is_computed_is_no_other_architecture():
    other = with_changes(attention_backend="reference", activation_checkpointing=True)
    assert blend(tiny_generator(), other, from_level=8).config == CONFIG


@pytest.mark.parametrize("from_level", [0, 12, 32])
def test_a_level_that_is_not_there_is_refused(tmp_path, from_level):
    a, b = pair(tmp_path)
    done = run(a, b, tmp_path / "out.safetensors", "--from-level", from_level)
    assert done.exit_code == 1
    sentence = f"--from-level must be a level of the generators, 4, 8, 16: {from_level}"
    assert done.stderr == f"Error: {sentence}\n"
    assert not (tmp_path / "out.safetensors").exists()


def test_a_model_that_is_read_is_not_overwritten(tmp_path):
    a, b = pair(tmp_path)
    done = run(a, b, b, "--from-level", 8)
    assert done.exit_code == 1
    assert "must be another file than" in done.stderr
