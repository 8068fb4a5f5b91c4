"""The versions that set-up installs: constraints.txt, and what scripts/setup.sh makes of it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("constraints", ROOT / "scripts/constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned() -> dict[str, str]:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


# The file


def test_it_holds_sorted_names_and_versions_alone():
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = list(pinned())
    assert names == sorted(set(map(canonicalize_name, names)))
    assert "stylenat" not in names


def test_it_names_all_that_this_environment_needs():
    assert set(script().versions(script().roots())) <= set(pinned())


def test_its_versions_are_those_that_the_requirements_allow():
    for requirement in script().roots():
        assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_same_environment_gives_the_same_file(tmp_path, monkeypatch):
    module = script()
    for name in module.REQUIREMENTS:
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(module, "roots", lambda: [Requirement("pytest"), Requirement("PyYAML>=5")])
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.main()
    first = (tmp_path / "constraints.txt").read_bytes()
    assert f"\npyyaml=={version('PyYAML')}\n".encode() in first
    assert b"\npluggy==" in first
    module.main()
    assert (tmp_path / "constraints.txt").read_bytes() == first


def test_a_build_s_own_suffix_is_left_out(monkeypatch):
    module = script()

    class Torch:
        version, requires = "2.14.1+cpu", ()

    monkeypatch.setattr(module, "distribution", lambda _: Torch)
    assert module.versions([Requirement("Torch")]) == {"torch": "2.14.1"}


# Set-up. The environment's python notes what pip is asked for, and installs nothing.

PYTHON = """\
#!/usr/bin/env bash
if [ "$1 $2" = "-m pip" ]; then
    printf '%s\\n' "$*" >>"$(dirname "$0")/../pip.log"
else
    exec {python} "$@"
fi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what set-up reads, with an environment .venv."""
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    (project / "stylenat").mkdir()
    (project / "stylenat" / "__init__.py").touch()
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    shutil.copy(ROOT / "scripts/setup.sh", project / "scripts")
    (project / "constraints.txt").write_text("# tested\nnumpy==2.0.0\nnot.there==1.5\n")
    environment(project / ".venv")
    return project


def environment(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    return folder


def setup(project: Path, cwd: Path | None = None, **variables: object) -> tuple[int, str]:
    """Exit code and what was said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STYLENAT_")}
    done = subprocess.run(
        [project / "scripts/setup.sh"],
        cwd=cwd or project,
        env={**kept, "STYLENAT_NATTEN": "skip", **{k: str(v) for k, v in variables.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def installs(env: Path) -> list[str]:
    """The calls of pip since the last time."""
    log = env / "pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line for line in lines if line.startswith("-m pip install")]


def test_every_installation_follows_the_tested_versions(project):
    code, said = setup(project)
    assert code == 0, said
    calls = installs(project / ".venv")
    assert len(calls) == 2
    assert all(f"-c {project}/.venv/.stylenat-constraints " in call for call in calls)
    written = (project / ".venv/.stylenat-constraints").read_text()
    assert written == (project / "constraints.txt").read_text()
    assert setup(project)[0] == 0
    assert installs(project / ".venv") == []


def test_other_tested_versions_are_installed_anew(project):
    setup(project)
    installs(project / ".venv")
    (project / "constraints.txt").write_text("numpy==2.1.0\n")
    setup(project)
    assert len(installs(project / ".venv")) == 2


def test_none_installs_without_constraints_and_is_remembered(project):
    assert setup(project, STYLENAT_CONSTRAINTS="none")[0] == 0
    calls = installs(project / ".venv")
    assert len(calls) == 2
    assert not any(" -c " in call for call in calls)
    setup(project)
    assert installs(project / ".venv") == []
    setup(project, STYLENAT_CONSTRAINTS="tested")
    assert all(" -c " in call for call in installs(project / ".venv"))


def test_another_file_is_found_from_where_the_command_was_given(project, tmp_path):
    (tmp_path / "mine.txt").write_text("numpy==2.2.0\n")
    for given, cwd in (("mine.txt", tmp_path), (tmp_path / "mine.txt", project)):
        assert setup(project, cwd, STYLENAT_CONSTRAINTS=given)[0] == 0
        assert (project / ".venv/.stylenat-constraints").read_text() == "numpy==2.2.0\n"


@pytest.mark.parametrize("given", ["absent.txt", "/absent/constraints.txt", "None", "scripts"])
def test_a_file_that_is_not_there_is_one_sentence(project, given):
    code, said = setup(project, STYLENAT_CONSTRAINTS=given)
    assert code == 1
    (line,) = said.splitlines()
    assert f"{given}: there is no such file; give a file of constraints, tested or none" in line
    assert installs(project / ".venv") == []


def test_a_user_s_own_environment_keeps_what_it_has(project, tmp_path):
    env = environment(tmp_path / "own")
    assert setup(project, STYLENAT_ENV=env)[0] == 0
    assert (env / ".stylenat-constraints").read_text() == "# tested\nnot.there==1.5\n"
    assert all(" -c " in call for call in installs(env))
    given = project / "constraints.txt"
    assert setup(project, STYLENAT_ENV=env, STYLENAT_CONSTRAINTS=given)[0] == 0
    assert (env / ".stylenat-constraints").read_text() == given.read_text()
