"""Every command that takes MODEL takes `hf:user/name`, and says which commit it took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed (the extra `hub`)")

from ops.neighborhood import HeadGroup
from stylenat.backbones import NAT, load_classifier
from stylenat.explorer.gallery import Gallery
from stylenat.export import load_generator, save_discriminator
from stylenat.files import sha256_of
from stylenat.latents import Settings
from stylenat.metrics import protocol_of
from stylenat.models import Discriminator
from stylenat.sampling import blend, latents
from stylenat.training.transfer import plan_transfer
from tests.backbones.golden import hugging_face_names
from tests.backbones.test_commands import colour_classifier, save_image
from tests.backbones.test_network import tiny_config
from tests.sampling.tiny import tiny_generator
from tests.training.tiny import tiny, write_tiny


@pytest.fixture
def name(hub, file) -> str:
    """A model on the Hub, named with its commit."""
    faces = hub.add("ann/faces", {"model.safetensors": file.read_bytes()})
    return f"hf:ann/faces@{faces.names['main']}"


MODEL = "hf:ann/faces"
LEFT_OUT = (".pt2", ".json", ".safetensors")  # whose bytes are not the same every time
COMMANDS = {
    "sample": ("--seeds=0", "--save-w", "--outdir=out"),
    "mix": ("--rows=0", "--cols=1"),
    "film": ("--seeds=0-1", "--frames=2", "--out=walk.webp"),
    "directions": ("--count=1", "--strip-seeds=0"),
    "attention": ("--seed=0", "--out=out"),
    "export": ("--torch-export=out",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_the_same_as_with_the_file(command, name, file, run, tmp_path, monkeypatch):
    written = []
    for place, model in (("hub", MODEL), ("file", file)):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        result = run(command, model, *COMMANDS[command])
        assert result.exit_code == 0, result.output
        files = sorted(path for path in Path().rglob("*") if path.suffix not in LEFT_OUT)
        written.append({path: path.read_bytes() for path in files if path.is_file()})
        assert ("out" in result.stdout) or files
    assert written[0] == written[1]


def test_sample_says_which_commit_it_took(name, run, tmp_path):
    result = run("sample", MODEL, "--seeds=0-1", "--outdir", tmp_path / "out")
    assert result.stdout.startswith(f"2 images of {name} in {tmp_path / 'out'}")


def test_ws_and_directions_of_the_file_fit_the_model_on_the_hub(
    name, file, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run("sample", file, "--seeds=0", "--save-w", "--outdir=out").exit_code == 0
    assert run("directions", file, "--count=1", "--strip-seeds=0").exit_code == 0
    given = ("--ws=out/ws.safetensors", "--directions=directions.json", "--set=1:1")
    result = run("edit", MODEL, *given)
    assert result.exit_code == 0, result.output


def test_project_names_the_model_in_the_next_command(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "blue.png", (20, 30, 220), (16, 16))
    options = ("--loss=pixels", "--steps=1", "--no-film", "--outdir=out")
    result = run("project", MODEL, "blue.png", *options)
    assert result.exit_code == 0, result.output
    assert "Next: stylenat sample hf:ann/faces --ws out/ws.safetensors" in result.stdout


def test_blend_says_whose_the_levels_are(name, file, run, tmp_path):
    out = tmp_path / "blended.safetensors"
    result = run("blend", MODEL, file, out, "--from-level=16")
    assert result.exit_code == 0, result.output
    assert f"mapping network and constant, levels 4, 8 of {name}" in result.stdout
    expected = blend(tiny_generator(), tiny_generator(), from_level=16)
    z = latents([0], 8)
    with torch.no_grad():
        assert torch.equal(load_generator(out)(z), expected(z))


def test_scores_name_the_commit_and_ask_the_hub_once(name, hub, file, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--data=faces:8", "--metrics=swd", "--num=8", "--workers=0", "--out=scores.json")
    result = run("fid", MODEL, *options)
    assert result.exit_code == 0, result.output
    written = json.loads(Path("scores.json").read_text())
    assert written["model"] == name
    assert written["model_sha256"] == sha256_of(file)
    assert str(tmp_path) not in json.dumps(written)
    asked = [path for path in hub.paths("HEAD") if "/resolve/" in path]
    assert len(asked) == 2  # ours, and that of the download


def test_the_run_in_the_current_folder_is_not_that_of_a_name(tmp_path, monkeypatch):
    """Path("hf:ann/faces") has two parts, and lies two folders below the current one."""
    write_tiny(tmp_path).rename(tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    assert protocol_of("a/b").data == "faces:64"
    assert protocol_of("hf:ann/faces").data is None


def test_the_explorer_shows_the_name_and_copies_the_commit(name, hub):
    hub.repositories["ann/faces"].names["refs/pr/3"] = name.rpartition("@")[2]
    models = [f"{MODEL}@refs/pr/3", MODEL]
    gallery = Gallery([Path(model) for model in models], Settings())
    assert gallery.about()["models"] == [{"name": model, "word": name} for model in models]


def test_training_begins_with_a_model_on_the_hub(name, file):
    found = plan_transfer(tiny(train={"init_from": MODEL}))
    assert found.report[0].startswith(f"{name}: ")
    assert found.report[0].endswith("it holds no D, which starts anew")
    expected = plan_transfer(tiny(train={"init_from": str(file)}))
    for network in ("G", "G_ema"):
        states = [f.model.networks[network].state_dict() for f in (found, expected)]
        assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def test_training_takes_the_discriminator_that_lies_beside_it(hub, file, tmp_path):
    config = tiny(train={"init_from": MODEL})
    save_discriminator(Discriminator(config.model.discriminator), tmp_path / "d.safetensors")
    files = {"discriminator.safetensors": (tmp_path / "d.safetensors").read_bytes()}
    hub.add("ann/faces", {"model.safetensors": file.read_bytes(), **files})
    assert set(plan_transfer(config).matches) == {"G", "D", "G_ema"}


# Classifiers


def test_classify_and_accuracy_take_a_network_of_ours(hub, run, tmp_path):
    network = colour_classifier(tmp_path / "net.safetensors", ("blue", "green", "red"))
    added = hub.add("ann/colours", {"model.safetensors": network.read_bytes()})
    image = save_image(tmp_path / "red" / "a.png", (230, 20, 10))
    result = run("classify", "hf:ann/colours", image, "--top=1")
    assert result.exit_code == 0, result.output
    assert "red" in result.stdout.splitlines()[1]
    for color, value in (("blue", (20, 30, 220)), ("green", (20, 200, 40)), ("red", (230, 20, 10))):
        save_image(tmp_path / "data" / color / "a.png", value)
    out = tmp_path / "accuracy.json"
    options = ("--workers=0", "--batch=2", "--out", out)
    result = run("accuracy", "hf:ann/colours", tmp_path / "data", *options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(out.read_text())
    assert numbers["model"] == f"hf:ann/colours@{added.names['main']}"
    assert numbers["model_sha256"] == sha256_of(network)


def test_a_classifier_of_hugging_face_s_brings_its_config(hub):
    torch.manual_seed(0)
    first, second = tiny_config().levels
    second = replace(second, blocks=(HeadGroup(4, 3, 1),))  # one kernel_size, as over there
    network = NAT(tiny_config(num_classes=3, levels=(first, second)))
    files = {"model.safetensors": safetensors_bytes(names_there(network))}
    added = hub.add("ann/nat", files)
    with pytest.raises(ValueError, match=r"^hf:ann/nat@.* its tensors do not say its dil"):
        load_classifier("hf:ann/nat")
    dilations = [[block.dilation for block in level.blocks] for level in network.config.levels]
    config = {"model_type": "dinat", "hidden_size": 64, "dilations": dilations}
    added.commit(files | {"config.json": json.dumps(config).encode()})
    assert load_classifier("hf:ann/nat").config.levels == network.config.levels


def names_there(network: NAT) -> dict[str, torch.Tensor]:
    held = hugging_face_names(network.state_dict(), "dinat.")
    return {name: x.contiguous() for name, x in held.items()}


def test_convert_says_that_nothing_is_to_be_converted(hub, run, tmp_path):
    result = run("convert", MODEL, tmp_path / "x.safetensors")
    assert result.exit_code == 1
    assert "models on the Hub need no conversion" in result.stderr
    assert hub.calls == []
