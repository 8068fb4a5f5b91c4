"""`stylenat prepare` as a user sees it: what it prints, and how it fails."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from pathlib import Path
from unittest.mock import MagicMock as Mock

import pytest
import torch
from click.testing import CliRunner, Result

from stylenat.cli import main
from stylenat.config import load_config
from stylenat.data import open_images
from stylenat.data import prepare as module
from stylenat.sampling import save_sheet
from tests.data.writers import png, write_folder, write_zip

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def test_it_says_what_it_made_and_what_to_do_next(tmp_path):
    dest = tmp_path / "faces.zip"
    result = run("faces:5", dest, "--resolution", 8, "--workers", 0)
    assert (result.exit_code, result.stderr) == (0, "")
    made, after = result.stdout.splitlines()
    size = dest.stat().st_size / 1e6
    assert made.startswith(f"{dest}: 5 images, 8x8, {size:.1f} MB, in ")
    assert after == f"Next: stylenat train CONFIG data.path={dest}"
    verified = run("--verify", dest, "--workers", 0)
    assert verified.stdout == f"{dest}: 5 images, 8x8: all whole\n"


@pytest.mark.parametrize(
    "name",
    ["set #2.zip", "a b.zip", "it's.zip", "$HOME.zip", "`x`.zip", "a;b&c.zip", "[1]*?.zip",
     "a\nb.zip", "\x1b[2J.zip", "ü😀.zip", "-x.zip", '"q".zip', "a\\b.zip", "a~.zip", "!!.zip",
     os.fsdecode(b"caf\xe9.zip"), os.fsdecode(b"\xff'\\x41.zip"), "x.zip"],
)  # fmt: skip
def test_the_next_command_is_what_a_shell_takes_for_that_file(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--resolution", 4, "--workers", 0, "--", "faces:1", name).exit_code == 0
    last = run("--resolution", 4, "--workers", 0, "--overwrite", "--", "faces:1", name).stdout
    (line,) = [line for line in last.split("\n") if line.startswith("Next: ")]
    show = 'printf "%s\\0" "$@"'
    command = line.removeprefix("Next: ").replace("stylenat", "set --", 1)
    done = subprocess.run(["bash", "-c", f"{command}; {show}"], capture_output=True, check=True)
    *_, override = map(os.fsdecode, done.stdout.split(b"\0")[:-1])
    assert override == f"data.path={name}"
    config = load_config(CONFIGS / "faces32.yaml", [override])
    assert len(open_images(config.data.path)) == 1


@pytest.mark.parametrize("name", ["set #2", "it's", "a\nb", "$HOME", os.fsdecode(b"\xe9"), "-x"])
def test_a_command_within_a_sentence_is_quoted_too(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_folder(Path(name), {"a.png": png(0)})
    with pytest.raises(ValueError, match="must be 4x4") as error:
        open_images(path, resolution=4)
    command = str(error.value).partition("run `")[2].partition(" DEST.zip")[0]
    shown = ["bash", "-c", f'set -- {command}; printf %s "$3"']
    done = subprocess.run(shown, capture_output=True, check=True)
    assert Path(os.fsdecode(done.stdout)) == Path(path)


def test_it_says_what_was_left_out_and_that_labels_were(tmp_path):
    files = {f"{i}.png": png(i) for i in range(4)} | {"x.HEIC": b"", "y.CR2": b""}
    labels = [["0.png", 1], ["1.jpg", 2], [".\\2.png", 3], ["9.png", 3]]
    path, dest = write_zip(tmp_path / "x.zip", files, labels), tmp_path / "y.zip"
    lines = run(path, dest, "--resolution", 8, "--workers", 0).stdout.splitlines()
    assert lines[-5:-1] == [
        "Note: 3 of 4 images have a label in dataset.json.",
        "Note: dataset.json labels 1 image that is not there: 9.png.",
        "Note: left out 2 files that are no images of a known format: 1 .cr2, 1 .heic.",
        "Note: the zip has no labels, since only 3 of 4 images have a label.",
    ]
    labelled = write_zip(tmp_path / "z.zip", files, labels[:3])
    said = run("--verify", labelled, "--workers", 0).stdout.splitlines()
    assert said[1:] == [lines[-5], lines[-3]]


def test_what_sample_wrote_can_be_prepared(tmp_path):
    write_folder(tmp_path / "out", {f"seed{i:04d}.png": png(i) for i in range(3)})
    save_sheet(torch.zeros(8, 24, 3, dtype=torch.uint8), tmp_path / "out" / "grid.png")
    result = run(tmp_path / "out", tmp_path / "x.zip", "--resolution", 8, "--workers", 0)
    assert ": 3 images, 8x8, " in result.stdout
    assert "Note: left out 1 contact sheet: grid.png.\n" in result.stdout


def test_it_reports_what_was_skipped_enlarged_and_continued(tmp_path, monkeypatch):
    files = {"a.png": png(0), "b.png": png(1, 4, 9), "c.png": b"", "d.png": png(2)[:60]}
    path, dest = write_folder(tmp_path / "x", files), tmp_path / "x.zip"
    options = ("--resolution", 8, "--workers", 0)
    assert run(path, dest, *options).exit_code == 1
    lines = run(path, dest, *options, "--max-bad", 2).stdout.splitlines()
    assert lines[0] == "Continued after 4 images of an unfinished run."
    assert lines[1:3] == ["Enlarged 1 images that were smaller than 8x8.", "Skipped 2 images:"]
    assert lines[3] == "  c.png is no image of a known format, or its header is damaged"
    assert lines[4].startswith("  d.png is damaged: ")
    assert run(path, tmp_path / "y.zip", *options).exit_code == 1
    anew = run(path, tmp_path / "y.zip", *options, "--max-bad", 2, "--filter", "box")
    assert anew.stdout.startswith(
        "Began again: the unfinished run had another source or other settings."
    )


def test_options_reach_the_library(tmp_path, monkeypatch):
    seen = {}

    def noted(source: str, dest: Path, settings: object, **options: object) -> module.Report:
        seen.update(options, source=source, settings=settings)
        dest.write_bytes(b"")
        return module.Report(1, 0, (), 0, False)

    monkeypatch.setattr(module, "prepare", noted)
    options = (
        "--resolution 16 --crop none --filter box --max-images 3 --max-bad 1 --seed 2 --workers 4"
    )
    flags = ("--overwrite", "--labels-from-folders")
    assert run("x", tmp_path / "y.zip", *options.split(), *flags).exit_code == 0
    assert seen == {
        "source": "x",
        "settings": module.Settings(16, crop="none", resize="box"),
        "max_images": 3,
        "max_bad": 1,
        "seed": 2,
        "workers": 4,
        "overwrite": True,
        "labels_from_folders": True,
    }


def one_error(result: Result, code: int) -> str:
    assert (result.exit_code, result.stdout) == (code, "")
    *_, last = result.stderr.splitlines()
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
    return last.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("source", "dest", "options", "sentence"),
    [
        (
            "faces:0",
            "x.zip",
            "8",
            "faces:N needs a whole number of faces from 1 to 100,000,000: faces:0",
        ),
        (
            "faces:abc",
            "x.zip",
            "8",
            "faces:N needs a whole number of faces from 1 to 100,000,000: faces:abc",
        ),
        ("faces:2", "x.zip", "0", "resolution must be positive: 0"),
        ("faces:2", "x.zip", "2", "resolution must lie in 4..1024: 2"),
        ("faces:2", "x.tar", "8", "DEST must be a .zip: x.tar"),
        ("faces:2", "no/x.zip", "8", f"no: {os.strerror(errno.ENOENT)}"),
        ("faces:2", "old.zip", "8", "old.zip exists already; --overwrite replaces it"),
        ("old.zip", "old.zip", "8 --overwrite", "old.zip must be another file than old.zip"),
        ("old.zip", "link.zip", "8 --overwrite", "link.zip must be another file than old.zip"),
        ("link.zip", "old.zip", "8 --overwrite", "old.zip must be another file than link.zip"),
        (
            "./bad/../old.zip",
            "old.zip",
            "8 --overwrite",
            "old.zip must be another file than ./bad/../old.zip",
        ),
        ("hard.zip", "old.zip", "8 --overwrite", "old.zip must be another file than hard.zip"),
        (
            "folder.zip",
            "folder.zip",
            "8 --overwrite",
            "folder.zip must be another file than folder.zip",
        ),
        ("absent", "x.txt/y.zip", "8", "x.txt: "),
        ("absent", "folder.zip", "8", "folder.zip: "),
        ("absent", "x.zip", "100000", "resolution must be at most 8192: 100000"),
        ("absent", "x.zip", "8", f"absent: {os.strerror(errno.ENOENT)}"),
        ("empty", "x.zip", "8", "empty holds no images"),
        ("old.zip", "x.zip", "8", "old.zip is no zip, or damaged: "),
        (
            "x.txt",
            "x.zip",
            "8",
            "x.txt is no data set; give a folder of images, a .zip, the folder",
        ),
        ("bad", "x.zip", "8", "1 of 2 images are bad, and --max-bad is 0: b.png is no image of a"),
        ("bad", "x.zip", "8 --crop none", "1 of 2 images are bad, and --max-bad is 0: b.png is no"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(
    tmp_path, monkeypatch, source, dest, options, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.zip").write_text("older")
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "link.zip").symlink_to("old.zip")
    (tmp_path / "hard.zip").hardlink_to(tmp_path / "old.zip")
    write_folder(tmp_path / "bad", {"a.png": png(0), "b.png": b""})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = run(source, dest, "--workers", 0, "--resolution", *options.split())
    assert one_error(result, 1).startswith(sentence)
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert left.items() <= before.items()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "SOURCE is missing"),
        ("a", "DEST.zip is missing"),
        ("a b.zip", "--resolution is missing"),
        ("a b.zip --resolution x", "'--resolution'"),
        ("a b.zip --resolution 8 --filter cubic", "'--filter'"),
        ("a b.zip --resolution 8 --max-bad -1", "'--max-bad'"),
        ("a --verify b.zip", "--verify cannot be combined with source"),
        ("--verify b.zip --max-bad 3", "--verify cannot be combined with --max-bad"),
    ],
)
def test_a_misspelt_command_ends_with_code_2(arguments, sentence):
    assert sentence in one_error(run(*arguments.split()), 2)


@pytest.mark.parametrize("seed", [2**63, 10**30, -1])
def test_a_seed_past_every_use_is_refused_at_once(tmp_path, seed):
    result = run("faces:2", tmp_path / "x.zip", "--resolution", 8, "--seed", seed)
    assert "'--seed'" in one_error(result, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ("--resolution", 8, "--workers", 0)
    assert run("faces:2", "~/a.zip", *options).exit_code == 0
    assert run("~/a.zip", "~/b.zip", *options).exit_code == 0
    assert run("--verify", "~/b.zip", "--workers", 0).exit_code == 0
    assert len(open_images("~/b.zip")) == 2
    refusal = one_error(run("~/a.zip", tmp_path / "a.zip", *options, "--overwrite"), 1)
    assert "must be another file than ~/a.zip" in refusal


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("file", ["images.zip", "journal.jsonl", "skipped.txt", "settings.json"])
def test_a_disk_s_fault_is_named_with_the_file(tmp_path, monkeypatch, fault, file):
    """Errors of writing and flushing name no file by themselves."""
    path = write_folder(tmp_path / "x", {"a.png": png(0), "b.png": b""})
    opened = Path.open

    def failing(self: Path, *arguments: object, **options: object) -> object:
        handle = opened(self, *arguments, **options)
        if self.name != file:
            return handle

        def fail(*_: object) -> None:
            raise OSError(fault, os.strerror(fault))

        spy = Mock(wraps=handle)
        spy.__enter__, spy.__exit__ = (lambda _: spy), (lambda *_: None)
        spy.write = spy.flush = fail
        return spy

    monkeypatch.setattr(Path, "open", failing)
    error = one_error(run(path, tmp_path / "y.zip", "--resolution", 8, "--workers", 0), 1)
    assert error == f"{tmp_path}/.y.zip.partial/{file}: {os.strerror(fault)}"


@pytest.mark.parametrize("fault", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("left", [False, True])
def test_a_folder_that_cannot_be_written_is_named_before_the_source_is_opened(
    tmp_path, monkeypatch, fault, left
):
    """The zip's own folder, or the one that an unfinished run left in it."""
    folder = tmp_path / "locked" / ".x.zip.partial" if left else tmp_path / "locked"
    folder.mkdir(parents=True)
    temporary = tempfile.TemporaryFile

    def refused(*, dir: object) -> object:
        if Path(str(dir)) == folder:
            raise OSError(fault, os.strerror(fault))
        return temporary(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    error = one_error(run("absent", tmp_path / "locked" / "x.zip", "--resolution", 8), 1)
    assert error == f"{folder}: {os.strerror(fault)}"


def test_verify_names_the_faults_and_ends_with_code_1(tmp_path):
    dest = tmp_path / "x.zip"
    assert one_error(run("--verify", dest), 1) == f"{dest}: {os.strerror(errno.ENOENT)}"
    run("faces:2", dest, "--resolution", 8, "--workers", 0)
    data = bytearray(dest.read_bytes())
    data[100] ^= 1
    dest.write_bytes(data)
    error = one_error(run("--verify", dest, "--workers", 0), 1)
    assert error.startswith(f"{dest} has 1 fault: 00000/img00000000.png is damaged within the zip")


def test_names_that_are_no_text_are_shown_without_their_commands(tmp_path):
    odd = ["a\nb.png", "\x1b[2Jx.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    path = write_folder(tmp_path / "x", {"!.png": png(0), **dict.fromkeys(odd, b"")})
    options = ("--resolution", 8, "--workers", 0)
    error = one_error(run(path, tmp_path / "x.zip", *options), 1)
    assert r"\x1b[2Jx.png is no image" in error
    lines = run(path, tmp_path / "x.zip", *options, "--max-bad", 3).stdout.splitlines()
    shown = [r"  \x1b[2Jx.png is", r"  a\nb.png is", r"  caf\udce9.png is"]
    assert [line.partition(" no image")[0] for line in lines[2:5]] == shown
