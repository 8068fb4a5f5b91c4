"""Hostile and damaged checkpoints: refused in one sentence, and nothing in them is run."""

import argparse
import contextlib
import os
import pickle
import random
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from stylenat.legacy import read_official
from stylenat.untrusted import InertNamespace, fields
from tests.legacy.hostile import CANARY, HOSTILE, TOUCH, Calls, save_nested


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_checkpoint() -> Path:
    """A checkpoint without fault, of one tensor."""
    path = Path("official.pt")
    weights = {"x": torch.arange(100.0)}
    torch.save({"state_dicts": {"g_ema": weights}, "args": {"size": 16}}, path)
    return path


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["args", "namespace", "tensor", "beside"])
def test_file_that_names_a_function_is_refused_by_that_name(name, place, empty_folder):
    save_nested()
    weights, args, beside = {"x": torch.zeros(2)}, {"size": 16}, None
    if place == "args":
        args["size"] = HOSTILE[name]
    elif place == "namespace":
        args = argparse.Namespace(inner=argparse.Namespace(x=[HOSTILE[name]]))
    elif place == "tensor":
        weights["y"] = HOSTILE[name]
    else:
        beside = HOSTILE[name]
    torch.save({"state_dicts": {"g_ema": weights}, "args": args, "eval_info": beside}, "hostile.pt")
    with pytest.raises(
        ValueError, match=rf"hostile\.pt is refused: loading it would call .*{name}"
    ):
        read_official("hostile.pt")
    assert not Path(CANARY).exists()


def test_hostile_pickles_really_are_hostile(empty_folder):
    """Else the tests above would show nothing."""
    torch.save(HOSTILE["posix.system"], "hostile.pt")
    torch.load("hostile.pt", weights_only=False)
    assert Path(CANARY).exists()


def test_namespace_is_read_as_a_thing_that_runs_nothing(empty_folder):
    args = argparse.Namespace(size=16, inner=argparse.Namespace(kernels=[[7]]))
    torch.save({"g": {"x": torch.zeros(1)}, "args": args}, "official.pt")
    checkpoint = read_official("official.pt")
    assert checkpoint.args["size"] == 16
    inner = checkpoint.args["inner"]
    assert type(inner) is InertNamespace
    assert fields(inner) == {"kernels": [[7]]}


def test_environment_does_not_open_the_door(empty_folder, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"g_ema": {"x": Calls(os.system, TOUCH)}}, "hostile.pt")
    with pytest.raises(ValueError, match="is refused"):
        read_official("hostile.pt")
    assert not Path(CANARY).exists()


def forge(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    path = Path("hostile.pt")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize(
    ("pickled", "sentence"),
    [
        (b"\x80\x02cos\nsystem\n(X\x0c\x00\x00\x00touch canaryRtR.", "would call os.system"),
        (pickle.dumps(HOSTILE["posix.system"], 4), "cannot be read as a checkpoint: "),
        (pickle.dumps(HOSTILE["posix.system"], 0), "cannot be read|would call"),
        (b"(S'touch canary'\nios\nsystem\n.", "cannot be read as a checkpoint"),
        (b"", "cannot be read as a checkpoint: EOFError"),
        (b"\x80\x02", "cannot be read as a checkpoint: EOFError"),
        (b"\x80\x02\x85.", "cannot be read as a checkpoint: "),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "cannot be read as a checkpoint: "),
        (b"no pickle at all", "cannot be read as a checkpoint: "),
        (b"\x80\x02].", "is no StyleNAT or StyleSwin checkpoint"),
        (b"\x80\x02}.", "is no StyleNAT or StyleSwin checkpoint"),
        (b"\x80\x02]q\x00(h\x00e.", "is no StyleNAT or StyleSwin checkpoint"),
        (
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x40\x85R.",
            "cannot be read as a checkpoint: MemoryError",
        ),
    ],
)
def test_crafted_pickle_is_refused(pickled, sentence, empty_folder):
    with pytest.raises(ValueError, match=sentence) as error:
        read_official(forge(pickled))
    assert "\n" not in str(error.value)
    assert not Path(CANARY).exists()


def claim(numel: int) -> bytes:
    """A checkpoint's pickle whose tensor of 4 numbers claims to have `numel`."""
    torch.save({"g_ema": {"x": torch.zeros(4)}}, "honest.pt")
    with zipfile.ZipFile("honest.pt") as archive:
        honest = archive.read("honest/data.pkl")
    claimed = b"\x8a\x08" + numel.to_bytes(8, "little", signed=True)
    return honest.replace(b"K\x04t", claimed + b"t").replace(b"K\x04\x85", claimed + b"\x85")


