"""What can be known before work begins is checked before it: no model is read for a bad answer."""

import errno
import re

import pytest
import torch
from click.testing import CliRunner

import stylenat.sampling as sampling
from stylenat.benchmarks import data as data_benchmark
from stylenat.benchmarks import op as op_benchmark
from stylenat.benchmarks import tokens as tokens_benchmark
from stylenat.cli import main
from stylenat.config import save_config
from stylenat.export import load_generator, save_generator
from tests.legacy.test_convert import official_weights, run_config, save
from tests.sampling.tiny import tiny_generator


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def places(tmp_path):
    """Places that can't be written, by name."""
    (tmp_path / "file").write_text("here")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    return {
        "a file": (tmp_path / "file", "Not a directory"),
        "below a file": (tmp_path / "file" / "out", "Not a directory"),
        "a lost link": (tmp_path / "lost", "Not a directory"),
        "a folder of the system": ("/proc/out", "/proc: No such file or directory"),
    }


@pytest.fixture
def untouched(monkeypatch):
    """Whatever begins work fails the test."""

    def begun(*_, **__):
        raise AssertionError("work began")

    # First: the module keeps the functions that it finds when it is imported.
    monkeypatch.setattr("stylenat.latents.loaded.load_model", begun)
    monkeypatch.setattr(sampling, "load_model", begun)
    monkeypatch.setattr("stylenat.legacy.convert_checkpoint", begun)
    monkeypatch.setattr(op_benchmark, "bench_op", begun)
    monkeypatch.setattr(tokens_benchmark, "bench_tokens", begun)
    monkeypatch.setattr(data_benchmark, "bench_data", begun)
    monkeypatch.setattr("stylenat.benchmarks.generator.bench_generator", begun)
    monkeypatch.setattr("stylenat.benchmarks.training.bench_training", begun)


PLACES = ["a file", "below a file", "a lost link", "a folder of the system"]
FOLDERS = {
    "attention": ["attention", "x.safetensors", "--seed=0"],
    "sample": ["sample", "x.safetensors", "--seeds=0"],
    "bench op": ["bench", "op"],
    "bench tokens": ["bench", "tokens"],
    "bench generator": ["bench", "generator"],
    "bench training": ["bench", "training", "--config", "configs/faces32.yaml"],
    "bench data": ["bench", "data"],
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_cannot_be_filled_is_told_first(command, place, places):
    path, reason = places[place]
    result = run(*FOLDERS[command], "--out" if command == "attention" else "--outdir", path)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: /")
    assert reason in line


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--seeds=4294967296", "--seed-scheme=stylegan"],
            "seeds of scheme stylegan must be from 0",
        ),
        (["--seeds=0-4294967296", "--seed-scheme=stylegan"], "must be at most 10,000,000"),
        ([f"--seeds={2**63}"], "seeds must be below 2**63"),
        (["--seeds=0", "--grid=0x3"], "a contact sheet must be columns x rows"),
        (["--seeds=0", "--grid=101x100"], "1 to 10,000 images: 101x100"),
        (["--seeds=0", "--trunc=nan"], "truncation_psi must be finite: nan"),
        (["--seeds=0", "--trunc=-inf"], "truncation_psi must be finite: -inf"),
        (["--seeds=0", "--device=tpu"], "unknown device 'tpu'"),
    ],
)
def test_sample_refuses_values_before_it_reads_the_model(options, sentence, tmp_path):
    (tmp_path / "x.safetensors").touch()
    result = run("sample", tmp_path / "x.safetensors", *options, "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


LATENTS = {
    "mix": (["--rows=0", "--cols=1"], "--out=x.png"),
    "film": (["--seeds=0-1"], "--out=x.webp"),
    "directions": (["--strip-seeds=0"], "--out=x.json"),
    "edit": (["--seeds=0", "--directions=d.json", "--set=1:1"], "--out=x.png"),
    "attention": (["--seeds=0"], "--out=x"),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", LATENTS)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seed-scheme=stylegan", "SEEDS=4294967296"], "seeds of scheme stylegan must be from 0"),
        (["SEEDS=4-1"], "a range of seeds must not run backwards"),
        (["SEEDS="], "there must be at least one seed"),
        (["--trunc=nan"], "truncation_psi must be finite: nan"),
        (["--trunc-cutoff=1"], "--trunc 1 means none"),
        (["--out=/proc/nowhere/x.png"], "/proc"),
    ],
)
def test_other_commands_refuse_values_before_they_read_the_model(
    command, options, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given, out = LATENTS[command]
    seeds = given[0].partition("=")[0]
    suffix = out.removeprefix("--out=x")
    options = [option.replace("SEEDS", seeds).replace("x.png", f"x{suffix}") for option in options]
    result = run(command, "x.safetensors", *given, out, *options)
    assert result.exit_code == 1, result.output
    assert sentence in result.stderr.splitlines()[-1]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", ["below a file", "a folder of the system"])
def test_convert_refuses_a_place_before_it_reads_the_file(place, places, tmp_path):
    result = run("convert", tmp_path / "official.pt", places[place][0])
    assert result.exit_code == 1
    assert places[place][1] in result.stderr
    for out, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "x", "No such file")):
        assert reason in run("convert", tmp_path / "official.pt", out).stderr


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
@pytest.mark.parametrize("name", ["OFFICIAL", "--config"])
def test_convert_never_replaces_what_it_reads(name, link, tmp_path):
    official, config = tmp_path / "official.pt", tmp_path / "config.yaml"
    official.write_text("official")
    config.write_text("config")
    out = source = official if name == "OFFICIAL" else config
    if link == "symbolic":
        (out := tmp_path / "link").symlink_to(source)
    elif link == "hard":
        (out := tmp_path / "link").hardlink_to(source)
    result = run("convert", official, out, "--config", config)
    assert result.exit_code == 1
    assert f"{out} must be another file than {source}" in result.stderr
    assert (official.read_text(), config.read_text()) == ("official", "config")


