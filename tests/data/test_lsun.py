"""LMDBs: LSUN as it is distributed, and the multi-resolution layout."""

from __future__ import annotations

import builtins
import os
import pwd
from pathlib import Path

import lmdb
import numpy as np
import pytest

from stylenat.data import lsun as lsun_module
from stylenat.data import open_images
from tests.data.writers import (
    encoded,
    lsun_entries,
    multi_resolution_entries,
    pixels,
    png,
    write_lmdb,
)

pytestmark = pytest.mark.usefixtures("cache")


def test_lsun_is_read_as_it_is_distributed(tmp_path):
    entries = lsun_entries(5)
    path = write_lmdb(tmp_path / "church_outdoor_train_lmdb", entries)
    for name in (path, f"{path}/data.mdb"):
        source = open_images(name)
        assert [source.name(i) for i in range(5)] == [f"key {key.decode()}" for key in entries]
        assert all(np.array_equal(source.read(i), pixels(i, 10, 12)) for i in range(5))
    assert source.describe() == "church_outdoor_train_lmdb: 5 images"
    assert [file.name for file in Path(path).iterdir()] == ["data.mdb"]


def test_keys_may_be_any_bytes(tmp_path):
    keys = [b"\0", b"\0\0", b"a\0", b"length", b"\xff" * 300, "日".encode()]
    path = write_lmdb(tmp_path / "x", {key: png(i) for i, key in enumerate(keys)})
    source = open_images(path)
    order = sorted(keys)
    assert [source.key(i) for i in range(6)] == order
    assert [source.read(i).tobytes() for i in range(6)] == [
        pixels(keys.index(key)).tobytes() for key in order
    ]
    assert source.name(0) == "key 0x00"


def test_keys_are_cached_for_the_user_and_found_again(tmp_path, cache, monkeypatch):
    path = write_lmdb(tmp_path / "x", lsun_entries(4))
    first = open_images(path)
    files = [file for file in cache.rglob("*") if file.is_file()]
    assert len(files) == 1
    read = []
    monkeypatch.setattr(lsun_module, "_read_keys", lambda *_, **__: read.append(1))
    again = open_images(path)
    assert [again.name(i) for i in range(4)] == [first.name(i) for i in range(4)]
    assert again.fingerprint() == first.fingerprint()
    assert not read


@pytest.mark.parametrize("damage", [b"", b"no npz", b"PK\x03\x04 cut short"])
def test_a_damaged_cache_is_made_again(tmp_path, cache, damage):
    path = write_lmdb(tmp_path / "x", lsun_entries(4))
    names = [open_images(path).name(i) for i in range(4)]
    (file,) = (file for file in cache.rglob("*") if file.is_file())
    file.write_bytes(damage)
    assert [open_images(path).name(i) for i in range(4)] == names
    assert file.read_bytes() != damage


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, cache):
    cache.write_text("a file in the folder's place")
    path = write_lmdb(tmp_path / "x", lsun_entries(2))
    with pytest.warns(UserWarning, match=r"the keys of .*/x can't be kept, .*; set STYLENAT_CACHE"):
        assert len(open_images(path)) == 2


def test_without_a_home_folder_the_keys_are_read_each_time(tmp_path, monkeypatch):
    def unknown(_: int) -> object:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "STYLENAT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    path = write_lmdb(tmp_path / "x", lsun_entries(2))
    with pytest.warns(UserWarning, match=r"the keys of .*/x can't be kept.*no cache folder"):
        assert len(open_images(path)) == 2


def test_the_cached_keys_of_a_changed_database_are_not_used(tmp_path):
    path = write_lmdb(tmp_path / "x", lsun_entries(2))
    before = open_images(path)
    lsun_module._open.popitem()[1][1].close()
    with lmdb.open(path, map_size=1 << 26) as environment, environment.begin(write=True) as t:
        t.put(b"new", png(7))
    after = open_images(path)
    assert (len(before), len(after)) == (2, 3)
    assert after.fingerprint() != before.fingerprint()


def test_an_entry_that_is_no_image_is_named_by_its_key(tmp_path):
    path = write_lmdb(tmp_path / "x", {b"a": png(0), b"b": b"text"})
    source = open_images(path)
    with pytest.raises(ValueError, match=rf"^{path}: key b is no image of a known format"):
        source.read(1)


