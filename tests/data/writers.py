"""Small data sets in the real formats, what their images should read as, and prepared ones."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from stylenat.data import ImageSource
from stylenat.data.prepare import Report, Settings, prepare

PHOTO_SIZES = np.random.RandomState(0).randint(5, 40, (40, 2))  # height and width


def pixels(index: int, height: int = 8, width: int = 8) -> np.ndarray:
    """uint8 [H, W, 3] that no other index has."""
    return np.random.RandomState(index).randint(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(pixels_HW3: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An image file; of the kinds used here, PNG, BMP and lossless WebP keep every pixel."""
    file = io.BytesIO()
    image = Image.fromarray(pixels_HW3)
    image.save(file, kind, **options)
    return file.getvalue()


def png(index: int, height: int = 8, width: int = 8) -> bytes:
    return encoded(pixels(index, height, width))


def write_folder(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return str(folder)


def write_zip(path: Path, files: dict[str, bytes], labels: object = None) -> str:
    """As StyleGAN's dataset_tool: stored members, and `dataset.json`."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return str(path)


def numbered_zip(path: Path, count: int, side: int = 8) -> str:
    """`count` images that `pixels` gives, in its order."""
    return write_zip(
        path, {f"{i // 2:05d}/img{i:08d}.png": png(i, side, side) for i in range(count)}
    )


def write_lmdb(folder: Path, entries: dict[bytes, bytes]) -> str:
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=1 << 26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key, value)
    (folder / "lock.mdb").unlink()  # LSUN's archives hold data.mdb and an old lock
    return str(folder)


def lsun_entries(count: int) -> dict[bytes, bytes]:
    """LSUN: 40 hexadecimal digits, and WebP."""
    keys = [hashlib.sha1(b"%d" % i).hexdigest().encode() for i in range(count)]
    return {
        key: encoded(pixels(i, 10, 12), "WEBP", lossless=True) for i, key in enumerate(sorted(keys))
    }


def multi_resolution_entries(count: int, resolutions: tuple[int, ...]) -> dict[bytes, bytes]:
    """As StyleGAN2-pytorch's prepare_data: JPEG there, PNG here to compare every pixel."""
    entries = {
        f"{side}-{index:05d}".encode(): encoded(pixels(index, side, side))
        for side in resolutions
        for index in range(count)
    }
    return {**entries, b"length": str(count).encode()}


def cifar_files(classes: int, images_a_batch: int = 3) -> dict[str, bytes]:
    """The members of the archive of CIFAR-10 or CIFAR-100, `classes` of them, with few images.

    Rows are [3072]: 1024 red, green, then blue values. Image i of the training set is
    `pixels(i, 32, 32)`, its label i % classes.
    """
    ten = classes == 10
    batches = [f"data_batch_{n}" for n in range(1, 6)] if ten else ["train"]
    key = "labels" if ten else "fine_labels"
    files = {}
    for number, name in enumerate([*batches, "test_batch" if ten else "test"]):
        indices = [number * images_a_batch + i for i in range(images_a_batch)]
        rows = np.stack([pixels(i, 32, 32).transpose(2, 0, 1).reshape(-1) for i in indices])
        batch = {"data": rows, key: [i % classes for i in indices]}
        files[name] = pickle.dumps(batch, protocol=2)
    meta = {"label_names" if ten else "fine_label_names": [f"class {i}" for i in range(classes)]}
    files["batches.meta" if ten else "meta"] = pickle.dumps(meta, protocol=2)
    return files


def write_tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def write_photos(folder: Path) -> str:
    """Forty images of many sizes, some of them smaller than 8x8."""
    names = [f"{i % 3}/{i:02d}.png" for i in range(len(PHOTO_SIZES))]
    sizes = PHOTO_SIZES.tolist()
    return write_folder(folder, {name: png(i, *sizes[i]) for i, name in enumerate(names)})


def contents(source: ImageSource) -> dict[str, bytes]:
    """The pixels of every image by its name."""
    return {source.name(i): source.read(i).tobytes() for i in range(len(source))}


def make(source: str, dest: Path, resolution: int = 8, **options: object) -> Report:
    """`prepare` in this process, with every setting a keyword."""
    crop, resize = options.pop("crop", "center"), options.pop("resize", "lanczos")
    settings = Settings(resolution, crop=crop, resize=resize)
    return prepare(source, dest, settings, **{"workers": 0, **options})


def about(dest: Path) -> dict:
    """A zip's `dataset.json`."""
    with zipfile.ZipFile(dest) as archive:
        return json.loads(archive.read("dataset.json"))
