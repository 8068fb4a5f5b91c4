"""`stylenat prepare` as a user sees it: what it prints, and how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stylenat.cli import main
from stylenat.data import prepare as module
from tests.data.writers import png, write_folder


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


def test_it_reports_what_was_skipped_enlarged_and_continued(tmp_path, monkeypatch):
    files = {"a.png": png(0), "b.png": png(1, 4, 9), "c.png": b"", "d.png": png(2)[:60]}
    path, dest = write_folder(tmp_path / "x", files), tmp_path / "x.zip"
    options = ("--resolution", 8, "--workers", 0)
    assert run(path, dest, *options).exit_code == 1
    lines = run(path, dest, *options, "--max-bad", 2).stdout.splitlines()
    assert lines[0] == "Continued after 4 images of an unfinished run."
    assert lines[1:3] == ["Enlarged 1 images, smaller than 8x8.", "Skipped 2 images:"]
    assert lines[3] == "  c.png is no image of a known format, or its header is damaged"
    assert lines[4].startswith("  d.png is damaged: ")
    assert run(path, tmp_path / "y.zip", *options).exit_code == 1
    anew = run(path, tmp_path / "y.zip", *options, "--max-bad", 2, "--filter", "box")
    assert anew.stdout.startswith("Began anew: an unfinished run's source or settings were others.")


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
    assert run("x", tmp_path / "y.zip", *options.split(), "--overwrite").exit_code == 0
    assert seen == {
        "source": "x",
        "settings": module.Settings(16, crop="none", resize="box"),
        "max_images": 3,
        "max_bad": 1,
        "seed": 2,
        "workers": 4,
        "overwrite": True,
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
        ("faces:2", "no/x.zip", "8", "no: No such file or directory"),
        ("faces:2", "old.zip", "8", "old.zip exists already; --overwrite replaces it"),
        ("absent", "x.zip", "8", "absent: No such file or directory"),
        ("empty", "x.zip", "8", "empty holds no images"),
        ("old.zip", "x.zip", "8", "old.zip is no zip, or damaged: File is not a zip file"),
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
        ("a b.zip --resolution x", "Invalid value for '--resolution'"),
        ("a b.zip --resolution 8 --filter cubic", "Invalid value for '--filter'"),
        ("a b.zip --resolution 8 --max-bad -1", "Invalid value for '--max-bad'"),
        ("a --verify b.zip", "--verify takes none of the other arguments: source"),
        ("--verify b.zip --max-bad 3", "--verify takes none of the other arguments: --max-bad"),
    ],
)
def test_a_misspelt_command_ends_with_code_2(arguments, sentence):
    assert one_error(run(*arguments.split()), 2).startswith(sentence)


def test_verify_names_the_faults_and_ends_with_code_1(tmp_path):
    dest = tmp_path / "x.zip"
    assert one_error(run("--verify", dest), 1) == f"{dest}: No such file or directory"
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
