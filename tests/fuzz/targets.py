"""What reads bytes from elsewhere, as functions of bytes, and what a fuzzer holds them to.

A target may refuse: with a ValueError or an OSError of one short sentence. Anything else that it
raises is a fault, and so is whatever it does to the machine: a file written or removed outside its
own scratch folder, a process, a connection.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as safetensors_bytes

from stylenat.config import load_config, to_dict
from stylenat.data.images import decode
from stylenat.data.readers import ZipSource
from stylenat.export import load_generator, save_generator
from stylenat.legacy import convert_checkpoint, read_official
from stylenat.sampling import latents, parse_seeds
from tests.sampling.tiny import tiny_generator

LONGEST_SENTENCE = 4000
MOST_IMAGES = 20  # that a target reads of one zip

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Fault(AssertionError):
    """What a target must not do."""


# The targets: bytes, and a scratch folder that is theirs


def config(data: bytes, scratch: Path) -> None:
    """A YAML file; after a line of dashes, overrides, one a line."""
    text, _, overrides = data.partition(b"\n-----\n")
    path = scratch / "config.yaml"
    path.write_bytes(text)
    lines = overrides.decode("utf-8", "replace").splitlines()
    read = load_config(path, lines)
    assert type(read)(**vars(read)) == read
    to_dict(read)


def seeds(data: bytes, scratch: Path) -> None:
    """The syntax of --seeds; the first seeds' latents too."""
    read = parse_seeds(data[:200].decode("utf-8", "replace"))
    assert read
    assert latents(read[:2], 4).isfinite().all()


def image(data: bytes, scratch: Path) -> None:
    """An image file's content."""
    picture = decode(data)
    assert picture.mode == "RGB"
    assert np.asarray(picture).shape == (picture.height, picture.width, 3)


def zip_index(data: bytes, scratch: Path) -> None:
    """The zip of a data set: its directory, dataset.json and first images."""
    path = scratch / "data.zip"
    path.write_bytes(data)
    source = ZipSource(str(path))
    source.fingerprint()
    with contextlib.suppress(ValueError):
        source.label(0)
    for index in range(min(len(source), MOST_IMAGES)):
        with refusing():
            source.read(index)


def archive(data: bytes, scratch: Path) -> None:
    """A published checkpoint, as a file."""
    path = scratch / "official.pt"
    path.write_bytes(data)
    read_official(path)


def pickled(data: bytes, scratch: Path) -> None:
    """A published checkpoint by the pickle in it; its checksums are right."""
    path = scratch / "official.pt"
    path.write_bytes(packed(data))
    read_official(path)


def convert(data: bytes, scratch: Path) -> None:
    """The converter, on a checkpoint whose args are this JSON, and whose names it may change."""
    args = json.loads(data)
    if not isinstance(args, dict):
        raise ValueError("no object")
    state = dict(OFFICIAL_TENSORS)
    for old, new in list(args.pop("rename", {}).items()) if _is_names(args) else ():
        if old in state:
            state[new] = state.pop(old)
    path = scratch / "official.pt"
    torch.save({"g_ema": state, "args": args}, path)
    convert_checkpoint(path)


def safetensors(data: bytes, scratch: Path) -> None:
    """A model's file. Where the first byte is even, the header's length is put right."""
    path = scratch / "model.safetensors"
    if data and data[0] % 2 == 0:
        text, _, tensors = data[1:].partition(b"\0")
        data = struct.pack("<Q", len(text)) + text + tensors
    else:
        data = data[1:]
    path.write_bytes(data)
    load_generator(path)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "config": config,
    "seeds": seeds,
    "image": image,
    "zip": zip_index,
    "archive": archive,
    "pickle": pickled,
    "convert": convert,
    "safetensors": safetensors,
}


def _is_names(args: dict) -> bool:
    names = args.get("rename", {})
    return isinstance(names, dict) and all(isinstance(name, str) for name in names.values())


OFFICIAL_TENSORS = {
    "input.input": torch.zeros(1, 8, 4, 4),
    "style.1.weight": torch.zeros(8, 8),
    "style.1.bias": torch.zeros(8),
    "layers.0.blocks.0.norm1.style.weight": torch.zeros(16, 8),
    "layers.0.blocks.0.attn.rpb0": torch.zeros(4, 7, 7),
    "layers.1.blocks.0.attn.rpb.0": torch.zeros(4, 7, 7),
}


def packed(pickle: bytes) -> bytes:
    """A checkpoint's zip around a pickle, with two tensors' data."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name, content in (("data.pkl", pickle), ("byteorder", b"little"), ("version", b"3\n")):
            members.writestr(f"x/{name}", content)
        for number in (0, 1):
            members.writestr(f"x/data/{number}", bytes(64))
    return file.getvalue()


# What they are held to


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Within the block a refusal is no fault: a ValueError or OSError of one short sentence."""
    try:
        yield
    except (ValueError, OSError) as error:
        sentence = str(error)
        if not sentence or not sentence.isprintable() or len(sentence) > LONGEST_SENTENCE:
            raise Fault(f"no sentence: {type(error).__name__} {sentence[:300]!r}") from error


