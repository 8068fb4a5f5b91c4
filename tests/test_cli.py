"""The `stylenat` command: what it prints, and how it fails."""

import errno
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import stylenat
from stylenat.cli import main
from stylenat.config import save_config
from tests.legacy.test_convert import TINY, TINY_D, official_weights, run_config, save

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_python_m_stylenat_is_the_command():
    done = python("-m", "stylenat", "--version")
    assert (done.returncode, done.stdout) == (0, f"stylenat, version {stylenat.__version__}\n")


def test_command_and_package_import_nothing_heavy():
    light = "import sys, stylenat.cli; print(*{'torch', 'numpy', 'omegaconf'} & set(sys.modules))"
    done = python("-c", light)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_version_is_the_package_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert stylenat.__version__ == project["version"]
    module, _, function = project["scripts"]["stylenat"].partition(":")
    assert (module, function) == ("stylenat.cli", "run")


def test_names_of_the_package_are_loaded_when_asked_for():
    from stylenat.export import save_generator
    from stylenat.sampling import load_generator

    assert stylenat.load_generator is load_generator
    assert stylenat.save_generator is save_generator
    assert set(stylenat.__all__) <= set(dir(stylenat))
    with pytest.raises(AttributeError, match="no attribute 'generator'"):
        stylenat.generator  # noqa: B018


def test_help_names_every_subcommand():
    assert "convert" in run("--help").output
    for name in main.commands:
        assert run(name, "-h").exit_code == 0


# convert


def test_convert_says_what_it_wrote_and_what_to_do_next(tmp_path):
    out = tmp_path / "model.safetensors"
    result = run("convert", save(tmp_path, official_weights()), out)
    assert result.exit_code == 0
    wrote, after = result.stdout.splitlines()
    parameters = sum(p.numel() for p in stylenat.load_generator(out).parameters())
    size = out.stat().st_size / 1e6
    assert wrote == f"{out}: generator, 16x16, {parameters / 1e6:.3f} M parameters, {size:.1f} MB"
    assert after == f"Next, in Python: generator = stylenat.load_generator({str(out)!r})"


def test_convert_takes_the_network_that_is_asked_for(tmp_path):
    path, weights = tmp_path / "official.pt", official_weights()
    other = weights | {"style.1.bias": torch.ones(16)}
    args = {"kernels": [[3], [7], [7]], "dilations": [[1], [1], [1, 2]]}
    networks = {"g": other, "g_ema": weights, "d": official_weights(TINY_D)}
    torch.save(networks | {"args": args}, path)
    biases = {}
    for which in ("g", "g_ema"):
        out = tmp_path / f"{which}.safetensors"
        assert run("convert", "--which", which, path, out).exit_code == 0
        biases[which] = stylenat.load_generator(out).mapping_network.layers[0].bias
    assert torch.equal(biases["g"], torch.ones(16))
    assert torch.equal(biases["g_ema"], weights["style.1.bias"])
    result = run("convert", path, tmp_path / "d.safetensors", "--which=d")
    assert "discriminator, 16x16" in result.stdout


def one_error(result: Result, code: int) -> str:
    assert result.exit_code == code
    assert result.stdout == ""
    *_, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
    return last.removeprefix("Error: ")


def test_refused_file_ends_in_one_sentence_and_leaves_out_as_it_was(tmp_path):
    official, out = tmp_path / "official.pt", tmp_path / "model.safetensors"
    official.write_bytes(b"no checkpoint")
    error = one_error(run("convert", official, out), 1)
    assert error.startswith(f"{official} is not a PyTorch checkpoint")
    assert not out.exists()
    out.write_text("older")
    one_error(run("convert", official, out), 1)
    assert out.read_text() == "older"
    save(tmp_path, official_weights())
    assert run("convert", official, out).exit_code == 0
    assert stylenat.load_generator(out).config == TINY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "official.pt"]


def test_system_s_errors_name_the_file(tmp_path):
    absent = tmp_path / "absent.pt"
    missing, a_folder = os.strerror(errno.ENOENT), os.strerror(errno.EISDIR)
    assert one_error(run("convert", absent, "x"), 1) == f"{absent}: {missing}"
    assert one_error(run("convert", tmp_path, "x"), 1) == f"{tmp_path}: {a_folder}"
    official = save(tmp_path, official_weights())
    config = tmp_path / "absent.yaml"
    error = one_error(run("convert", official, "x", "--config", config), 1)
    assert error == f"{config}: {missing}"
    folder = tmp_path / "absent"
    error = one_error(run("convert", official, folder / "x"), 1)
    assert error == f"{folder}: {missing}"
    assert one_error(run("convert", official, tmp_path), 1) == f"{tmp_path}: {a_folder}"


def test_config_and_its_overrides_are_passed_on(tmp_path):
    config, out = tmp_path / "config.yaml", tmp_path / "model.safetensors"
    save_config(run_config(), config)
    official = save(tmp_path, official_weights(), args=None)
    assert "--config" in one_error(run("convert", official, out), 1)
    arguments = ("convert", official, out, "--config", config)
    assert run(*arguments, "model.generator.qk_scale=0.5").exit_code == 0
    assert stylenat.load_generator(out).config.qk_scale == 0.5
    error = one_error(run(*arguments, "model.generator.qkscale=0.5"), 1)
    assert error.endswith("did you mean model.generator.qk_scale?")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "OFFICIAL"),
        (["a.pt"], "OUT"),
        (["a.pt", "b", "--which", "ema"], "'ema'.*'g_ema'"),
        (["a.pt", "b", "--configs", "c"], "--configs"),
        (["a.pt", "b", "x=1"], "KEY=VALUE changes what --config names, so it needs --config: x=1"),
    ],
)
def test_misspelt_command_ends_with_code_2(arguments, sentence):
    assert re.search(sentence, one_error(run("convert", *arguments), 2))


def test_official_file_is_never_overwritten(tmp_path):
    official = save(tmp_path, official_weights())
    before = official.read_bytes()
    link = tmp_path / "link.pt"
    link.symlink_to(official)
    for out in (official, link):
        assert "must be another file than" in one_error(run("convert", official, out), 1)
    assert official.read_bytes() == before