def test_convert_still_replaces_another_file(tmp_path):
    out = tmp_path / "x.safetensors"
    out.write_text("older")
    save_config(run_config(), tmp_path / "config.yaml")
    arguments = [save(tmp_path, official_weights(), args=None), out, "--config"]
    assert run("convert", *arguments, tmp_path / "config.yaml").exit_code == 0
    assert load_generator(out).resolution == 16


def test_write_samples_refuses_seeds_before_it_makes_the_folder(tmp_path):
    with pytest.raises(ValueError, match="seeds of scheme stylegan"):
        sampling.write_samples(
            tiny_generator(), [0, 2**32], tmp_path / "out", sheet=None, scheme="stylegan"
        )
    assert not (tmp_path / "out").exists()


# Errors that name no file.


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_told_with_the_file(number, tmp_path, monkeypatch):
    save_generator(tiny_generator(), tmp_path / "model.safetensors")

    def fail(descriptor):
        raise OSError(number, "the disk's reason")

    monkeypatch.setattr("os.fsync", fail)
    out = tmp_path / "out"
    result = run("sample", tmp_path / "model.safetensors", "--seeds=7", "--outdir", out)
    assert result.exit_code == 1
    assert f"Error: {out / 'seed0007.png'}: the disk's reason" in result.stderr
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "again"))):
        save_generator(tiny_generator(), tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "out"]


def test_an_encoder_s_own_error_is_told_with_the_file(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    path = tmp_path / "x.png"
    with pytest.raises(OSError, match=rf"^{re.escape(str(path))}: encoder error -2"):
        sampling.save_png(torch.zeros(2, 2, 3, dtype=torch.uint8), path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_file_that_can_t_be_read_is_told_with_its_name(name, tmp_path):
    """Reading from the start of a process's memory gives EIO, and no name."""
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=re.escape(name)) as refusal:
        sampling.load_model(tmp_path / name)
    assert refusal.value.errno == errno.EIO
