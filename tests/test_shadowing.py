"""Other people's files under our names, or those of our libraries, never run in their place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(tmp_path):
    """A folder as site-packages is: our two packages, and nothing else of the checkout."""
    for package in ("ops", "stylenat"):
        shutil.copytree(
            ROOT / package,
            tmp_path / "site" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path / "site"


@pytest.fixture
def folder(tmp_path):
    """The folder that commands are started in."""
    path = tmp_path / "work"
    path.mkdir()
    return path


def write(folder, name, text="raise SystemExit('the wrong file ran')\n"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def python(folder, installed, *arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(installed), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(done, other):
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: StyleNAT needs its own package `ops`, and Python has ")
    assert str(other) in line
    assert "PYTHONSAFEPATH=1" in line
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["--version"], ["sample", "-h"], ["doctor"]])
def test_a_stylegan_tree_s_ops_ends_the_command_in_one_sentence(installed, folder, command):
    other = write(folder, "ops/__init__.py", "")
    write(folder, "ops/bias_act.py", "def bias_act(x, *args, **kwargs):\n    return x\n")
    assert_refused(python(folder, installed, "-m", "stylenat", *command), other)


@pytest.mark.parametrize("name", ["ops.py", "ops/bias_act.py", "ops/__init__.py"])
def test_a_module_a_bare_folder_and_a_package_are_all_refused(installed, folder, name):
    """Nothing of the other `ops` runs. A bare folder comes after a package on the whole path, but
    before what an editable installation finds."""
    other = write(folder, name)
    finder = (
        "import sys, importlib.machinery as m\n"
        "class Last:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        return m.PathFinder.find_spec(name, [{str(installed)!r}])\n"
        "sys.meta_path.insert(sys.meta_path.index(m.PathFinder) + 1, Last)\n"
    )
    site = folder.parent / "editable"
    write(site, "sitecustomize.py", finder)
    done = python(folder, site, "-m", "stylenat", "--version")
    assert_refused(done, other if name != "ops/bias_act.py" else other.parent)


def test_torchrun_passes_the_sentence_on(installed, folder):
    other = write(folder, "ops/__init__.py")
    launch = ["-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    done = python(folder, installed, *launch, "-m", "stylenat", "--version")
    assert done.returncode != 0
    assert f"needs its own package `ops`, and Python has {other}" in done.stderr
    assert "version" not in done.stdout


def test_a_program_of_one_s_own_gets_an_import_error(installed, folder):
    other = write(folder, "ops/__init__.py")
    program = write(folder, "program.py", "import stylenat\n")
    done = python(folder, installed, str(program))
    assert done.returncode == 1
    assert "ImportError: StyleNAT needs its own package `ops`" in done.stderr.splitlines()[-1]
    assert str(other) in done.stderr.splitlines()[-1]


def test_a_folder_of_pythonpath_is_named_as_well(installed, folder):
    elsewhere = folder.parent / "elsewhere"
    other = write(elsewhere, "ops/__init__.py")
    path = os.pathsep.join((str(elsewhere), str(installed)))
    assert_refused(python(folder, path, "-m", "stylenat", "--version"), other)


def test_an_ops_that_a_program_has_imported_before_is_refused(installed, folder):
    other = write(folder, "ops/__init__.py", "")
    done = python(folder, installed, "-c", "import ops, stylenat")
    assert f"Python has {other} under that name" in done.stderr.splitlines()[-1]
    assert "a program can hold only one of them" in done.stderr
    made = "import sys, types; sys.modules['ops'] = types.ModuleType('ops'); import stylenat"
    done = python(folder, installed, "-P", "-c", made)
    assert "Python has <module 'ops'> under that name" in done.stderr.splitlines()[-1]


def test_an_ops_that_comes_later_is_not_taken(installed, folder):
    write(folder, "ops/__init__.py")
    program = (
        "import sys, stylenat\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import ops.files, ops\n"
        "print(ops.__file__)\n"
    )
    done = python(folder.parent, installed, "-c", program)
    assert done.stdout.strip() == str(installed / "ops" / "__init__.py"), done.stderr


def test_the_ways_out_work(installed, folder):
    write(folder, "ops/__init__.py")
    for arguments, environment in (
        (["-P", "-m", "stylenat"], {}),
        (["-m", "stylenat"], {"PYTHONSAFEPATH": "1"}),
        (["-P", "-c", "from stylenat.cli import main; main()"], {}),  # what `stylenat` runs
    ):
        done = python(folder, installed, *arguments, "--version", **environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("click.py", "yaml.py", "PIL/__init__.py", "torch_utils/__init__.py", "numpy/__init__.py"),
        *("safetensors.py", "secrets.py", "typing.py", "pathlib.py", "logging.py", "tempfile.py"),
    ],
)
def test_a_file_named_like_a_library_is_not_imported(installed, folder, name):
    write(folder, name)
    done = python(folder, installed, "-m", "stylenat", "convert", "a.pt", "b.safetensors")
    assert done.stderr == "Error: a.pt: No such file or directory\n"


def test_torchrun_s_processes_import_no_file_of_the_folder(installed, folder):
    write(folder, "yaml.py")
    write(folder, "click.py")
    launch = ["-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    done = python(folder, installed, *launch, "-m", "stylenat", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stylenat, version ")


def test_processes_that_the_command_starts_do_not_either(installed, folder):
    write(folder, "helper.py")
    program = (
        "import runpy, subprocess, sys\n"
        "sys.argv[1:] = ['--version']\n"
        "try:\n"
        "    runpy.run_module('stylenat', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(subprocess.run([sys.executable, '-c', 'import helper']).returncode)\n"
    )
    done = python(folder, installed, "-c", program)
    assert "No module named 'helper'" in done.stderr


def test_a_checkout_stays_on_the_path(folder):
    """There StyleNAT is the working folder's own."""
    done = python(ROOT, folder, "-m", "stylenat", "--version")
    assert done.returncode == 0, done.stderr


def test_the_compiler_s_ninja_is_not_the_folder_s(installed, folder):
    write(folder, "ninja.py")
    program = "from ops.neighborhood.impl import cpu; print(cpu.missing())"
    done = python(
        folder, installed, "-P", "-c", program, STYLENAT_CACHE=str(folder / "cache"), CXX="false"
    )
    assert "compiling neighborhood.cpp with" in done.stdout
    assert "the wrong file ran" not in done.stdout + done.stderr
