"""An interrupted `stylenat prepare` continues, to the same bytes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest

from stylenat.data import prepare as module
from stylenat.data.partial import PartialZip
from tests.data.writers import (
    about,
    make,
    write_folder,
)

ROOT = Path(__file__).resolve().parents[2]


class Interrupted(BaseException):
    pass


def interrupted(folder: str, dest: Path, after: int, **options: object) -> Path:
    """Stop in the midst of image number `after`; the folder of what is left."""
    original = module._make

    def make_until(source: object, settings: object, index: int) -> object:
        if index == after:
            raise Interrupted
        return original(source, settings, index)

    with patch.object(module, "_make", make_until), pytest.raises(Interrupted):
        make(folder, dest, **options)
    return dest.with_name(f".{dest.name}.partial")


@pytest.mark.parametrize("after", [0, 8, 17, 39])
def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path, folder, after):
    write_folder(Path(folder), {"0/bad.png": b""})
    make(folder, tmp_path / "whole.zip", max_bad=1)
    interrupted(folder, tmp_path / "x.zip", after, max_bad=1)
    assert not (tmp_path / "x.zip").exists()
    report = make(folder, tmp_path / "x.zip", max_bad=1)
    assert (report.resumed, report.restarted) == (after // 8 * 8, False)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "whole.zip", "x.zip"}


@pytest.mark.parametrize("file", ["images.zip", "journal.jsonl"])
@pytest.mark.parametrize("left", [0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["cut", "zeroed"])
def test_what_a_kill_or_a_power_cut_left_half_written_is_made_again(
    tmp_path, folder, file, left, kind
):
    make(folder, tmp_path / "whole.zip")
    damaged = interrupted(folder, tmp_path / "x.zip", 39) / file
    content = damaged.read_bytes()
    end = int(left * len(content))
    damaged.write_bytes(content[:end] + bytes(len(content) - end if kind == "zeroed" else 0))
    report = make(folder, tmp_path / "x.zip")
    assert report.resumed == pytest.approx(32 * left, abs=3)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_a_kill_between_the_last_image_and_the_end_costs_nothing(tmp_path, folder):
    make(folder, tmp_path / "whole.zip")
    with (
        patch("stylenat.data.partial.replacing", side_effect=Interrupted),
        pytest.raises(Interrupted),
    ):
        make(folder, tmp_path / "x.zip")
    assert make(folder, tmp_path / "x.zip").resumed == 40
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.parametrize("change", ["resolution", "resize", "seed", "source"])
def test_another_setting_or_source_begins_anew(tmp_path, folder, change):
    dest = tmp_path / "x.zip"
    interrupted(folder, dest, 20, max_images=30)
    options = {"max_images": 30}
    if change == "source":
        os.utime(Path(folder, "0/00.png"), ns=(0, 0))
        assert make(folder, dest).restarted
    else:
        options[change] = {"resolution": 16, "resize": "box", "seed": 1}[change]
        report = make(folder, dest, **options)
        assert (report.restarted, report.resumed) == (True, 0)
        make(folder, tmp_path / "whole.zip", **options)
        assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_nothing_is_left_of_a_longer_zip_that_was_given_up(tmp_path, folder):
    interrupted(folder, tmp_path / "x.zip", 39, resolution=32)
    make(folder, tmp_path / "x.zip", resolution=4)
    make(folder, tmp_path / "whole.zip", resolution=4)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_two_runs_do_not_write_the_same_zip(tmp_path, folder):
    hold = (
        "import sys, pathlib, time; from stylenat.data.partial import PartialZip\n"
        "it = PartialZip(pathlib.Path(sys.argv[1]), {}); print('held', flush=True); time.sleep(60)"
    )
    dest = tmp_path / "x.zip"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(dest)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"x\.zip is being made by another process"):
            make(folder, dest)
    finally:
        other.kill()
        other.communicate()
    make(folder, dest)


def test_a_zip_behind_a_link_is_made_beside_the_zip(tmp_path, folder):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.zip").symlink_to(tmp_path / "disk" / "big.zip")
    original = module._make
    seen = set()

    def make_and_look(*arguments: object) -> object:
        seen.update(tmp_path.rglob("*.partial"))
        return original(*arguments)

    with patch.object(module, "_make", make_and_look):
        make(folder, tmp_path / "x.zip")
    assert seen == {tmp_path / "disk" / ".big.zip.partial"}
    assert (tmp_path / "x.zip").is_symlink()
    assert zipfile.is_zipfile(tmp_path / "disk" / "big.zip")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, folder, number, monkeypatch, caplog):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refused)
    make(folder, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").exists()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "cannot be locked: " in warning
    assert f"no other process may make {tmp_path / 'x.zip'}" in warning


def test_another_fault_of_a_lock_names_the_file(tmp_path, folder, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", refused)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as error:
        make(folder, tmp_path / "x.zip")
    assert error.value.filename == str(tmp_path / ".x.zip.partial" / "journal.jsonl")


def started(dest: Path) -> subprocess.Popen[bytes]:
    """The command in a process, and session, of its own, in the midst of its work."""
    arguments = ["prepare", "faces:900", str(dest), "--resolution", "32", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stylenat", *arguments],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Tests in a shell's background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = dest.with_name(f".{dest.name}.partial") / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 50):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def members_of_session(session: int) -> list[int]:
    """The processes of a session that still run (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_leaves_no_process_and_continues(tmp_path, sent):
    dest = tmp_path / "x.zip"
    process = started(dest)
    if sent == signal.SIGINT:  # Ctrl-C reaches every process of the terminal
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, errors = process.communicate(timeout=120)  # when no process holds standard error
    assert errors == (b"Stopped by SIGINT.\n" if sent == signal.SIGINT else b"")
    deadline = time.monotonic() + 60  # a process lets go of standard error before it is gone
    while members_of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert members_of_session(process.pid) == []
    assert not dest.exists()
    report = make("faces:900", dest, resolution=32)
    assert 50 <= report.resumed < 900
    make("faces:900", tmp_path / "whole.zip", resolution=32)
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_a_resumed_zip_may_be_continued_twice(tmp_path, folder):
    make(folder, tmp_path / "whole.zip")
    dest = tmp_path / "x.zip"
    for after in (9, 25, 33):
        journal = interrupted(folder, dest, after) / "journal.jsonl"
        journal.write_bytes(journal.read_bytes() + b'{"name": "half a li')
    assert make(folder, dest).resumed == 32
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_a_partial_zip_is_a_valid_zip_once_it_is_finished(tmp_path):
    partial = PartialZip(tmp_path / "x.zip", {"a": 1})
    partial.add("a", b"content", label=1, enlarged=False)
    partial.flush()
    assert (tmp_path / ".x.zip.partial" / "images.zip").read_bytes().endswith(b"content")
    partial.close()
    partial = PartialZip(tmp_path / "x.zip", {"a": 1})
    partial.skip("b", "is bad")
    partial.add("c", b"more", label=None, enlarged=True)
    partial.finish({"note": 1})
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("00000/img00000001.png") == b"more"
    assert about(tmp_path / "x.zip") == {"labels": None, "stylenat": {"note": 1}}
