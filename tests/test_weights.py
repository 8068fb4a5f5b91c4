"""Weights of the feature networks: verified, fetched once, refused in one sentence."""

import hashlib
import io
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest

from stylenat import weights as module
from stylenat.weights import STATE_DICT, VGG16, WEIGHTS, find_weights

ROOT = Path(__file__).resolve().parents[1]
CONTENT = b"weights" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the weights in an empty cache."""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "metrics"


@pytest.fixture
def server(monkeypatch):
    """Publishes CONTENT as the weights of legacy_pytorch; counts what is fetched."""
    published = replace(STATE_DICT, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(WEIGHTS, "legacy_pytorch", published)
    requests = []

    def urlopen(request, timeout):
        requests.append(request.full_url)
        return io.BytesIO(requests_body[0])

    requests_body = [CONTENT]
    monkeypatch.setattr(module, "urlopen", urlopen)
    return requests, requests_body


def test_published_files_are_named_by_https_size_and_hash():
    for published in WEIGHTS.values():
        assert published.url.startswith("https://")
        assert published.url.endswith(published.name)
        assert re.fullmatch("[0-9a-f]{64}", published.sha256)
    assert STATE_DICT.sha256.startswith("6726825d")  # as in the file's own name
    assert VGG16.sha256.startswith("397923af")


def test_weights_are_downloaded_once_into_a_folder_of_the_user_s_own(server, cache):
    first = find_weights("legacy_pytorch")
    assert first.is_published
    assert first.path.read_bytes() == CONTENT
    assert first.path.parent == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert find_weights("legacy_pytorch") == first
    assert server[0] == [STATE_DICT.url]


@pytest.mark.parametrize("body", [CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x", b""])
def test_download_that_is_not_the_file_leaves_nothing(server, cache, body):
    server[1][0] = body
    with pytest.raises(ValueError, match="could not be downloaded"):
        find_weights("legacy_pytorch")
    assert list(cache.iterdir()) == []


def test_a_server_that_trickles_is_given_up(server, cache, monkeypatch):
    """Each byte comes in time, and the file would never be whole."""

    class Trickling(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(1)

    monkeypatch.setattr(module, "urlopen", lambda *_, **__: Trickling(CONTENT))
    monkeypatch.setattr(module, "ALL_SECONDS", 0)
    with pytest.raises(ValueError, match="took longer than 0 s"):
        find_weights("legacy_pytorch")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("mode", list(WEIGHTS))
def test_without_a_network_the_error_says_what_to_get_and_where_to_put_it(monkeypatch, cache, mode):
    def urlopen(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(module, "urlopen", urlopen)
    with pytest.raises(ValueError, match="no route to host") as refusal:
        find_weights(mode)
    published = WEIGHTS[mode]
    for part in (published.name, published.url, f"{published.size:,}", published.sha256):
        assert part in str(refusal.value)
    assert str(cache / published.name) in str(refusal.value)
    assert "--weights" in str(refusal.value)


def test_damaged_cached_file_is_refused(server, cache):
    path = find_weights("legacy_pytorch").path
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged; delete it"):
        find_weights("legacy_pytorch")


def test_own_file_is_taken_with_its_hash_but_an_unknown_program_needs_trust(tmp_path):
    own = tmp_path / "own"
    own.write_bytes(b"own")
    digest = hashlib.sha256(b"own").hexdigest()
    found = find_weights("legacy_pytorch", own)
    assert (found.path, found.sha256, found.is_published) == (own, digest, False)
    with pytest.raises(ValueError, match=r"TorchScript is a program.*--trust") as refusal:
        find_weights("clean", own)
    assert digest in str(refusal.value)
    assert find_weights("clean", own, trust=True).sha256 == digest
    with pytest.raises(OSError, match="absent"):
        find_weights("clean", tmp_path / "absent")


def test_own_copy_of_the_published_file_is_recognised(server, tmp_path):
    own = tmp_path / "copy"
    own.write_bytes(CONTENT)
    assert find_weights("legacy_pytorch", own).is_published


def test_a_trusted_program_is_named_with_its_hash(tmp_path, caplog):
    own = tmp_path / "own"
    own.write_bytes(b"own")
    find_weights("clean", own, trust=True)
    digest = hashlib.sha256(b"own").hexdigest()
    assert [record.getMessage() for record in caplog.records] == [
        f"{own} is run as a program, on trust: SHA-256 {digest}"
    ]


def test_every_folder_that_is_made_is_the_user_s_alone(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "a" / "b" / "stylenat")
    before = os.umask(0o002)
    try:
        find_weights("legacy_pytorch")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/stylenat", "a/b/stylenat/metrics"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700, folder


def test_a_download_that_breaks_off_leaves_nothing(server, cache, monkeypatch):
    class Breaking(io.BytesIO):
        def read1(self, size: int = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("connection reset by peer")
            return super().read1(10)

    monkeypatch.setattr(module, "urlopen", lambda *_, **__: Breaking(CONTENT))
    with pytest.raises(ValueError, match=r"could not be downloaded \(connection reset by peer"):
        find_weights("legacy_pytorch")
    assert list(cache.iterdir()) == []


RANKS = """
import hashlib, io, os, sys
from dataclasses import replace
from pathlib import Path
from stylenat.distributed import pick_device, process_group, rank
from stylenat import weights as module

folder, content = Path(sys.argv[1]), bytes(100_000)
published = replace(
    module.STATE_DICT, size=len(content), sha256=hashlib.sha256(content).hexdigest()
)
module.WEIGHTS["legacy_pytorch"] = published
module.cache_folder = lambda: folder / "cache"

def urlopen(request, timeout):
    (folder / f"fetched_by_{rank()}_{os.getpid()}").touch()
    return io.BytesIO(content)

module.urlopen = urlopen
with process_group(pick_device("cpu")):
    assert module.find_weights("legacy_pytorch").path.read_bytes() == content
    (folder / f"found_by_{rank()}").touch()
"""


def test_one_rank_downloads_for_all(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("fetched_by_0_*"))) == 1
    assert not list(tmp_path.glob("fetched_by_1_*"))
    assert len(list(tmp_path.glob("found_by_*"))) == 2
    assert [path.name for path in (tmp_path / "cache" / "metrics").iterdir()] == [STATE_DICT.name]
