"""One rule for locks on files, and no wait for another process or a compiler without an end."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ops import build
from ops.build import BuildError, build_library
from ops.files import take_lock
from stylenat.data.partial import PartialZip
from stylenat.files import FileLock

ROOT = Path(__file__).resolve().parent.parent
FAR = 60  # seconds: against a hang
SOURCE = ROOT / "ops" / "neighborhood" / "impl" / "csrc" / "neighborhood.cpp"
HOLD = """
import sys
from pathlib import Path
from ops.files import take_lock
file = Path(sys.argv[1]).open("a")
assert take_lock(file, unlocked="")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path):
    """Another process holds a lock on `path`, until the block ends or its input is closed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], env=environment, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()
        process.wait(FAR)


def take(path, **settings):
    with path.open("a") as file:
        return take_lock(file, unlocked="nobody else may write", **settings)


def test_a_lock_is_refused_at_once_or_after_its_deadline(tmp_path):
    path = tmp_path / "lock"
    with held(path):
        assert not take(path)
        assert not take(path, seconds=0.3)
    assert take(path)


def test_a_lock_that_becomes_free_is_taken(tmp_path):
    path = tmp_path / "lock"
    with held(path) as holder:
        threading.Timer(0.3, holder.stdin.close).start()
        assert take(path, seconds=FAR)


@pytest.fixture
def unlockable(monkeypatch):
    """Every attempt to lock answers with this error."""

    def set_error(number):
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.lockf", refuse)

    return set_error


def train(folder):
    with FileLock(folder / ".lock") as lock:
        lock.acquire()
    return folder / ".lock", "nothing else may train there"


def prepare(folder):
    PartialZip(folder / "x.zip", {}).close()
    return folder / ".x.zip.partial" / "journal.jsonl", "no other process may make"


def compile_(folder):
    with build._building(folder / "library.so"):
        pass
    return folder / "library.lock", "compiles everything once more"


@pytest.mark.parametrize("use", [train, prepare, compile_])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_one_warning_names_the_file(
    use, number, unlockable, tmp_path, caplog
):
    unlockable(number)
    path, warning = use(tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{path} cannot be locked: {os.strerror(number)}; ")
    assert warning in record.getMessage()


@pytest.mark.parametrize("use", [train, prepare, compile_])
def test_a_system_without_locks_is_said_in_the_same_way(use, monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    path, _ = use(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} cannot be locked: this system has no POSIX")


@pytest.mark.parametrize("use", [train, prepare, compile_])
def test_another_failure_of_a_lock_names_the_file(use, unlockable, tmp_path):
    unlockable(errno.EIO)
    with pytest.raises(OSError, match=r"'.*(lock|jsonl)'") as refusal:
        use(tmp_path)
    assert refusal.value.errno == errno.EIO


# Building.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("STYLENAT_CACHE", str(folder))
    return folder


def compiler(folder, monkeypatch, text):
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def test_the_wait_for_another_process_s_build_ends(cache, monkeypatch):
    monkeypatch.setattr(build, "LOCK_SECONDS", 0.3)
    library = cache / "library.so"
    refused = pytest.raises(BuildError, match=r"another process has been compiling library\.so")
    with held(cache / "library.lock"), refused, build._building(library):
        pass
    with build._building(library):
        pass


def test_threads_of_one_process_wait_for_each_other_and_not_for_ever(cache, monkeypatch):
    library, ready, done = cache / "library.so", threading.Event(), threading.Event()

    def hold():
        with build._building(library):
            ready.set()
            done.wait(FAR)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(FAR)
    monkeypatch.setattr(build, "LOCK_SECONDS", 0.2)
    refused = pytest.raises(BuildError, match="end it, or set STYLENAT_CACHE")
    with refused, build._building(library):
        pass
    done.set()
    thread.join(FAR)


def gone(pid):
    end = time.monotonic() + FAR
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks processes up in /proc")
def test_a_compiler_that_hangs_is_ended_with_its_children(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "COMPILE_SECONDS", 2)
    hang = f"[ $1 = --version ] && exit; sleep 1000 & echo $! > {tmp_path}/child; wait"
    compiler(tmp_path, monkeypatch, hang)
    with pytest.raises(BuildError, match="has not ended after 2 seconds, and was ended"):
        build_library(SOURCE)
    assert gone(int((tmp_path / "child").read_text()))
    assert not list(cache.glob("*.so"))


def test_a_compiler_that_does_not_say_its_version_is_given_up(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "VERSION_SECONDS", 1)
    compiler(tmp_path, monkeypatch, "sleep 1000")
    with pytest.raises(BuildError, match="--version` has not ended after 1 seconds"):
        build_library(SOURCE)
