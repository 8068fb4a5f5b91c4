"""Paths as users give them, folders that can or can't be written, and errors that name a file."""

import errno
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ops.files import cache_folder
from stylenat.cli import main
from stylenat.cli.options import UserPath
from stylenat.export import load_generator, save_generator
from stylenat.files import (
    check_can_fill,
    check_can_write,
    naming,
    replacing,
    user_path,
)
from stylenat.sampling import is_model, load_model, save_png, write_samples
from tests.sampling.tiny import tiny_generator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_home(monkeypatch):
    """A user without an entry in passwd, and without HOME."""

    def unknown(key):
        raise KeyError(key)

    for name in ("HOME", "STYLENAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


# Paths.


def test_tilde_is_the_home_folder_and_only_in_front(home):
    assert user_path("~") == home
    assert user_path("~/a/~/b") == home / "a" / "~" / "b"
    assert user_path(Path("~/a")) == home / "a"
    assert user_path("a/~") == Path("a/~")
    assert user_path(f"~{pwd.getpwuid(os.getuid()).pw_name}/x").is_absolute()


def test_a_file_named_like_a_home_can_be_named_and_stays_itself(home):
    once = user_path("./~/x")
    assert once == Path.cwd() / "~" / "x"
    assert user_path(once) == once


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("~nobody-of-that-name/x", "there is no user 'nobody-of-that-name'; write the path out"),
        ("~", "~ can't be found: this user has no home folder; set HOME, or write the path out"),
        ("~/a/b", "~/a/b can't be found: this user has no home folder"),
        ("", "a path must not be empty"),
    ],
)
@pytest.mark.usefixtures("no_home")
def test_a_path_that_leads_nowhere_is_one_sentence(path, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        user_path(path)


@pytest.mark.usefixtures("no_home")
def test_without_a_home_the_cache_is_refused_in_one_sentence_that_names_the_variable(monkeypatch):
    with pytest.raises(OSError, match=r"this user has no home folder; set STYLENAT_CACHE"):
        cache_folder()
    monkeypatch.setenv("STYLENAT_CACHE", "~/cache")
    with pytest.raises(OSError, match=r"~/cache can't be found"):
        cache_folder()
    monkeypatch.setenv("STYLENAT_CACHE", "/cache")
    assert cache_folder() == Path("/cache")
    monkeypatch.delenv("STYLENAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/stylenat")


def test_the_cache_s_variables_know_the_home_folder(home, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("STYLENAT_CACHE", raising=False)
    assert cache_folder() == home / ".cache" / "stylenat"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_folder() == home / "xdg" / "stylenat"
    monkeypatch.setenv("STYLENAT_CACHE", "~/own")
    assert cache_folder() == home / "own"


def parameters(command, name=""):
    if isinstance(command, click.Group):
        for child in command.commands:
            yield from parameters(command.commands[child], f"{name} {child}".strip())
    else:
        yield from ((name, parameter) for parameter in command.params)


MINE = ("sample", "convert", "bench op", "bench generator", "bench training", "doctor")


@pytest.mark.parametrize("name", MINE)
def test_every_path_of_a_command_is_a_user_s_path(name):
    paths = [p for command, p in parameters(main) if command == name and p.type.name == "path"]
    assert all(isinstance(parameter.type, UserPath) for parameter in paths)


def test_functions_that_take_paths_expand_them(home):
    generator = tiny_generator()
    save_generator(generator, "~/model.safetensors")
    assert (home / "model.safetensors").is_file()
    assert load_generator("~/model.safetensors").config == generator.config
    assert load_model("~/model.safetensors").config == generator.config
    (home / "run").mkdir()
    (home / "run" / "config.yaml").touch()
    assert is_model("~/run")
    write_samples(generator, [0], "~/out", sheet=None)
    assert (home / "out" / "seed0000.png").is_file()
    save_png(next(iter(_pixels(generator))), "~/one.png")
    assert (home / "one.png").is_file()


def _pixels(generator):
    from stylenat.sampling import generate

    yield from next(generate(generator, [0]))


HOMELESS = """
import os, pwd, sys
def unknown(key):
    raise KeyError(key)
pwd.getpwuid = unknown
from stylenat.cli import main
main(sys.argv[1:])
"""


def homeless(*arguments, **environment):
    """The command, run by a user without a home folder."""
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER")}
    for key in ("STYLENAT_CACHE", "XDG_CACHE_HOME"):
        kept.pop(key, None)
    return subprocess.run(
        [sys.executable, "-c", HOMELESS, *map(str, arguments)],
        cwd=ROOT,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_without_a_home_samples_with_a_warning(tmp_path):
    save_generator(tiny_generator(), tmp_path / "model.safetensors")
    done = homeless("sample", tmp_path / "model.safetensors", "--seeds=0", "--outdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seed0000.png").is_file()
    assert "cpu attention backend is not available: there is no cache folder" in done.stderr
    assert "STYLENAT_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_without_a_home_gets_one_sentence_for_a_tilde(tmp_path):
    done = homeless("sample", "~/model.safetensors", "--seeds=0", "--outdir", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ~/model.safetensors can't be found: this user has no")
    assert done.stderr.count("\n") == 1


# Folders and files to write.


def test_what_can_be_written_is_found_so_and_left_as_it_was(tmp_path):
    check_can_write(tmp_path / "new.png")
    check_can_fill(tmp_path)
    check_can_fill(tmp_path / "a" / "b")
    (tmp_path / "old.png").write_text("old")
    check_can_write(tmp_path / "old.png")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "number", "named"),
    [
        ("folder", errno.EISDIR, "folder"),
        ("absent/new", errno.ENOENT, "absent"),
        ("file/new", errno.ENOTDIR, "file"),
        ("lost/new", errno.ENOENT, "nowhere"),
        ("pipe", errno.EINVAL, "pipe"),
        ("/proc/new", errno.ENOENT, "/proc"),
    ],
)
def test_a_file_that_can_t_be_written_is_told_before_and_then(tmp_path, name, number, named):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")

    def write():
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("new")

    for attempt in (lambda: check_can_write(tmp_path / name), write):
        with pytest.raises(OSError, match=re.escape(named)) as refusal:
            attempt()
        if not name.startswith("/proc"):
            assert refusal.value.errno == number
        assert ".tmp" not in str(refusal.value)


@pytest.mark.parametrize("name", ["file", "file/a", "lost", "/proc/a/b"])
def test_a_folder_that_can_t_be_filled_is_told_with_what_is_in_its_place(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(OSError, match=rf"'.*{name.split('/a')[0]}'"):
        check_can_fill(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o500)
    for check in (check_can_write, check_can_fill):
        with pytest.raises(PermissionError, match=tmp_path.name):
            check(tmp_path / "new")


def test_an_error_without_a_file_gets_one():
    for error in (OSError(errno.EROFS, "Read-only file system"), OSError(errno.ENOSPC, "full")):
        with pytest.raises(OSError, match=r"'here\.png'") as refusal, naming("here.png"):
            raise error
        assert (refusal.value.errno, refusal.value.filename) == (error.errno, "here.png")
    with pytest.raises(OSError, match=r"^here\.png: encoder error -2$"), naming("here.png"):
        raise OSError("encoder error -2")
    with pytest.raises(FileNotFoundError, match="'other'"), naming("here.png"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "other")


def test_a_failed_save_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "new.txt"
    with pytest.raises(OSError, match=rf"'{path}'"), replacing(path) as temporary:
        raise OSError(errno.EROFS, "Read-only file system", str(temporary))
