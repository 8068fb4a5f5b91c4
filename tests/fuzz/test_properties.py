"""Properties of the readers, over inputs that are nearly right; what a fuzzer starts from is run
here too. The long search is `python -m tests.fuzz.run`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylenat.config import RunConfig, from_dict, load_config, save_config, to_dict
from stylenat.data.images import decode
from stylenat.data.readers import ZipSource
from stylenat.sampling import parse_seeds
from tests.fuzz.targets import TARGETS, Fault, Guard, Runner, convert, examples, packed, refusing
from tests.legacy.hostile import CANARY, TOUCH
from tests.training.tiny import TINY, tiny


@pytest.fixture(scope="module")
def guard() -> Guard:
    """One for all: an audit hook is never taken away."""
    return Guard()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@contextlib.contextmanager
def held(guard: Guard, place: Path) -> Iterator[None]:
    """Within the block a refusal must be a sentence, and nothing is changed outside `place`."""
    with guard.watching(place), refusing():
        yield


# What a fuzzer starts from, and a few hundred changes to it


def changed(data: bytes, generator: random.Random) -> bytes:
    """The bytes with a few of them flipped, removed, doubled or replaced."""
    spoilt = bytearray(data)
    for _ in range(generator.randrange(1, 5)):
        start = generator.randrange(len(spoilt) + 1)
        end = min(len(spoilt), start + generator.choice((0, 1, 1, 2, 4, 16)))
        noise = generator.randbytes(generator.choice((0, 1, 1, 2, 4)))
        spoilt[start:end] = generator.choice(
            (b"", noise, noise, b"\xff" * 4, spoilt[start:end] * 2)
        )
    return bytes(spoilt)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_take_their_examples_and_survive_changes_to_them(name, guard, place):
    generator = random.Random(0)
    inputs = examples(name, place)
    for data in inputs:  # unwatched: what is imported late is imported now
        with contextlib.suppress(Exception):
            TARGETS[name](data, place)
    count = 2000 if name == "seeds" else 120
    inputs += [changed(generator.choice(inputs), generator) for _ in range(count)]
    for data in inputs:
        with held(guard, place):
            TARGETS[name](data, place)


def test_at_least_one_example_of_each_target_is_no_refusal(place):
    for name, target in TARGETS.items():
        accepted = 0
        for data in examples(name, place):
            with contextlib.suppress(ValueError, OSError):
                target(data, place)
                accepted += 1
        assert accepted or name in ("convert", "safetensors"), name


# The guard itself


@pytest.mark.parametrize(
    "deed",
    [
        lambda outside: outside.joinpath("new").write_text("x"),
        lambda outside: outside.joinpath("old").unlink(),
        lambda outside: outside.joinpath("old").rename(outside / "other"),
        lambda outside: outside.joinpath("folder").mkdir(),
        lambda outside: os.open(outside / "new", os.O_CREAT | os.O_WRONLY),
        lambda outside: os.truncate(outside / "old", 0),
        lambda outside: outside.joinpath("link").symlink_to("/etc/passwd"),
        lambda outside: subprocess.run(["true"]),
        lambda outside: os.system("true"),
        lambda outside: socket.create_connection(("127.0.0.1", 9)),
    ],
)
def test_the_guard_sees(deed, guard, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").touch()
    with pytest.raises(Fault), guard.watching(inside), contextlib.suppress(OSError):
        deed(outside)
    with guard.watching(inside):
        (inside / "new").write_text("x")
        (inside / "new").read_text()
        (outside / "..").resolve()


@pytest.mark.parametrize("error", [ValueError("two\nlines"), ValueError(""), OSError("x" * 5000)])
def test_a_refusal_that_is_no_sentence_is_a_fault(error):
    with pytest.raises(Fault, match="no sentence"), refusing():
        raise error
    with refusing():
        raise ValueError("one sentence")
    with pytest.raises(KeyError), refusing():
        raise KeyError("no refusal")


# Config

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["${x}", "*a", "1e3", "0x10", "1_000", "null", ".nan", "!!float 1", "on"]),
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def keys_of(data: Any, path: tuple = ()) -> Iterator[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys_of(value, (*path, key))


KEYS = list(keys_of(to_dict(tiny())))


@given(st.sampled_from(KEYS), PLAIN)
@settings(max_examples=60)
def test_any_value_under_any_key_makes_a_config_or_a_sentence(guard, place, key, value):
    data = json.loads(json.dumps(to_dict(tiny())))
    section: Any = data
    for step in key[:-1]:
        section = section[step]
    section[key[-1]] = value
    path = place / "config.yaml"
    with held(guard, place):
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        read = load_config(path)
        # What is taken is written and read back to the same.
        save_config(read, place / "again.yaml")
        assert load_config(place / "again.yaml") == read
    with held(guard, place):
        from_dict(RunConfig, data)


@given(st.sampled_from(KEYS), st.text(max_size=20))
@settings(max_examples=60)
def test_any_override_makes_a_config_or_a_sentence(guard, place, key, text):
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key)[1:]
    path = place / "tiny.yaml"
    save_config(tiny(), path)
    for override in (f"{dotted}={text}", text):
        with held(guard, place):
            load_config(path, [override])


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@settings(max_examples=50)
def test_any_text_comes_back_from_a_config_file(place, text):
    config = from_dict(RunConfig, {**TINY, "data": {**TINY["data"], "path": text}})
    save_config(config, place / "text.yaml")
    assert load_config(place / "text.yaml") == config


# Seeds


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 50)), min_size=1, max_size=9))
@example([(2**63 - 1, 0)])
def test_seeds_that_are_written_down_are_read_back(pieces):
    pieces = [(first, min(first + more, 2**63 - 1)) for first, more in pieces]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pieces)
    assert parse_seeds(text) == [seed for a, b in pieces for seed in range(a, b + 1)]


@given(st.text(alphabet="0123456789-, ٣²+_.e\n", max_size=30))
@settings(max_examples=300)
def test_any_text_is_seeds_or_a_sentence(text):
    with refusing():
        seeds = parse_seeds(text)
        assert seeds
        assert all(0 <= seed < 2**63 for seed in seeds)


# Images


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI"]),
    st.randoms(use_true_random=False),
)
def test_every_lossless_format_gives_the_pixels_that_it_was_given(width, height, kind, generator):
    pixels_HW3 = np.frombuffer(generator.randbytes(3 * width * height), np.uint8)
    pixels_HW3 = pixels_HW3.reshape(height, width, 3)
    file = io.BytesIO()
    Image.fromarray(pixels_HW3).save(file, kind)
    assert np.array_equal(np.asarray(decode(file.getvalue())), pixels_HW3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@given(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 70)).flatmap(st.permutations),
    st.sampled_from([1, 2, 4, 8, 16, 3]),
    st.integers(0, 7),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"pHYs"]
            ),
            st.binary(max_size=40),
        ),
        max_size=3,
    ),
    st.binary(max_size=200),
)
@settings(max_examples=300)
def test_a_png_with_right_checksums_is_an_image_or_a_sentence(side, depth, colour, chunks, rows):
    """A search of bytes seldom gets past the checksums."""
    size = struct.pack(">IIBBBBB", *side, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with refusing():
        assert decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + middle + pixels).mode == "RGB"


# Zips


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).map(lambda name: name.replace("\0", "0")),
        st.binary(max_size=30),
        max_size=6,
    ),
    PLAIN,
)
@settings(max_examples=100)
def test_a_zip_of_any_names_and_index_is_a_data_set_or_a_sentence(guard, place, members, index):
    path = place / "x.zip"
    with held(guard, place):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(f"{name}.png"), content)
            archive.writestr("dataset.json", json.dumps(index))
        source = ZipSource(str(path))
        source.fingerprint()
        for number in range(len(source)):
            assert source.name(number).removesuffix(".png") in members
            with refusing():
                source.label(number)
            with refusing():
                source.read(number)


# Checkpoints


@given(st.recursive(
    st.sampled_from([b"N", b"}", b"]", b")", b"\x88", b"K\x04", b"X\x01\x00\x00\x00a", b"h\x00"]),
    lambda inner: st.lists(inner | st.sampled_from([
        b"\x85", b"\x86", b"\x87", b"R", b"b", b"s", b"u", b"a", b"e", b"(", b"0", b"q\x00", b"Q",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
        b"cargparse\nNamespace\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n", b"\x81",
    ])).map(b"".join),
    max_leaves=20,
))  # fmt: skip
@settings(max_examples=300)
def test_any_pickle_of_pytorch_s_words_is_a_checkpoint_or_a_sentence(guard, place, program):
    with held(guard, place):
        TARGETS["pickle"](b"\x80\x02" + program + b".", place)


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_a_call_is_never_made_whatever_stands_around_it(guard, place, noise):
    call = pickle.dumps(_Touch(), 2)
    before = Path.cwd()
    os.chdir(place)
    try:
        for program in (call, call[:-1] + noise + b".", noise + call, call[:2] + noise + call[2:]):
            with held(guard, place):
                TARGETS["archive"](packed(program), place)
        assert not Path(CANARY).exists()
    finally:
        os.chdir(before)


class _Touch:
    def __reduce__(self) -> Any:
        return os.system, (TOUCH,)


FIELDS = (
    "size style_dim n_mlp lr_mlp mlp_ratio qkv_bias qk_scale kernels dilations min_heads generator "
    "channel_multiplier block_type runs enable_full_resolution G_channel_multiplier rename"
)
ARGS = st.dictionaries(
    st.sampled_from(FIELDS.split()),
    st.sampled_from([[[0], [7]], [1, [1, 2]], "nat", "swin", 8, 0, -1, 2**40, 0.5, True, None])
    | PLAIN,
)


@given(ARGS, ARGS)
@settings(max_examples=200)
def test_any_args_make_a_network_or_a_sentence(guard, place, args, inner):
    data = json.dumps({**args, "runs": {"generator": inner}}).encode()
    with held(guard, place):
        convert(data, place)


# The script's own parts


def test_the_runner_reports_a_fault_and_passes_over_a_refusal(monkeypatch):
    def touchy(data: bytes, scratch: Path) -> None:
        if data == b"refuse":
            raise ValueError("refused")
        if data == b"crash":
            raise IndexError("list index out of range")

    monkeypatch.setitem(TARGETS, "seeds", touchy)
    monkeypatch.setattr("logging.disable", lambda: None)
    with tempfile.TemporaryDirectory() as scratch:
        run = Runner("seeds", Path(scratch))
        run(b"refuse")
        with pytest.raises(IndexError):
            run(b"crash")
    assert torch.is_tensor(torch.zeros(1))
