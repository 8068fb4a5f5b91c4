"""`hf:user/name[@revision]` is a model wherever one is taken."""

from __future__ import annotations

import json
import logging
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed (the extra `hub`)")

import stylenat
from stylenat.files import sha256_of
from stylenat.hub import HubModel, name_of, parse_name, pull
from stylenat.sampling import is_model, latents, load_model, model_file
from tests.hub.conftest import environment, exported
from tests.sampling.tiny import tiny_generator

ROOT = Path(__file__).resolve().parents[2]


def image(generator) -> torch.Tensor:
    with torch.no_grad():
        return generator(latents([3], generator.z_dim))


@pytest.fixture
def faces(hub, tmp_path):
    """A repository with two commits; a tag names the first one."""
    first, second = (exported(tmp_path, seed).read_bytes() for seed in (0, 1))
    faces = hub.add("ann/faces", {"model.safetensors": first})
    faces.names["v1.0"] = faces.names["main"]
    faces.commit({"model.safetensors": second})
    return faces


# Which one


@pytest.mark.parametrize(("revision", "seed"), [("", 1), ("@main", 1), ("@v1.0", 0)])
def test_the_revision_decides_and_main_is_the_default(revision, seed, faces):
    generator = stylenat.load_generator(f"hf:ann/faces{revision}")
    assert torch.equal(image(generator), image(tiny_generator(seed)))


def test_a_commit_is_a_revision(faces):
    for commit, seed in zip(faces.commits, (0, 1), strict=True):
        generator = load_model(f"hf:ann/faces@{commit}")
        assert torch.equal(image(generator), image(tiny_generator(seed)))


def test_the_cache_is_asked_first_for_a_commit_and_nothing_is_fetched_twice(faces, hub):
    pull("hf:ann/faces")
    assert len(hub.paths("GET")) == 1
    pull("hf:ann/faces")
    assert len(hub.paths("GET")) == 1
    asked = len(hub.calls)
    pull(f"hf:ann/faces@{faces.names['main']}")
    assert len(hub.calls) == asked


def test_a_branch_that_moved_is_fetched_anew(faces, hub, tmp_path):
    before = pull("hf:ann/faces")
    faces.commit({"model.safetensors": exported(tmp_path, 2).read_bytes()})
    after = pull("hf:ann/faces")
    assert sha256_of(before) != sha256_of(after)
    assert len(hub.paths("GET")) == 2


def test_outputs_name_the_repository_and_the_commit(faces):
    commit = faces.names["main"]
    assert name_of(model_file("hf:ann/faces")) == f"hf:ann/faces@{commit}"
    assert name_of(Path("faces/snapshots/model.safetensors")) is None
    assert is_model("hf:ann/faces")


def test_files_beside_the_model_are_of_its_commit_and_may_be_absent(hub, file):
    files = {"model.safetensors": file.read_bytes(), "config.json": b"{}"}
    hub.add("ann/faces", files)
    found = pull("hf:ann/faces", beside=("config.json", "absent.json"))
    assert sorted(path.name for path in found.parent.iterdir()) == sorted(files)
    asked = [path for path in hub.paths("HEAD") if path.endswith(".json")]
    assert all(f"/resolve/{found.parent.name}/" in path for path in asked)  # main may have moved


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:ann/faces", HubModel("ann/faces")),
        ("hf:a_b/f.1-x@refs/pr/3", HubModel("a_b/f.1-x", "refs/pr/3")),
        ("hf:ann/faces@v1.0+cpu", HubModel("ann/faces", "v1.0+cpu")),
    ],
)
def test_a_name_is_taken_apart(text, expected):
    assert parse_name(text) == expected
    assert str(expected) == text