@pytest.mark.parametrize("numel", [10_000, 10**9, 10**15, -4])
def test_tensor_that_claims_more_than_the_file_holds_is_refused(numel, empty_folder):
    members = {"data/0": bytes(16), "byteorder": b"little"}
    read_official(forge(claim(4), **members))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_official(forge(claim(numel), **members))


def test_compressed_archive_is_refused_before_it_is_unpacked(empty_folder):
    bomb = forge(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED, padding=bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ValueError, match="stores its data neither compressed nor encrypted"):
        read_official(bomb)


def test_member_that_claims_more_than_the_file_is_refused(empty_folder):
    path = forge(b"\x80\x02}.", padding=b"four")
    data = path.read_bytes()
    entry = data.rindex(b"PK\x01\x02")
    size = slice(entry + 20, entry + 28)  # compressed and uncompressed size in the directory
    assert data[size] == (4).to_bytes(4, "little") * 2
    path.write_bytes(data[: size.start] + (10**9).to_bytes(4, "little") * 2 + data[size.stop :])
    with pytest.raises(ValueError, match=r"claim 1,000,000,00\d bytes in a file of \d+"):
        read_official(path)


def test_two_members_of_one_name_are_refused(empty_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = forge(b"\x80\x02}.", **{"data.pkl": b"\x80\x02]."})
    with pytest.raises(ValueError, match="two members of the archive have one name"):
        read_official(path)


def test_other_archives_are_refused(empty_folder):
    with pytest.raises(ValueError, match="is a TorchScript program"):
        read_official(forge(b"\x80\x02}.", **{"constants.pkl": b""}))
    with zipfile.ZipFile("plain.zip", "w") as archive:
        archive.writestr("notes/readme.txt", "hello")
    with pytest.raises(ValueError, match=r"it has no data\.pkl"):
        read_official("plain.zip")
    with tarfile.open("plain.tar", "w") as archive:
        archive.add("plain.zip")
    with pytest.raises(ValueError, match="not a PyTorch checkpoint in zip format"):
        read_official("plain.tar")


def test_formats_from_before_the_zip_are_refused_unrun(empty_folder):
    hostile = {"g_ema": HOSTILE["posix.system"]}
    torch.save(hostile, "old.pt", _use_new_zipfile_serialization=False)
    Path("plain.pkl").write_bytes(pickle.dumps(hostile))
    for path in ("old.pt", "plain.pkl"):
        with pytest.raises(ValueError, match=f"{path} is not a PyTorch checkpoint in zip format"):
            read_official(path)
    assert not Path(CANARY).exists()


def test_nothing_a_folder_and_an_empty_file_are_refused(empty_folder):
    with pytest.raises(FileNotFoundError):
        read_official("absent.pt")
    with pytest.raises(IsADirectoryError):
        read_official(".")
    Path("empty.pt").touch()
    with pytest.raises(ValueError, match=r"empty\.pt is empty"):
        read_official("empty.pt")


def test_truncated_file_is_refused_wherever_it_ends(empty_folder):
    data = save_checkpoint().read_bytes()
    for end in [*range(0, len(data), 61), len(data) - 1]:
        Path("cut.pt").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut\.pt (is|cannot)"):
            read_official("cut.pt")


def test_flipped_bit_is_refused_or_without_consequence(empty_folder):
    path = save_checkpoint()
    data, generator = path.read_bytes(), random.Random(0)
    for position in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.randrange(8)
        Path("flipped.pt").write_bytes(flipped)
        with contextlib.suppress(ValueError):
            checkpoint = read_official("flipped.pt")
            # The bit was in the padding, a date, a mode.
            assert torch.equal(checkpoint.state_dicts["g_ema"]["x"], torch.arange(100.0)), position
            assert checkpoint.args == {"size": 16}, position


def test_flipped_bit_in_the_data_is_refused_by_its_checksum(empty_folder):
    data = save_checkpoint().read_bytes()
    position = data.index(torch.tensor(50.0).numpy().tobytes())
    Path("flipped.pt").write_bytes(data[:position] + b"\x01" + data[position + 1 :])
    with pytest.raises(ValueError, match=r"flipped\.pt is damaged: .*/data/0 fails its checksum"):
        read_official("flipped.pt")
