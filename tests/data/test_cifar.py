"""CIFAR archives, read by torchvision after their checksums were compared."""

from __future__ import annotations

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torchvision

from stylenat.data import cifar, open_images
from tests.data.writers import cifar_files, pixels, write_folder, write_tar

KINDS = [
    ("CIFAR10", 10, "cifar-10-batches-py", "cifar-10-python.tar.gz", 15),
    ("CIFAR100", 100, "cifar-100-python", "cifar-100-python.tar.gz", 3),
]


pytestmark = pytest.mark.usefixtures("cache")


def publish(monkeypatch, dataset: str, files: dict[str, bytes]) -> None:
    """Make torchvision take these small files for the published ones."""
    kind = getattr(torchvision.datasets, dataset)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    for members in ("train_list", "test_list"):
        listed = [[name, sums[name]] for name, _ in getattr(kind, members)]
        monkeypatch.setattr(kind, members, listed)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})


@pytest.mark.parametrize(("dataset", "classes", "folder", "archive", "count"), KINDS)
def test_archive_and_folder_give_the_training_images_and_labels(
    tmp_path, monkeypatch, cache, dataset, classes, folder, archive, count
):
    files = cifar_files(classes)
    publish(monkeypatch, dataset, files)
    named = {f"{folder}/{name}": content for name, content in files.items()}
    write_folder(tmp_path / "unpacked", named)
    paths = [
        write_tar(tmp_path / archive, named),
        str(tmp_path / "unpacked" / folder),
        str(tmp_path / "unpacked"),
    ]
    for path in paths:
        source = open_images(path, resolution=32)
        assert len(source) == count
        assert all(np.array_equal(source.read(i), pixels(i, 32, 32)) for i in range(count))
        assert [source.label(i) for i in range(count)] == [i % classes for i in range(count)]
        assert source.class_names == tuple(f"class {i}" for i in range(classes))
        copy = pickle.loads(pickle.dumps(source))
        assert np.array_equal(copy.read(1), pixels(1, 32, 32))
    assert len({open_images(path).fingerprint() for path in paths}) == 1
    assert sorted(file.name for file in (cache / "cifar" / folder).iterdir()) == sorted(files)
    assert {file.name for file in tmp_path.iterdir()} == {archive, "unpacked", "cache"}


def test_a_file_other_than_the_published_one_is_not_unpickled(tmp_path, monkeypatch):
    files = cifar_files(10)
    publish(monkeypatch, "CIFAR10", files)

    evil = {**files, "data_batch_3": b"cbuiltins\nexec\n(Vraise SystemExit\ntR."}
    path = write_folder(tmp_path / "cifar-10-batches-py", evil)
    with pytest.raises(ValueError, match=r"data_batch_3 is missing, damaged or not the published"):
        open_images(path)
    named = {f"cifar-10-batches-py/{name}": content for name, content in evil.items()}
    with pytest.raises(ValueError, match=r"data_batch_3 is missing, damaged or not the published"):
        open_images(write_tar(tmp_path / "cifar-10-python.tar.gz", named))


def test_a_damaged_archive_is_refused(tmp_path, cache):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged, or no CIFAR"):
        open_images(str(path))
    write_tar(path, {"other": b""})
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged, or no CIFAR"):
        open_images(str(path))
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_an_archive_larger_than_the_published_one_is_not_unpacked(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(cifar, "LARGEST_MEMBER", 10_000_000)
    name = "cifar-10-batches-py/data_batch_1"
    bomb = write_tar(tmp_path / "cifar-10-python.tar.gz", {name: bytes(10_000_001)})
    assert (tmp_path / "cifar-10-python.tar.gz").stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"data_batch_1 is not the published file: 10,000,001 by"):
        open_images(bomb)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_links_in_an_archive_are_not_followed_out_of_it(tmp_path, cache):
    path = tmp_path / "cifar-10-python.tar.gz"
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    with pytest.raises(ValueError, match="is damaged, or no CIFAR archive"):
        open_images(str(path))
    assert not [path for path in cache.rglob("*") if path.is_file()]
