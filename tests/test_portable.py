"""Exported graphs: they give the generator's images, for any batch, without StyleNAT."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ops.neighborhood import HeadGroup
from stylenat import portable, precision, save_generator
from stylenat.cli import main
from stylenat.files import sha256_of
from stylenat.models import Generator, GeneratorConfig, LevelConfig, Windows
from stylenat.models.attention import HydraAttention
from stylenat.portable import largest_difference, save_onnx, save_torch_export
from tests.sampling.tiny import tiny_generator

onnx = pytest.importorskip("onnx", reason="onnx is not installed (the extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (the extra `export`)")

# Every kind of attention; at 32x32 neighborhoods are cut into tiles, at 16x16 they are not.
CONFIG = GeneratorConfig(
    (
        LevelConfig(4, 8, 2, "global", blocks=1),
        LevelConfig(8, 8, 2, Windows(4), blocks=1),
        LevelConfig(16, 8, 2, (HeadGroup(1, 3), HeadGroup(1, 5, 3)), blocks=1),
        LevelConfig(32, 8, 2, (HeadGroup(1, 7), HeadGroup(1, 3, 4)), blocks=2),
    ),
    z_dim=6,
    style_dim=10,
    mapping_layers=2,
    qk_scale=0.4,
)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    G = Generator(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if "rpb" in name or "qkv" in name:
                parameter.normal_()  # so that attention prefers some keys
            if "to_rgb" in name and parameter.ndim > 1:
                parameter.mul_(50)
            if "alpha" in name:
                parameter.fill_(0.5)
    G.store_w_avg()
    return G


@pytest.fixture(scope="module")
def exported(generator, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    save_onnx(generator, folder)
    return folder


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path)
    (only,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {only.name: x.numpy()})[0])


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


# ONNX


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_gives_the_images_of_pytorch_for_any_batch(generator, exported, batch):
    z = torch.randn(batch, 6)
    ws = torch.randn(batch, generator.num_ws, 10)
    with torch.no_grad():
        w, images = generator.mapping(z), generator.synthesis(ws)
    assert images.std() > 0.1
    torch.testing.assert_close(run(exported / "mapping.onnx", z), w, atol=1e-4, rtol=0)
    torch.testing.assert_close(run(exported / "synthesis.onnx", ws), images, atol=1e-4, rtol=0)


def test_the_files_hold_standard_operators_alone_and_nothing_of_our_source(exported):
    for name in ("mapping", "synthesis"):
        path = exported / f"{name}.onnx"
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {opset.domain for opset in model.opset_import} == {""}
        assert not model.functions
        assert b"generator.py" not in path.read_bytes()


def test_what_lies_between_the_networks_is_in_generator_json(generator, exported):
    about = json.loads((exported / "generator.json").read_text())
    assert torch.equal(torch.tensor(about["w_avg"]), generator.w_avg)
    assert about["block_resolutions"] == [4, 8, 16, 32, 32]
    assert (about["num_ws"], about["z_dim"], about["resolution"]) == (5, 6, 32)
    assert (about["output"], about["weights"]) == ("images", "float32")
    for name, file in about["files"].items():
        assert file["sha256"] == sha256_of(exported / f"{name}.onnx")


def test_the_generator_itself_is_left_as_it_was(generator, exported):
    assert all(parameter.requires_grad for parameter in generator.parameters())
    kinds = [m.backend for m in generator.modules() if isinstance(m, HydraAttention)]
    assert kinds == ["auto"] * 3


def test_pixels_of_half_the_bytes_are_the_images_up_to_rounding(generator, exported, tmp_path):
    save_onnx(generator, tmp_path, uint8=True, half=True)
    ws = torch.randn(2, generator.num_ws, 10)
    pixels = run(tmp_path / "synthesis.onnx", ws)
    with torch.no_grad():
        expected = generator.to_uint8(generator.synthesis(ws))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (2, 32, 32, 3))
    off = (pixels.int() - expected.int()).abs()
    assert off.float().mean() < 1  # 11 bits of every weight
    assert json.loads((tmp_path / "generator.json").read_text())["weights"] == "float16"

    def floats(folder: Path) -> int:
        initializers = onnx.load(folder / "synthesis.onnx").graph.initializer
        arrays = map(onnx.numpy_helper.to_array, initializers)
        return sum(array.nbytes for array in arrays if array.dtype.kind == "f")

    assert floats(tmp_path) < 0.75 * floats(exported)


def test_weights_that_float16_cannot_hold_are_refused():
    weight = onnx.numpy_helper.from_array(np.full(1000, 1e6, dtype=np.float32), "fc1.weight")
    graph = onnx.helper.make_graph([], "graph", [], [], [weight])
    with pytest.raises(ValueError, match=r"at most 65504: fc1.weight holds 1e\+06; export it in"):
        portable._halve(onnx.helper.make_model(graph))


def test_the_number_of_operations_does_not_grow_with_the_kernel():
    counts = set()
    for kernel_size in (3, 7):
        attention = HydraAttention(8, 2, [HeadGroup(2, kernel_size)], backend="portable")
        example = torch.zeros(2, 32, 32, 8)
        program = portable._program(attention.requires_grad_(False), {"x_BHWC": example})
        counts.add(len(program.graph.nodes))
    assert len(counts) == 1
    assert counts.pop() < 100  # `reference` has 220 for 3x3 windows and 860 for 7x7


def test_the_difference_is_that_of_the_images(generator, exported, tmp_path):
    z = torch.randn(2, 6)
    assert 0 < largest_difference(generator, exported, z) < 1e-4
    with torch.no_grad():
        generator.levels[-1].to_rgb.bias += 1
        off = largest_difference(generator, exported, z)
        generator.levels[-1].to_rgb.bias -= 1
    assert off == pytest.approx(1, abs=1e-3)


def test_a_generator_with_classes_takes_labels(tmp_path):
    config = GeneratorConfig(
        (LevelConfig(4, 8, 2, "global", blocks=1),),
        z_dim=6,
        style_dim=10,
        mapping_layers=2,
        classes=3,
        class_names=("cat", "dog", "owl"),
    )
    torch.manual_seed(0)
    G = Generator(config).eval()
    G.store_w_avg()
    save_onnx(G, tmp_path)
    z, labels = torch.randn(3, 6), torch.tensor([2, 0, 1])
    assert largest_difference(G, tmp_path, z, labels) < 1e-4
    assert (
        largest_difference(G, tmp_path, z, labels)
        < (G(z, labels) - G(z, labels.flip(0))).abs().max() / 100
    )
    about = json.loads((tmp_path / "generator.json").read_text())
    assert (about["classes"], about["class_names"]) == (3, ["cat", "dog", "owl"])
    assert torch.equal(torch.tensor(about["w_avg"]), G.w_avg)


# torch.export


def test_programs_of_torch_export_run_without_stylenat(generator, tmp_path):
    save_torch_export(generator, tmp_path)
    ws = torch.randn(3, generator.num_ws, 10)
    np.save(tmp_path / "ws.npy", ws.numpy())
    code = (
        "import sys, numpy, torch; sys.modules['stylenat'] = sys.modules['ops'] = None\n"
        "ws = torch.from_numpy(numpy.load('ws.npy'))\n"
        "images = torch.export.load('synthesis.pt2').module()(ws)\n"
        "numpy.save('images.npy', images.numpy())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        expected = generator.synthesis(ws)
    images = torch.from_numpy(np.load(tmp_path / "images.npy"))
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


# What is refused


def test_an_absent_package_names_the_extra(generator, tmp_path, monkeypatch):
    monkeypatch.setattr("stylenat.extras.find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=r"needs onnx and onnxscript, which are not installed.*'stylenat\[export\]'",
    ):
        save_onnx(generator, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_generator_of_another_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be float32, not torch.bfloat16"):
        save_torch_export(Generator(CONFIG).bfloat16(), tmp_path)


def test_the_command_writes_and_says_how_far_they_are_off(generator, tmp_path):
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    save_generator(generator, model)
    result = command(model, "--onnx", out, "--uint8")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{out}: mapping.onnx ")
    assert second.startswith("ONNX Runtime's image of seed 0 differs from PyTorch's by ")
    assert second.endswith(" of 255")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say what to write"),
        (["--onnx", "a", "--torch-export", "a"], "must be two folders: both are a"),
        (["--torch-export", "a", "--fp16"], "--fp16 is for ONNX files"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, sentence):
    result = command("model.safetensors", *options)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize(
    ("save", "file"), [(save_torch_export, "synthesis.pt2"), (save_onnx, "synthesis.onnx")]
)
def test_a_program_that_has_trained_before_can_export(tmp_path, save, file):
    """Whatever of TF32 the program has set, through PyTorch's newer switches too, is left alone."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    with precision.kept_tf32():
        for switch in switches:
            switch.fp32_precision = "ieee"
        save(tiny_generator(), tmp_path)
        assert [switch.fp32_precision for switch in switches] == ["ieee"] * 2
    assert (tmp_path / file).is_file()
