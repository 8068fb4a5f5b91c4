"""Odd names, many folders, many files: the same count everywhere, and a quick start."""

from __future__ import annotations

import hashlib
import time
import zipfile
from pathlib import Path

import pytest

from stylenat.data import open_images, training_batches
from tests.data.writers import contents, make, pixels, png, write_folder, write_zip

MOST_SECONDS = 60  # a start takes one second or two; more than this is a hang
ODD_NAMES = (
    "a b/c d.png",
    "[1]/x[2].png",
    "{a,b}/*?.png",
    "ünï/日本語/😀.png",
    "'quoted'/\"double\".png",
    "$HOME/`x`/%s.png",
    "new\nline/tab\t.png",
    "a\\b/c.png",
    "~/x.png",
    "-rf/--help.png",
    "#1/&&.png",
    "e\u0301/decomposed.png",
    "UPPER.PNG",
)


def test_odd_names_are_the_same_everywhere(tmp_path):
    files = {name: png(index) for index, name in enumerate(ODD_NAMES)}
    folder = write_folder(tmp_path / "my [data] ü *" / "100 %", files)
    (tmp_path / "zips [1]").mkdir()
    archive = write_zip(tmp_path / "zips [1]" / "x y.zip", files)
    expected = {name: pixels(index).tobytes() for index, name in enumerate(ODD_NAMES)}
    for path in (folder, archive):
        assert contents(open_images(path)) == expected
        dest = tmp_path / "zips [1]" / f"made ({Path(path).suffix}) 日本.zip"
        assert make(path, dest, workers=1).images == len(ODD_NAMES)
        made = open_images(str(dest))
        assert sorted(contents(made).values()) == sorted(expected.values())


def test_names_that_are_no_text_are_read_from_a_folder(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    source = open_images(write_folder(tmp_path / "x", {name: png(3)}))
    assert source.read(0).tobytes() == pixels(3).tobytes()
    source.fingerprint()
    assert make(str(tmp_path / "x"), tmp_path / "made.zip").images == 1


@pytest.mark.parametrize("per_folder", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_thousand_folders_count_the_same_everywhere_and_start_at_once(tmp_path, per_folder):
    folder, count = tmp_path / "many", 1000 * per_folder
    archive = tmp_path / "many.zip"
    picture = png(0)
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(count):
            file = folder / f"{number // per_folder:03d} [x]" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture)
            packed.writestr(str(file.relative_to(folder)), picture)
    names = None
    for path in (folder, archive):
        open_images(str(path))  # the first listing, from the disk
        start = time.perf_counter()
        source = open_images(str(path), resolution=8)
        source.fingerprint()
        batches = training_batches(source, seed=0, batch=100, workers=2)
        next(batches)
        seconds = time.perf_counter() - start
        print(f"{count:,} files in {path.name}: the first batch after {seconds:.2f} s")
        assert seconds < MOST_SECONDS, seconds
        read = 100 + sum(len(next(batches)) for _ in range(count // 100 - 1))
        batches.close()
        assert read == len(source) == count
        digest = hashlib.sha256("\n".join(map(source.name, range(count))).encode()).hexdigest()
        assert names in (None, digest)
        names = digest
    report = make(str(folder), tmp_path / "made.zip", workers=2)
    assert (report.images, report.skipped) == (count, ())
    assert len(open_images(str(tmp_path / "made.zip"))) == count