class Guard:
    """Watches what this process does to files, processes and connections; never to be undone.

    Within `watching(scratch)` everything but reading, and writing below `scratch`, is a fault.
    """

    def __init__(self) -> None:
        self.scratch: str | None = None
        self.faults: list[str] = []
        sys.addaudithook(self._look)

    @contextlib.contextmanager
    def watching(self, scratch: Path) -> Iterator[None]:
        self.scratch, self.faults = str(scratch), []
        try:
            yield
        finally:
            self.scratch = None
        if self.faults:
            raise Fault("; ".join(self.faults))

    def _look(self, event: str, arguments: tuple) -> None:
        if self.scratch is None:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            is_write = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & writes
            if is_write and not isinstance(path, int):
                self._must_be_inside(event, path)
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                self._must_be_inside(event, path)
        elif event.startswith(NEVER):
            self.faults.append(f"{event} {arguments!r:.200}")

    def _must_be_inside(self, event: str, path: object) -> None:
        assert self.scratch is not None
        name = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]  # noqa: PTH100
        if not name.startswith((f"{self.scratch}{os.sep}", os.devnull)):
            self.faults.append(f"{event} {name}")


# Beginnings of audited calls: processes, connections, libraries.
NEVER = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "pty.spawn",
    "socket.connect", "urllib", "ctypes.dlopen",
)  # fmt: skip
CHANGES = {  # audited calls, and how many of their arguments are files that they change
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1, "shutil.move": 2,
}  # fmt: skip


class Runner:
    """Runs one target on one input after the other."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.target, self.scratch, self.guard = TARGETS[name], scratch, Guard()
        logging.disable()
        warnings.simplefilter("ignore")
        for example in examples(name, scratch):
            # Unwatched: what is imported late, PyTorch's folders among it, comes now.
            with contextlib.suppress(Exception):
                self.target(example, scratch)

    def __call__(self, data: bytes) -> None:
        """Raises Fault, or whatever it was that the target must not raise."""
        with self.guard.watching(self.scratch), refusing():
            self.target(data, self.scratch)


# What a fuzzer starts from


def examples(name: str, scratch: Path) -> list[bytes]:
    """Inputs that a target takes, and some that it refuses."""
    return EXAMPLES[name](scratch)


def _configs(scratch: Path) -> list[bytes]:
    override = b"\n-----\nmodel.generator.levels[0].heads=2\ntrain.batch=4\ndata.path='x [1].zip'"
    small = (CONFIGS / "faces32.yaml").read_bytes()
    return [small, small + override, b"model: {generator: {levels: []}}", b"a: &a [*a]", b"${x}"]


def _seeds(scratch: Path) -> list[bytes]:
    return [b"7", b"0-63,100,4-6", b" 5 , 1-1 ", b"9223372036854775807", b"-4", "٣".encode()]


def _images(scratch: Path) -> list[bytes]:
    noise = np.random.RandomState(0).randint(0, 256, (6, 5, 4)).astype(np.uint8)
    found = []
    for kind, mode in (
        ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "1"), ("JPEG", "RGB"),
        ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"),
        ("TIFF", "I"), ("PPM", "RGB"), ("TGA", "RGBA"), ("WEBP", "RGB"), ("JPEG2000", "RGB"),
        ("QOI", "RGB"), ("AVIF", "RGB"),
    ):  # fmt: skip
        file = io.BytesIO()
        with contextlib.suppress(KeyError, OSError):  # what this Pillow can't write
            Image.fromarray(noise).convert("RGB").convert(mode).save(file, kind)
            found.append(file.getvalue())
    return found


def _zips(scratch: Path) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as members:
            members.writestr("a.png", _images(scratch)[0])
            members.writestr("../b.bmp", _images(scratch)[8])
            members.writestr("dataset.json", json.dumps({"labels": [["a.png", 1]]}))
        found.append(file.getvalue())
    return found


def _pickles(scratch: Path) -> list[bytes]:
    found = []
    for args in ({"size": 8, "kernels": [[3], [3]]}, None):
        torch.save({"g_ema": {"x": torch.zeros(16)}, "args": args}, scratch / "x.pt")
        with zipfile.ZipFile(scratch / "x.pt") as members:
            found.append(members.read("x/data.pkl"))
    return [*found, b"\x80\x02}.", b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."]


def _args(scratch: Path) -> list[bytes]:
    runs = {"generator": {"style_dim": 8, "n_mlp": 1, "kernels": [[0], [7]], "dilations": [1, [1]]}}
    flat = {"size": 8, "G_channel_multiplier": 2, "min_heads": 4, "qk_scale": 0.5}
    renamed = {**flat, "rename": {"style.1.weight": "style.01.weight"}}
    return [json.dumps(args).encode() for args in ({"runs": runs}, flat, renamed, {})]


def _models(scratch: Path) -> list[bytes]:
    """A model's file in either form, and a small file of one tensor."""
    save_generator(tiny_generator(), scratch / "x.safetensors")
    model = (scratch / "x.safetensors").read_bytes()
    length = struct.unpack("<Q", model[:8])[0]
    small = safetensors_bytes({"const": torch.zeros(4)}, {"stylenat_format": "1"})
    loose = b"\0" + model[8 : 8 + length] + b"\0" + model[8 + length :]
    return [b"\1" + model, loose, b"\1" + small, b"\0" + small[8:]]


EXAMPLES: dict[str, Callable[[Path], list[bytes]]] = {
    "config": _configs,
    "seeds": _seeds,
    "image": _images,
    "zip": _zips,
    "archive": lambda scratch: [packed(pickle) for pickle in _pickles(scratch)],
    "pickle": _pickles,
    "convert": _args,
    "safetensors": _models,
}
