"""Weights of the feature networks: verified, fetched once, refused in one sentence."""

import hashlib
import io
import re
import stat
from dataclasses import replace
from urllib.error import URLError

import pytest

from stylenat.metrics import weights as module
from stylenat.metrics.weights import STATE_DICT, TORCHSCRIPT, WEIGHTS, find_weights

CONTENT = b"weights" * 1000


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
    for published in (STATE_DICT, TORCHSCRIPT):
        assert published.url.startswith("https://")
        assert published.url.endswith(published.name)
        assert re.fullmatch("[0-9a-f]{64}", published.sha256)
    assert STATE_DICT.sha256.startswith("6726825d")  # as in the file's own name


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
    with pytest.raises(ValueError, match=r"TorchScript is a program.*--trust-weights") as refusal:
        find_weights("clean", own)
    assert digest in str(refusal.value)
    assert find_weights("clean", own, trust=True).sha256 == digest
    with pytest.raises(OSError, match="absent"):
        find_weights("clean", tmp_path / "absent")


def test_own_copy_of_the_published_file_is_recognised(server, tmp_path):
    own = tmp_path / "copy"
    own.write_bytes(CONTENT)
    assert find_weights("legacy_pytorch", own).is_published
