"""Of large models small images come first, and the whole image is as without them."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.neighborhood import HeadGroup
from stylenat import save_generator
from stylenat.models import Generator, GeneratorConfig, LevelConfig
from stylenat.sampling import render, render_by_level, seed_ws
from tests.explorer.conftest import start
from tests.explorer.test_server import connect, header

pytest.importorskip("starlette", reason="starlette is not installed (the extra `explore`)")
from stylenat.explorer.session import Image, Session

LOCAL = (HeadGroup(1, 3, 1),)


def in_a_loop(coroutine):
    """Run it in a thread of its own: Playwright's event loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def large_generator() -> Generator:
    """Random weights, 128x128."""
    torch.manual_seed(5)
    levels = [LevelConfig(4, 8, heads=1, attention="global", blocks=1)] + [
        LevelConfig(side, 8, heads=1, attention=LOCAL, blocks=1) for side in (8, 16, 32, 64, 128)
    ]
    G = Generator(GeneratorConfig(tuple(levels), z_dim=8, style_dim=8, mapping_layers=1))
    G.eval().requires_grad_(False).store_w_avg()
    return G


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    save_generator(large_generator(), path)
    return path


@pytest.fixture(scope="module")
def address(large, models) -> Iterator[str]:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `explore`)")
    process, address = start(large, models[0])
    yield address
    assert process.poll() is None, process.communicate()[0]
    process.terminate()
    process.wait(60)


def by_level(seed: int) -> list[Tensor]:
    G = large_generator()
    return [images[0] for images in render_by_level(G, seed_ws(G, [seed]))]


def bytes_of(pixels: Tensor) -> bytes:
    return pixels.numpy().tobytes()


def test_the_last_level_has_the_bits_of_the_whole_image():
    G = large_generator()
    ws = seed_ws(G, [0, 1])
    images = list(render_by_level(G, ws))
    assert [image.shape[1] for image in images] == [8, 16, 32, 64, 128, 128]
    assert torch.equal(images[-1], render(G, ws))
    assert not torch.equal(images[-2], images[-1])


def test_no_setting_of_the_thread_outlives_a_level():
    G = large_generator()
    levels = render_by_level(G, seed_ws(G, [0]), dtype=torch.bfloat16)
    next(levels)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    *_, last = levels
    assert torch.equal(last, render(G, seed_ws(G, [0]), dtype=torch.bfloat16))


def test_previews_from_64x64_up_come_before_the_whole_image(address):
    G = large_generator()
    expected = by_level(3)[3:]
    with connect(address) as connection:
        connection.send(header(7, 0, 0) + bytes_of(seed_ws(G, [3])))
        answers = [connection.recv(timeout=60) for _ in expected]
    kinds = [struct.unpack_from("<II", answer) for answer in answers]
    assert kinds == [(7, 4), (7, 4), (7, 2)]
    assert [answer[8:] for answer in answers] == [bytes_of(image) for image in expected]


def test_a_small_model_has_no_previews(address, generators):
    ws = seed_ws(generators[0], [0])
    with connect(address) as connection:
        connection.send(header(1, 1, 0) + bytes_of(ws))
        answer = connection.recv(timeout=60)
    assert struct.unpack_from("<II", answer) == (1, 2)
    assert answer[8:] == bytes_of(render(generators[0], ws)[0])


def test_a_newer_image_ends_an_older_one_between_levels(address):
    G = large_generator()
    with connect(address) as connection:
        for identity in range(60):
            connection.send(header(identity, 0, 0) + bytes_of(seed_ws(G, [identity])))
        connection.send(json.dumps({"id": 99, "kind": "w", "seed": 4}))
        ends: dict[int, int] = {}
        while len(ends) < 61:
            answer = connection.recv(timeout=60)
            identity, kind = struct.unpack_from("<II", answer)
            assert identity not in ends
            if kind != 4:
                ends[identity] = kind
    assert ends.pop(99) == 1
    assert ends[59] == 2
    assert set(ends.values()) == {0, 2}
    assert answer[8:] == bytes_of(by_level(59)[-1])


def test_between_levels_questions_are_answered_and_newer_images_seen():
    """Levels that are made by hand, so that all of it happens at a known moment."""
    computed = []
    sent: list[tuple[int, int]] = []

    class Socket:
        async def send_bytes(self, data: bytes) -> None:
            sent.append(struct.unpack_from("<II", data))

    class Levels:
        def pixels(self, model: int, ws: bytes) -> Iterator[tuple[bool, bytes | None]]:
            yield False, None
            session.questions.append({"id": 5, "kind": "w"})
            yield False, b"small"
            session.images[0] = newer
            yield False, b"larger"
            computed.append("the last level")
            yield True, b"whole"

        def w(self, *_: int) -> bytes:
            return b"w"

    older, newer = (Image.read(header(identity, 0, 0)) for identity in (1, 2))
    with ThreadPoolExecutor(1) as executor:
        session = Session(Socket(), Levels(), executor)
        in_a_loop(session._show(older))
        assert sent == [(1, 4), (5, 1), (1, 4), (1, 0)]
        assert computed == []


def test_wrong_ws_are_one_sentence(address):
    with connect(address) as connection:
        connection.send(header(1, 0, 0) + bytes(8))
        assert "numbers for this model: 2" in json.loads(connection.recv(timeout=60))["error"]


def test_the_page_shows_previews_and_then_the_exact_image(open_page, address):
    page = open_page(address)
    page.shows(by_level(0)[-1], within=0)
    assert page.page.evaluate("Number(document.getElementById('image0').dataset.previews)") >= 2
    for seed in range(1, 8):
        page.set("seed", seed)
    page.shows(by_level(7)[-1], within=0)
    page.page.click("#walk")
    page.until("Number(document.getElementById('fraction').value) > 0.1")
    page.page.click("#walk")
    page.set("seed", 2)
    page.set("fraction", 0)
    page.shows(by_level(2)[-1], within=0)
    with page.page.expect_download() as download:
        page.page.click("#png")
    from PIL import Image

    saved = torch.tensor(np.asarray(Image.open(download.value.path()).convert("RGB")))
    assert torch.equal(saved, by_level(2)[-1])
    assert page.page.is_hidden("#error")
