"""The wheel works by itself, from any folder, in an environment that knows of no checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.legacy.test_convert import official_weights, save

ROOT = Path(__file__).resolve().parent.parent


def run(*line: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        [str(word) for word in line],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the files that git knows, in a folder of their own."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("stylenat", "ops", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, source)
    building = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source)
    done = run(sys.executable, "-m", "pip", "--quiet", *building, folder=out)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("stylenat-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `stylenat` command of a fresh environment; other packages are seen, this checkout not."""
    place = tmp_path_factory.mktemp("environment")
    done = run(sys.executable, "-m", "venv", "--without-pip", place / "env", folder=place)
    assert done.returncode == 0, done.stderr
    python = place / "env/bin/python"
    packages = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=place
        ).stdout.strip()
    )
    seen = [path for path in site.getsitepackages() if Path(path, "torch").exists()]
    (packages / "seen.pth").write_text("\n".join(seen))
    into = ("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    done = run(sys.executable, "-m", "pip", *into, folder=place)
    assert done.returncode == 0, done.stderr
    return place / "env/bin/stylenat"


def test_the_wheel_holds_all_modules_and_configurations_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {Path(name).name for name in names if name.startswith("stylenat/configs/")}
    assert held == {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert {name.partition("/")[0] for name in names} == {
        "stylenat", "ops", next(name for name in names if ".dist-info" in name).partition("/")[0]
    }  # fmt: skip
    sources = {f.relative_to(ROOT).as_posix() for f in (ROOT / "ops").rglob("csrc/*")}
    assert {"ops/csrc/bias_act.cpp", "ops/csrc/dtypes.h"} <= sources <= set(names)
    for kind in ("html", "css", "js"):
        assert f"stylenat/reporting/page/report.{kind}" in names
    ours = {
        f.relative_to(ROOT).as_posix()
        for p in ("stylenat", "ops")
        for f in (ROOT / p).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == ours


@pytest.mark.slow
def test_the_installed_command_is_the_wheel_s_and_lists_its_configurations(installed, tmp_path):
    where = "import stylenat; print(stylenat.__file__)"
    python = installed.with_name("python")
    assert str(installed.parents[1]) in run(python, "-c", where, folder=tmp_path).stdout
    done = run(installed, "configs", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.slow
def test_it_trains_by_a_configuration_s_name_from_a_read_only_package(installed, tmp_path):
    package = next(installed.parents[1].glob("lib/python*/site-packages/stylenat"))
    folders = [package, *(path for path in package.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        options = ("data.path=faces:32", "train.batch=8", "train.total_kimg=0.016")
        line = (
            installed,
            "train",
            "faces32",
            *options,
            "metrics.names=[]",
            "train.sample_grid=[2,2]",
        )
        done = run(*line, "--run-dir", "run", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        done = run(installed, "sample", "run", "--seeds", "0-1", "--outdir", "o", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        done = run(installed, "report", "run", folder=tmp_path)
        assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (tmp_path / "o" / "seed0001.png").exists()
    assert "<!-- StyleNAT report -->" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_it_converts_by_a_configuration_s_name(installed, tmp_path):
    official = save(tmp_path, official_weights())

    def convert(config: str) -> subprocess.CompletedProcess[str]:
        return run(installed, "convert", official, "y.st", "--config", config, folder=tmp_path)

    # The small checkpoint is no FFHQ-256: which configuration was read is in the sentence.
    assert "style.2.weight [16, 16] instead of [512, 512]" in convert("ffhq256").stderr
    refused = convert("ffhq")
    assert refused.returncode == 1
    assert "no configuration of that name; StyleNAT comes with church256, faces32" in refused.stderr


def test_a_file_goes_before_a_configuration_of_its_name(tmp_path, monkeypatch):
    from stylenat.config import find_config, load_config, shipped_configs

    monkeypatch.chdir(tmp_path)
    assert find_config("faces32") == find_config("faces32.yaml") == shipped_configs()["faces32"]
    Path("faces32").write_text("nonsense")
    assert find_config("faces32") == Path("faces32")
    with pytest.raises(FileNotFoundError, match=r"'configs/faces32\.yaml'"):
        load_config("configs/faces32.yaml")
    with pytest.raises(FileNotFoundError, match="faces33: there is no such file, and no config"):
        load_config("faces33")
