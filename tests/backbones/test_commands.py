"""`stylenat classify`, `accuracy` and `convert` of classifiers."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from stylenat.backbones import NAT, ImageConfig, load_classifier, save_classifier, variant
from stylenat.backbones.evaluation import ImageFolder, measure_accuracy
from stylenat.backbones.preparing import normalise, prepare, read_image
from stylenat.cli import main
from stylenat.data.images import RefusedImage
from tests.backbones.golden import hugging_face_names
from tests.backbones.test_network import tiny_config
from tests.training.tiny import stylenat

COLORS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (230, 20, 10)}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def colour_classifier(path: Path, labels: tuple[str, ...] = ()) -> Path:
    """A network whose three logits are the mean of the image's blue, green and red."""
    config = tiny_config(num_classes=3, labels=labels, images=ImageConfig(size=32))
    network = NAT(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # The stem hands on three channels and their opposites, and no branch adds to them.
        first, second = network.patch_embed.proj
        first.weight[:3, :, 1, 1] = torch.eye(3)
        second.weight[:3, :3, 1, 1] = torch.eye(3)
        second.weight[3:6, :3, 1, 1] = -torch.eye(3)
        reduction = network.levels[0].downsample.reduction
        reduction.weight[:16, :16, 1, 1] = torch.eye(16)
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
        network.head.weight[:, :3] = torch.eye(3).flip(0)
    save_classifier(network, path)
    return path


def save_image(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return colour_classifier(tmp_path / "model.safetensors", tuple(COLORS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images, two of them in the folder of another colour."""
    for name, color in COLORS.items():
        for index in range(2):
            save_image(tmp_path / "val" / name / f"{index}.png", color)
    save_image(tmp_path / "val" / "blue" / "1.png", COLORS["red"])
    save_image(tmp_path / "val" / "red" / "3.png", COLORS["green"])
    return tmp_path / "val"


# What a network sees


@pytest.mark.parametrize("size", [(300, 200), (200, 333), (256, 256), (90, 31), (1000, 257)])
@pytest.mark.parametrize("config", [ImageConfig(), ImageConfig(size=384, crop_pct=1.0)])
def test_preparation_is_torchvision_s_to_the_pixel(size, config):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    official = transforms.Compose(
        [
            transforms.Resize(int(config.size / config.crop_pct), InterpolationMode.BICUBIC),
            transforms.CenterCrop(config.size),
        ]
    )
    prepared = prepare(image, config)
    assert np.array_equal(np.asarray(prepared), np.asarray(official(image)))
    tensor = transforms.Normalize(config.mean, config.std)(transforms.ToTensor()(prepared))
    ours = normalise(torch.from_numpy(np.asarray(prepared).copy())[None], config)
    torch.testing.assert_close(ours[0], tensor)


def test_a_picture_s_turn_is_followed_unless_the_published_numbers_are_measured(tmp_path):
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    config = ImageConfig(size=32, crop_pct=1.0)
    top = [read_image(tmp_path / "turned.png", config, upright=u)[0, 0] for u in (True, False)]
    assert [x.tolist() for x in top] == [[255, 0, 0], [0, 0, 255]]


def test_a_shape_that_is_too_long_is_refused():
    with pytest.raises(RefusedImage, match="is too long to be scaled to 256: 1x9000000"):
        prepare(Image.new("RGB", (1, 9_000_000)), ImageConfig())


# classify


def test_classify_names_the_likeliest_classes(model, tmp_path):
    image = save_image(tmp_path / "picture.png", COLORS["red"])
    result = run("classify", model, image, "--top", 2)
    assert result.exit_code == 0, result.output
    name, first, second = result.stdout.splitlines()
    assert name == str(image)
    assert first.split("%")[1].split() == ["class", "2", "red"]
    chances = [float(line.split("%")[0]) for line in (first, second)]
    assert 100 >= chances[0] > chances[1] > 0
    assert len(run("classify", model, image).stdout.splitlines()) == 4  # all three classes


def test_labels_of_a_file_go_before_the_model_s(model, tmp_path):
    image = save_image(tmp_path / "picture.png", COLORS["blue"])
    (tmp_path / "labels.txt").write_text("himmel\ngras\nrose\n")
    result = run("classify", model, image, "--labels", tmp_path / "labels.txt", "--top", 1)
    assert "class 0  himmel" in result.stdout


def test_without_labels_the_numbers_of_the_classes_stand_alone(tmp_path):
    model = colour_classifier(tmp_path / "model.safetensors")
    image = save_image(tmp_path / "picture.png", COLORS["green"])
    assert run("classify", model, image, "--top", 1).stdout.rstrip().endswith("%  class 1")


def test_bad_input_of_classify_is_one_sentence(model, tmp_path):
    image = save_image(tmp_path / "picture.png", COLORS["red"])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x80")
    save_classifier(NAT(tiny_config(num_classes=0)), tmp_path / "headless.safetensors")
    missing = os.strerror(errno.ENOENT)
    for arguments, sentence in (
        ([tmp_path / "absent.pth", image], f"absent.pth: {missing}"),
        ([model, tmp_path / "absent.png"], f"absent.png: {missing}"),
        ([model, tmp_path / "text.png"], "text.png is no image of a known format"),
        ([model, image, "--labels", tmp_path / "two.txt"], "two.txt has 2 labels, and the model"),
        ([model, image, "--labels", tmp_path / "none.txt"], "none.txt holds no labels"),
        ([model, image, "--labels", tmp_path / "bytes.txt"], "bytes.txt is no text in UTF-8"),
        ([model, image, "--name", "nat_mini"], "leave out the name nat_mini"),
        ([tmp_path / "headless.safetensors", image], "the model has no head"),
        ([image, image], "is not a PyTorch checkpoint"),
    ):
        result = run("classify", *arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.output
        assert sentence in result.stderr


# accuracy


def test_accuracy_counts_first_and_five_guesses(model, folder, tmp_path):
    result = run("accuracy", model, folder, "-w", 0, "-b", 3, "-o", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "top-1  71.429 %"  # five of seven
    assert lines[1] == "top-5  100.000 %"
    assert lines[2].startswith("7 images at 32x32, 3 classes, float32, ")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["top1"] == pytest.approx(500 / 7)
    assert (written["images"], written["crop_pct"]) == (7, 0.875)


def test_accuracy_does_not_depend_on_processes_or_batch(model, folder):
    network = load_classifier(model)
    images = ImageFolder.open(folder)
    found = [measure_accuracy(network, images, batch=b, workers=w) for b, w in ((1, 0), (64, 2))]
    assert {(x.count, x.top1, x.top5) for x in found} == {(7, 500 / 7, 100.0)}


def test_top_5_counts_the_fifth_guess_and_not_the_sixth(tmp_path):
    config = tiny_config(num_classes=10, images=ImageConfig(size=32))
    network = NAT(config).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.arange(10.0).flip(0))
    for index in range(10):
        save_image(tmp_path / f"{index}" / "a.png", (0, 0, 0))
    found = measure_accuracy(network, ImageFolder.open(tmp_path), workers=0)
    assert (found.top1, found.top5) == (10, 50)


@pytest.mark.slow
def test_two_ranks_count_as_one_does(model, folder):
    done = stylenat("accuracy", model, folder, "-w", 0, "-b", 2, ranks=2)
    assert done.returncode == 0, done.stderr
    assert "top-1  71.429 %" in done.stdout
    assert done.stdout.count("\n7 images at ") == 1


def test_bad_input_of_accuracy_is_one_sentence(model, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes" / "a").mkdir(parents=True)
    save_image(tmp_path / "outside" / "x.png", (0, 0, 0))
    save_image(tmp_path / "two" / "a" / "x.png", (0, 0, 0))
    save_image(tmp_path / "two" / "b" / "x.png", (0, 0, 0))
    missing = os.strerror(errno.ENOENT)
    for arguments, sentence in (
        ([tmp_path / "absent.pth", folder], f"absent.pth: {missing}"),
        ([model, tmp_path / "absent"], f"absent: {missing}"),
        ([model, model], os.strerror(errno.ENOTDIR)),
        ([model, tmp_path / "empty"], "empty holds no images: it needs one folder for each"),
        ([model, tmp_path / "classes"], "classes holds no images"),
        ([model, tmp_path / "outside"], "x.png lies outside of them"),
        ([model, tmp_path / "two"], "two has 2 folders, and the model tells 3 classes apart"),
    ):
        result = run("accuracy", *arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.output
        assert sentence in result.stderr
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for workers in (0, 1):
        result = run("accuracy", model, folder, "-w", workers)
        assert result.exit_code == 1
        assert "broken.png is " in result.stderr


# convert


@pytest.mark.parametrize("kind", ["official", "hugging face"])
def test_convert_writes_what_load_classifier_reads(kind, tmp_path):
    torch.manual_seed(0)
    network = NAT(variant("dinat_mini")).eval()
    state = network.state_dict()
    path = tmp_path / "dinat_mini_in1k_224.pth"
    torch.save(state if kind == "official" else hugging_face_names(state, "dinat."), path)
    result = run("convert", path, tmp_path / "out.safetensors")
    assert result.exit_code == 0, result.output
    assert "out.safetensors: classifier, 1000 classes, 19.984 M parameters, " in result.stdout
    found = load_classifier(tmp_path / "out.safetensors")
    assert found.config == variant("dinat_mini")
    for name, x in found.state_dict().items():
        assert torch.equal(x, state[name]), name


def test_convert_takes_the_name_of_the_variant(tmp_path):
    torch.manual_seed(0)
    torch.save(NAT(variant("nat_mini_upernet")).state_dict(), tmp_path / "best.pth")
    result = run("convert", tmp_path / "best.pth", tmp_path / "out.safetensors")
    assert "these names fit: nat_mini, " in result.stderr
    arguments = [tmp_path / "best.pth", tmp_path / "out.safetensors", "-n", "nat_mini_upernet"]
    assert "out.safetensors: backbone, " in run("convert", *arguments).stdout


def test_options_of_the_other_family_are_refused(tmp_path):
    torch.save(NAT(tiny_config()).state_dict(), tmp_path / "nat_mini.pth")
    torch.save({"g_ema": {}}, tmp_path / "other.pt")
    out = tmp_path / "out.safetensors"
    result = run("convert", tmp_path / "nat_mini.pth", out, "--which", "g")
    assert "--config and --which are for generators" in result.stderr
    result = run("convert", tmp_path / "other.pt", out, "--name", "nat_mini")
    assert "--name is for a NAT, DiNAT or DiNAT_s" in result.stderr
