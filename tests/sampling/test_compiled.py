"""`--compile`: the same images, whatever the batch, and what it is not for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.export import save_generator
from stylenat.sampling import compile_synthesis, compiled, generate
from tests.metrics.standin import save_folder
from tests.sampling.tiny import tiny_generator


@pytest.fixture
def stand_in(monkeypatch):
    """torch.compile that counts the shapes it would compile, and how, and runs eagerly."""
    compilations: list[tuple[int, str | None]] = []

    def compile_nothing(function, *, dynamic, mode=None):
        assert dynamic is False
        seen = set()

        def run(ws):
            if len(ws) not in seen:
                compilations.append((len(ws), mode))
                seen.add(len(ws))
            return function(ws)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return compilations


@pytest.mark.slow
def test_compiled_images_equal_eager_ones_to_rounding():
    """In bfloat16 fused operations round less often: within twice the eager images' own error."""

    def images(generator, dtype):
        settings = {"batch": 2, "truncation_psi": 0.7, "dtype": dtype}
        return torch.cat(list(generate(generator, range(5), **settings))).int()

    eager, fast = tiny_generator(), tiny_generator()
    compile_synthesis(fast)
    exact = images(eager, torch.float32)
    assert (images(fast, torch.float32) - exact).abs().max() <= 1
    own_error, error = (
        (images(generator, torch.bfloat16) - exact).float().square().mean().sqrt().item()
        for generator in (eager, fast)
    )
    assert own_error > 0
    assert error <= 2 * own_error, f"compiled {error}, eager {own_error}"


def test_the_last_smaller_batch_compiles_nothing_new(stand_in):
    generator = tiny_generator()
    expected = torch.cat(list(generate(generator, range(5), batch=2)))
    compile_synthesis(generator)
    found = list(generate(generator, range(5), batch=2))
    assert [len(images) for images in found] == [2, 2, 1]
    assert (torch.cat(found).int() - expected.int()).abs().max() <= 1
    assert stand_in == [(2, None)]
    next(generate(generator, range(5), batch=5))
    assert stand_in == [(2, None), (5, None)]


def test_compiled_synthesis_refuses_what_the_eager_one_does(stand_in):
    generator = tiny_generator()
    compile_synthesis(generator)
    with pytest.raises(ValueError, match="ws must be"):
        generator.synthesis(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="ws must be"):
        generator.synthesis(torch.zeros(2, 99, 8))


def test_small_batches_on_a_gpu_are_graphs_whose_images_are_kept(stand_in, monkeypatch):
    """A stand-in for a tensor on a GPU, whose graph gives the same memory every time."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(compiled, "GRAPH_PIXELS", 2 * 16**2)
    generator = tiny_generator()
    compile_synthesis(generator)
    synthesis, owned = generator.synthesis, torch.zeros(2, 3, 16, 16)
    graphed = synthesis.graphed
    monkeypatch.setattr(synthesis, "graphed", lambda ws: owned.copy_(graphed(ws)))
    ws = generator.mapping(torch.randn(4, 8))[:, None].expand(-1, generator.num_ws, -1)
    first = generator.synthesis(ws[:2])
    kept = first.clone()
    generator.synthesis(ws[2:])
    assert torch.equal(first, kept)
    generator.synthesis(ws)
    assert stand_in == [(2, "reduce-overhead"), (4, None)]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_sample_and_fid_compile_where_they_are_asked_to(stand_in, tmp_path):
    model = tmp_path / "model.safetensors"
    save_generator(tiny_generator(), model)
    out = tmp_path / "out"
    sampled = run("sample", model, "--seeds=0-2", "--batch=2", "--compile", "--outdir", out)
    assert sampled.exit_code == 0, sampled.output
    assert stand_in == [(2, None)]
    (expected,) = generate(tiny_generator(), [0])
    with Image.open(out / "seed0000.png") as image:
        assert np.abs(np.array(image).astype(int) - expected[0].numpy()).max() <= 1
    data = save_folder(tmp_path / "data", 12, seed=1, side=16)
    settings = ["--data", data, "--metrics=swd", "--num=6", "--batch=4"]
    scored = run("fid", model, *settings, "--compile")
    assert scored.exit_code == 0, scored.output
    assert stand_in[1:] == [(4, None)]
    refused = run("fid", data, *settings, "--compile")
    assert refused.exit_code == 1
    assert "--compile is for models" in refused.stderr