BAD_NAMES = [
    "hf:", "hf:faces", "hf:ann/", "hf:/faces", "hf:ann//faces", "hf:ann/faces/model.safetensors",
    "hf:../faces", "hf:ann/..", "hf:ann/./faces", "hf:a..b/faces", "hf:ann/fa--ces", "hf:ann/f.git",
    "hf:-ann/faces", "hf:ann/faces ", "hf:ann/f\naces", "hf:ann/fäces", "hf:ann\\faces",
    "hf:ann/f%2e", f"hf:ann/{'f' * 100}", "hf:ann/faces?x=1", "hf:ann/faces#1", "hf:http://ann/faces",
]  # fmt: skip
BAD_REVISIONS = [
    "",
    "../main",
    "a..b",
    "a/../b",
    "a//b",
    "/main",
    "main/",
    ".hidden",
    "x.lock",
    "a b",
    "x" * 201,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_malformed_name_is_one_sentence_and_no_question(name, hub, run, tmp_path):
    with pytest.raises(ValueError, match="must be named USER/NAME, made of letters") as refusal:
        stylenat.load_generator(name)
    assert "\n" not in str(refusal.value)
    result = run("sample", name, "--seeds=0", "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    assert "a file of this name must be given as ./hf:..." in result.stderr
    assert hub.calls == []


@pytest.mark.parametrize("revision", BAD_REVISIONS)
def test_a_malformed_revision_is_refused(revision, hub):
    with pytest.raises(ValueError, match="after @ there must be a branch, a tag or a commit"):
        pull(f"hf:ann/faces@{revision}")
    assert hub.calls == []


def test_a_file_of_such_a_name_is_given_with_a_folder(hub, file, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:own").mkdir()
    file.rename(tmp_path / "hf:own" / "model.safetensors")
    own = "./hf:own/model.safetensors"
    assert torch.equal(image(stylenat.load_generator(own)), image(tiny_generator()))
    result = run("sample", own, "--seeds=0", "--outdir=out")
    assert result.exit_code == 0, result.output
    assert hub.calls == []


# What goes wrong


def refusal_of(name: str) -> str:
    with pytest.raises(ValueError, match=":") as refusal:
        pull(name)
    (line,) = str(refusal.value).splitlines()
    return line


def test_no_repository_or_no_login_says_both(hub):
    assert refusal_of("hf:ann/none") == (
        f"hf:ann/none: there is no {hub.endpoint}/ann/none, or it is private: check the name, or "
        "log in with `hf auth login`"
    )


def test_a_private_repository_opens_with_its_owner_s_login_alone(hub, file, log_in):
    hub.add("ann/secret", {"model.safetensors": file.read_bytes()}, private=True)
    assert "or it is private" in refusal_of("hf:ann/secret")
    log_in("hf_ben")
    assert "or your login may not read it: check the name" in refusal_of("hf:ann/secret")
    log_in("hf_wrong")
    assert "your login is not accepted; log in with `hf auth login` again" in refusal_of(
        "hf:ann/secret"
    )
    log_in("hf_ann")
    assert pull("hf:ann/secret").read_bytes() == file.read_bytes()


def test_a_gated_repository_says_where_to_ask(hub, file):
    hub.add("ann/gated", {"model.safetensors": file.read_bytes()}, gated=True)
    assert f"those alone who ask: ask at {hub.endpoint}/ann/gated" in refusal_of("hf:ann/gated")


def test_an_unknown_revision_is_named(faces):
    assert "has no branch, tag or commit of that name" in refusal_of("hf:ann/faces@v2.0")
    assert "has no branch, tag or commit" in refusal_of(f"hf:ann/faces@{'0' * 40}")


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "model.pkl"])
def test_a_repository_without_safetensors_is_refused(name, hub):
    hub.add("ann/old", {name: b"\x80\x04."})
    said = refusal_of("hf:ann/old")
    assert "has no model.safetensors, and nothing else is read from the Hub" in said
    assert hub.paths("GET") == []


def header(**metadata: str) -> bytes:
    text = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04 a zip of PyTorch", "its model.safetensors is no safetensors file"),
        (b"\x80\x04\x95 a pickle", "its model.safetensors is no safetensors file"),
        (b"", "its model.safetensors is no safetensors file"),
        (struct.pack("<Q", 2**62) + b"{}", "is damaged, or no safetensors file"),
        (header(), "not a StyleNAT model: the metadata has no stylenat_format"),
        (header(stylenat_format="1", kind="discriminator"), "holds a discriminator"),
        (
            header(stylenat_format="1", kind="generator", config="[" * 9999),
            "config in its metadata is not JSON",
        ),
    ],
)
def test_a_hostile_file_is_one_sentence_that_names_the_model(content, sentence, hub, run, tmp_path):
    hub.add("ann/bad", {"model.safetensors": content})
    result = run("sample", "hf:ann/bad", "--seeds=0", "--outdir", tmp_path / "out")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: hf:ann/bad")
    assert sentence in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_while_the_hub_is_down_the_cache_s_copy_is_used_and_said(status, faces, hub, caplog):
    hub.status = status
    assert refusal_of("hf:ann/faces") == (
        f"hf:ann/faces is not in the cache, and {hub.endpoint} answers {status} (the Hub is being "
        "mended): try again when the Hub can be reached"
    )
    hub.status = None
    file = pull("hf:ann/faces")
    hub.status = status
    with caplog.at_level(logging.WARNING, "stylenat.hub"):
        assert pull("hf:ann/faces") == file
    (said,) = (record.getMessage() for record in caplog.records if "cache" in record.getMessage())
    assert said.endswith(f"the copy in the cache is used, {name_of(file)}")


def test_without_a_connection_too(faces, hub, monkeypatch, caplog):
    file = pull("hf:ann/faces")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.endpoint, nowhere)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert pull("hf:ann/faces") == file
        assert "can't be reached" in caplog.text
        assert f"is not in the cache, and {nowhere} can't be reached" in refusal_of("hf:ann/more")


def test_offline_is_said_and_the_cache_s_copy_needs_no_question(faces, hub, monkeypatch):
    from huggingface_hub import constants

    file = pull("hf:ann/faces")
    asked = len(hub.calls)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("hf:ann/faces") == file
    assert "is not in the cache, and HF_HUB_OFFLINE is set" in refusal_of("hf:ann/more")
    assert len(hub.calls) == asked


def test_a_model_that_was_withdrawn_is_not_taken_from_the_cache(faces, hub):
    pull("hf:ann/faces")
    del hub.repositories["ann/faces"]
    assert "there is no" in refusal_of("hf:ann/faces")


def test_without_the_package_a_sentence_names_the_extra(hub, monkeypatch):
    monkeypatch.setattr("stylenat.extras.find_spec", lambda name: None)
    sentence = r"hf:ann/faces needs huggingface-hub, .*: pip install 'stylenat\[hub\]'"
    with pytest.raises(ValueError, match=sentence):
        stylenat.load_generator("hf:ann/faces")


# In another process, by the variables that users know


@pytest.mark.slow
def test_the_command_follows_hf_endpoint_and_hf_home(faces, hub, tmp_path):
    line = [sys.executable, "-m", "stylenat", "sample", "hf:ann/faces", "--seeds=0", "--outdir=out"]
    variables = environment(hub, tmp_path / "hf") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    commit = faces.names["main"]
    assert done.stdout.startswith(f"1 images of hf:ann/faces@{commit} in out, contact sheet")
    assert (tmp_path / "hf" / "hub" / "models--ann--faces" / "snapshots" / commit).is_dir()