def test_a_forked_process_opens_its_own_database(tmp_path):
    source = open_images(write_lmdb(tmp_path / "x", lsun_entries(3)))
    source.read(0)
    pid = os.fork()
    if pid == 0:
        same = np.array_equal(source.read(1), pixels(1, 10, 12))
        own = lsun_module._open[source.path][0] == os.getpid()
        os._exit(0 if same and own else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(source.read(2), pixels(2, 10, 12))


def test_a_database_cut_short_is_refused_before_it_can_crash(tmp_path):
    path = write_lmdb(tmp_path / "x", {b"%d" % i: os.urandom(9000) for i in range(20)})
    file = Path(path, "data.mdb")
    os.truncate(file, file.stat().st_size - 4096)
    with pytest.raises(ValueError, match=r"x/data\.mdb is cut short: [\d,]+ of [\d,]+ bytes"):
        open_images(path)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path} is no readable LMDB"):
        open_images(str(tmp_path))


def test_an_empty_database_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x holds no images"):
        open_images(write_lmdb(tmp_path / "x", {}))
    with pytest.raises(ValueError, match=r"y holds no images"):
        open_images(
            write_lmdb(tmp_path / "y", {**multi_resolution_entries(1, (8,)), b"length": b"0"})
        )


def test_without_lmdb_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write_lmdb(tmp_path / "x", lsun_entries(1))
    original = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name == "lmdb":
            raise ModuleNotFoundError(name=name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match="an LMDB needs the lmdb package: pip install lmdb"):
        open_images(path)


# Multi-resolution


def test_the_requested_resolution_is_read(tmp_path):
    path = write_lmdb(tmp_path / "x", multi_resolution_entries(3, (8, 16, 128)))
    for side in (8, 16):
        source = open_images(path, resolution=side)
        assert (len(source), source.resolution) == (3, side)
        assert source.name(2) == f"key {side}-00002"
        assert all(np.array_equal(source.read(i), pixels(i, side, side)) for i in range(3))
    prints = {open_images(path, resolution=side).fingerprint() for side in (8, 16)}
    assert len(prints) == 2


def test_a_missing_resolution_lists_those_that_are_there(tmp_path):
    path = write_lmdb(tmp_path / "x", multi_resolution_entries(1, (8, 16, 128)))
    for wanted in (None, 64):
        with pytest.raises(
            ValueError, match=r"x holds images of 8, 16, 128: the resolution must be"
        ):
            open_images(path, resolution=wanted)
    assert open_images(path, resolution=12, resize="box").source.resolution == 16
    assert open_images(path, resolution=256, resize="box").source.resolution == 128
    only = write_lmdb(tmp_path / "y", multi_resolution_entries(1, (16,)))
    assert open_images(only).resolution == 16


def test_more_than_99999_images_have_longer_keys(tmp_path):
    entries = {b"8-%05d" % i: b"" for i in range(100_000)} | {b"8-100000": png(5)}
    source = open_images(
        write_lmdb(tmp_path / "x", {**entries, b"8-00000": png(0), b"length": b"100001"})
    )
    assert np.array_equal(source.read(100_000), pixels(5))


def test_a_database_that_lacks_images_is_refused(tmp_path):
    entries = {**multi_resolution_entries(2, (8,)), b"length": b"3"}
    with pytest.raises(ValueError, match="claims 3 images and lacks key 8-00002"):
        open_images(write_lmdb(tmp_path / "x", entries))
    entries = {b"8-00000": png(0), b"8-00002": png(2), b"length": b"3"}
    source = open_images(write_lmdb(tmp_path / "y", entries))
    with pytest.raises(ValueError, match=r"y: key 8-00001 is missing"):
        source.read(1)


def test_stored_jpeg_is_read(tmp_path):
    jpeg = encoded(pixels(0), "JPEG", quality=100)
    source = open_images(write_lmdb(tmp_path / "x", {b"8-00000": jpeg, b"length": b"1"}))
    assert np.abs(source.read(0).astype(int) - pixels(0)).mean() < 60
