"""Files from elsewhere, through every command that takes one: nothing in them is run, nothing is
written beside what was asked for, and a refusal is one sentence that names the file."""

from __future__ import annotations

import ast
import hashlib
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from stylenat.cli import main
from stylenat.config import save_config
from stylenat.data import open_images
from stylenat.export import save_generator
from stylenat.training.checkpoint import load_checkpoint
from tests.data.writers import encoded, pixels, png, write_zip
from tests.legacy.hostile import CANARY, HOSTILE, hostile_checkpoint, save_nested
from tests.sampling.tiny import tiny_generator
from tests.training.tiny import tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty; the user's cache lies in another."""
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    # It would switch the allocator of the tests' own process.
    monkeypatch.setattr("stylenat.memory.keep_freed_memory", lambda: False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def stylenat(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(result: Result) -> str:
    """The one sentence of a command that refused a file."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    return last.removeprefix("Error: ")


# Every command that takes a model, or the weights of a network


def convert(path: Path) -> Result:
    return stylenat("convert", path, "out.safetensors")


def sample(path: Path) -> Result:
    return stylenat("sample", path, "--seeds", "0", "--outdir", "out", "--device", "cpu")


def fid(path: Path) -> Result:
    return stylenat("fid", path, "--data", "faces:4", "--metrics", "swd", "--device", "cpu")


def fid_weights(path: Path) -> Result:
    save_generator(tiny_generator(), "whole.safetensors")
    options = ("--mode", "legacy_pytorch", "--num", 2, "--device", "cpu")
    return stylenat("fid", "whole.safetensors", "--data", "faces:4", "--weights", path, *options)


MODEL_COMMANDS: dict[str, Callable[[Path], Result]] = {
    "convert": convert,
    "sample": sample,
    "fid": fid,
    "fid --weights": fid_weights,
}


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_checkpoint_that_would_run_something_is_refused_by_its_name(name, command, folder):
    save_nested()
    path = Path("hostile.pt")
    path.write_bytes(hostile_checkpoint(name))
    sentence = refusal(MODEL_COMMANDS[command](path))
    assert "hostile.pt" in sentence
    assert "is refused: loading it would call" in sentence
    assert name in sentence
    assert not Path(CANARY).exists()
    assert not Path("out").exists()
    assert not Path("out.safetensors").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    place = tmp_path_factory.mktemp("trained")
    save_config(tiny(train={"total_kimg": 0.008}), place / "tiny.yaml")
    done = stylenat("train", place / "tiny.yaml", "--run-dir", place / "run", "--device", "cpu")
    assert done.exit_code == 0, done.output
    return place


@pytest.mark.parametrize("name", HOSTILE)
def test_a_run_does_not_continue_from_a_hostile_checkpoint(name, trained):
    """Its digest beside it is right: whoever forges the one forges the other."""
    save_nested()
    (path,) = (trained / "run" / "checkpoints").glob("*.pt")
    digest = path.with_name(f"{path.name}.sha256")
    before = path.read_bytes(), digest.read_text()
    content = hostile_checkpoint(name)
    path.write_bytes(content)
    digest.write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    try:
        options = ("--run-dir", trained / "run", "--device", "cpu")
        sentence = refusal(stylenat("train", trained / "tiny.yaml", *options))
        assert f"{path} is refused: loading it would call" in sentence
        assert name in sentence
        assert not Path(CANARY).exists()
    finally:
        path.write_bytes(before[0])
        digest.write_text(before[1])


def deflate_bomb(path: Path) -> Path:
    """200 MB of zeros in a checkpoint of 200 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        with archive.open("x/data/0", "w") as member:
            for _ in range(200):
                member.write(bytes(1_000_000))
    return path


@pytest.fixture
def bomb(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a checkpoint, and an error if anything is unpacked."""
    path = deflate_bomb(Path("bomb.pt"))
    assert path.stat().st_size < 250_000

    def unpacked(*_: object) -> None:
        raise AssertionError("something was unpacked")

    monkeypatch.setattr(zlib, "decompressobj", unpacked)
    monkeypatch.setattr(torch, "load", unpacked)
    return path


BOMB = "bomb.pt is refused: PyTorch stores its data neither compressed nor"


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_a_deflate_bomb_is_refused_before_it_is_unpacked(command, bomb):
    assert BOMB in refusal(MODEL_COMMANDS[command](bomb))


def test_a_run_does_not_continue_from_a_deflate_bomb(bomb):
    with pytest.raises(ValueError, match=rf"^{BOMB}"):
        load_checkpoint(bomb)


# Bombs in the zip of a data set


def data_zip(compression: int, **members: bytes) -> Path:
    path = Path("data.zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("!.png", png(0))
        for name, content in members.items():
            archive.writestr(f"{name}.bmp", content)
    return path


def claim_size(path: Path, size: int) -> None:
    """The last member's size in the zip's directory becomes another one."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)


def peak_of_reading(path: Path, sentence: str) -> int:
    """The most bytes that Python held while the last image was refused."""
    source = open_images(str(path))
    source.read(0)
    tracemalloc.start()
    with pytest.raises(ValueError, match=sentence) as error:
        source.read(1)
    assert "\n" not in str(error.value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_member_that_claims_more_than_any_image_is_not_unpacked():
    path = data_zip(zipfile.ZIP_DEFLATED, x=bytes(1_000_000))
    claim_size(path, 4_000_000_000)
    sentence = r"x\.bmp must not have more than 715,827,880 bytes: 4,000,000,000$"
    assert peak_of_reading(path, sentence) < 1_000_000


def test_a_member_that_claims_too_little_is_unpacked_no_further():
    path = data_zip(zipfile.ZIP_DEFLATED, x=bytes(100_000_000))
    claim_size(path, 1000)
    assert peak_of_reading(path, r"x\.bmp is damaged within the zip: ") < 1_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_output_has_no_bound_are_refused(method):
    path = data_zip(method, x=bytes(1_000_000))
    with pytest.raises(ValueError, match=r"!\.png is compressed by another method than deflate"):
        open_images(str(path))


# safetensors


def header(entries: object, *, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: tuple[int, ...] = (16,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


ONE = json.dumps(tensor(0, 64)).encode()
LYING = {
    "length beyond the file": header({"a": tensor(0, 64)}, length=10**6),
    "length of an exabyte": header({"a": tensor(0, 64)}, length=2**60),
    "length that overflows": header({"a": tensor(0, 64)}, length=2**64 - 1),
    "length of nothing": header({"a": tensor(0, 64)}, length=0),
    "length too short": header({"a": tensor(0, 64)}, length=5),
    "only a length": struct.pack("<Q", 8),
    "tensor beyond the file": header({"a": tensor(0, 10**9, (250_000_000,))}),
    "tensor of an exabyte": header({"a": tensor(0, 2**60, (2**58,))}),
    "shape that overflows": header({"a": tensor(0, 64, (2**33, 2**33))}),
    "shape below zero": header({"a": tensor(0, 64, (-16,))}),
    "overlapping tensors": header({"a": tensor(0, 64), "b": tensor(0, 64)}),
    "tensors one within the other": header({"a": tensor(0, 64), "b": tensor(32, 64, (8,))}),
    "a hole between tensors": header({"a": tensor(0, 16, (4,)), "b": tensor(32, 64, (8,))}),
    "offsets backwards": header({"a": tensor(64, 0)}),
    "data left over": header({"a": tensor(0, 32, (8,))}),
    "float64 as large as float32": header({"a": tensor(0, 64, (16,), "F64")}),
    "shape larger than its data": header({"a": tensor(0, 64, (17,))}),
    "unknown dtype": header({"a": tensor(0, 64, (16,), "F31")}),
    "no JSON": header(b"{" + b"x" * 50),
    "no UTF-8": header(b'{"\xff\xfe": 1}'),
    "a list": header([tensor(0, 64)]),
    "a million brackets": header(b'{"a":' + b"[" * 10**6),
    "metadata that are no text": header({"__metadata__": {"config": 1}, "a": tensor(0, 64)}),
    "one name twice": header(b'{"a":' + ONE + b',"a":' + ONE + b"}"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LYING)
def test_a_safetensors_file_with_a_lying_header_is_refused(lie):
    path = Path("lying.safetensors")
    path.write_bytes(LYING[lie])
    for command in (sample, fid):
        assert refusal(command(path)).startswith("lying.safetensors")
    assert not Path("out").exists()


def test_a_safetensors_file_with_a_huge_header_is_refused_at_once():
    """Ninety megabytes of names, and a hole of as many."""
    path = Path("huge.safetensors")
    names = ",".join(f'"{i:06d}":{json.dumps(tensor(0, 0, (0,)))}' for i in range(100_000))
    for text in (b"{" + names.encode() + b"}", b"{" + b" " * 90_000_000 + b"}"):
        path.write_bytes(header(text, data=b""))
        start = time.perf_counter()
        assert refusal(sample(path)).startswith("huge.safetensors")
        assert time.perf_counter() - start < 120  # seconds: far from what it takes, for a hang
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * 10**9) + b"{")
        file.truncate(2 * 10**9 + 8)
    assert "huge.safetensors is damaged, or no safetensors" in refusal(sample(path))


def test_a_safetensors_file_of_another_model_is_refused():
    save_file({"weight": torch.zeros(3)}, "foreign.safetensors")
    assert "not a StyleNAT model" in refusal(sample(Path("foreign.safetensors")))


# Zips whose members would like to lie elsewhere

ELSEWHERE = (
    "../outside.png",
    "../../outside.png",
    "a/../../outside.png",
    "FOLDER/outside.png",  # absolute
    "C:/outside.png",
    "..\\outside.png",
    "C:\\outside.png",
    "//server/share/outside.png",
    "ok.png",
)


def write_elsewhere(path: Path) -> None:
    """Members with such names, absolute ones among them, and two links out of the zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, name in enumerate(ELSEWHERE):
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("FOLDER", str(path.parent))
            archive.writestr(info, png(index))
        for name, target in (("link.png", "/etc/passwd"), ("up.png", "../../outside.png")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)


def files_below(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def test_members_that_point_elsewhere_are_read_in_place_and_nothing_is_written(folder):
    write_elsewhere(Path.cwd() / "odd.zip")
    before = files_below(folder.parent)
    source = open_images("odd.zip")
    hidden = sum(name.startswith(("..", "a/..")) for name in ELSEWHERE)
    assert len(source) == len(ELSEWHERE) - hidden + 2
    images = {source.name(index): index for index in range(len(source))}
    assert source.read(images["ok.png"]).tobytes() == pixels(len(ELSEWHERE) - 1).tobytes()
    for link in ("link.png", "up.png"):
        with pytest.raises(ValueError, match=rf"odd\.zip: {link} is no image"):
            source.read(images[link])
    assert files_below(folder.parent) == before
    options = ("--resolution", 8, "--workers", 0, "--max-bad", 2)
    done = stylenat("prepare", "odd.zip", "made.zip", *options)
    assert done.exit_code == 0, done.output
    assert files_below(folder.parent) == before | {"here/made.zip"}
    with zipfile.ZipFile("made.zip") as made:
        images = [name for name in made.namelist() if name != "dataset.json"]
        assert images == [f"00000/img{i:08d}.png" for i in range(len(source) - 2)]


def test_labels_for_names_elsewhere_are_only_labels(folder):
    path = write_zip(Path("x.zip"), {"a.png": png(0)}, [["../../etc/passwd", 1], ["a.png", 2]])
    before = files_below(folder.parent)
    assert open_images(path).label(0) == 2
    assert stylenat("prepare", path, "y.zip", "--resolution", 8, "--workers", 0).exit_code == 0
    assert files_below(folder.parent) == before | {"here/y.zip"}


def test_an_image_that_pillow_would_hand_to_another_program_is_refused():
    """PostScript, which Pillow gives to Ghostscript, under the name of a PNG."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(canary) (w) file\n"
    path = write_zip(Path("x.zip"), {"!.png": png(0), "x.png": script})
    with pytest.raises(ValueError, match=r"x\.png is no image of a known format"):
        open_images(path).read(1)
    assert encoded(pixels(0)) == png(0)


# The source itself

LOADERS = ("weights_only", "allow_pickle", "trust_remote_code")
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.loads", "dill.load", "joblib.load",
    "shelve.open", "marshal.loads", "eval", "exec", "compile", "__import__", "os.system",
    "os.popen",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all",
    "yaml.unsafe_load_all", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "zipfile.ZipFile.extract", "tempfile.mktemp",
}  # fmt: skip
METHODS = {"extractall", "Unpickler"}
# One place: the feature networks that are TorchScript, after their hash was looked at.
PROGRAMS = {"torch.jit.load": "stylenat/weights.py"}


def dotted(node: ast.expr) -> str:
    """`torch.jit.load` of a name or an attribute; what is no such thing becomes `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a module stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dangers(path: str, source: str) -> Iterator[str]:
    """Sentences about what in a source could run what a file holds."""
    tree = ast.parse(source)
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = dotted(node)
            first, dot, rest = name.partition(".")
            name = names.get(first, first) + dot + rest
            if name in FORBIDDEN or name.rpartition(".")[2] in METHODS:
                yield f"{path}, line {node.lineno}: {name}"
            if name in PROGRAMS and path != PROGRAMS[name]:
                yield f"{path}, line {node.lineno}: {name}"
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            first, dot, rest = name.partition(".")
            name = names.get(first, first) + dot + rest
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            for keyword in LOADERS:
                value = given.get(keyword)
                wanted = keyword == "weights_only"
                if value is not None and getattr(value, "value", None) is not wanted:
                    yield f"{path}, line {node.lineno}: {keyword} is not {wanted}"
            if name == "torch.load" and "weights_only" not in given:
                yield f"{path}, line {node.lineno}: torch.load without weights_only=True"
            if name in ("np.load", "numpy.load") and "allow_pickle" not in given:
                yield f"{path}, line {node.lineno}: numpy.load without allow_pickle=False"


SOURCES = [path for name in ("stylenat", "ops") for path in sorted((ROOT / name).rglob("*.py"))]


def test_nothing_in_the_source_could_run_what_a_file_holds():
    assert len(SOURCES) > 80
    found = [
        sentence
        for path in SOURCES
        for sentence in dangers(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=choice)",
        "from torch import load\nload(path)",
        "import torch as t\nt.load(path)",
        "read = functools.partial(torch.load, weights_only=False)",
        "import pickle\npickle.loads(data)",
        "from pickle import loads as read\nread(data)",
        "import pickle as p\nread = p.load",
        "class Mine(pickle.Unpickler): pass",
        "import numpy as np\nnp.load(path)",
        "np.load(path, allow_pickle=True)",
        "from torch import hub\nhub.load('a/b', 'c')",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, yaml.SafeLoader)",
        "torch.jit.load(path)",
        "from torch.jit import load\nload(path)",
        "archive.extractall(folder)",
    ],
)
def test_the_search_of_the_source_finds(source):
    assert list(dangers("stylenat/x.py", source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "model.eval()",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "json.loads(text)",
        "re.compile(pattern)",
        "torch.compile(model)",
        "class Config:\n    compile: bool = False",
    ],
)
def test_the_search_of_the_source_passes_over(source):
    assert not list(dangers("stylenat/x.py", source))
