"""Pictures that are posted to the server, and what it makes of those that are none."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from stylenat.data import draw_face
from stylenat.explorer import Gallery, projecting
from stylenat.latents import Settings
from stylenat.latents.projection import ProjectionSettings
from tests.explorer.test_server import asked, connect

pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `explore`)")

STEPS = 6


def in_a_loop(coroutine):
    """Run it in a thread of its own: Playwright's event loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def png(side: int = 32) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_face(5, side)).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A small PNG of 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def post(address: str, data: bytes, **changes: Any) -> tuple[int, str]:
    """Status and text of a request for the style of a picture."""
    response = opened(address, data, **changes)
    return response.status, response.read().decode()


def opened(address: str, data: bytes, **changes: Any) -> http.client.HTTPResponse:
    parts = urlsplit(address)
    headers = changes.pop("headers", {})
    token = changes.pop("token", parts.query)
    query = {"model": 0, "label": 0, "space": "w%2B", "steps": STEPS, **changes}
    text = "&".join(f"{key}={value}" for key, value in query.items() if value is not None)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    connection.request("POST", f"/project?{token}&{text}", data, headers)
    return connection.getresponse()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def is_running(address: str) -> None:
    with connect(address) as connection:
        assert "models" in asked(connection, kind="about")["answer"]
    status, text = post(address, png())
    assert status == 200
    assert "found" in lines(text)[-1]


def test_a_picture_is_answered_step_by_step(address):
    status, text = post(address, png())
    assert status == 200
    said = lines(text)
    assert [next(iter(line)) for line in said] == (
        ["begun"] + 32 * ["measuring"] + STEPS * ["step"] + ["found"]
    )
    steps = said[33:-1]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["step"] for line in steps if "pixels" in line] == [1, 5]
    assert set(said[-1]["found"]) == {"psnr", "distance", "sigmas", "is_far", "pixels", "ws"}


def test_images_are_made_between_the_steps(address):
    response = opened(address, png(), steps=2000)
    assert "begun" in json.loads(response.readline())
    with connect(address) as connection:
        for seed in range(5):
            connection.send(json.dumps({"id": seed, "kind": "w", "seed": seed}))
            assert struct.unpack_from("<II", connection.recv(timeout=60)) == (seed, 1)
    assert "found" not in response.readline().decode()
    response.close()
    is_running(address)


def test_a_page_that_goes_away_ends_its_search(models):
    asked = []

    class Request:
        async def is_disconnected(self) -> bool:
            asked.append(1)
            return len(asked) > 3

    settings = ProjectionSettings("w", "pixels", 2000)
    wanted = projecting.Wanted(0, 0, settings, png())

    async def said(executor: ThreadPoolExecutor) -> list[str]:
        projector = projecting.Projector(Gallery([models[0]], Settings()), executor)
        projector.newest = wanted
        return [next(iter(line)) async for line in projector._lines(wanted, Request())]

    with ThreadPoolExecutor(1) as executor:
        assert in_a_loop(said(executor)) == ["begun", "measuring", "measuring", "measuring"]


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"steps": 0}, 400, "steps must be a number from 1 to 2,000: '0'"),
        ({"steps": 2001}, 400, "steps must be a number from 1 to 2,000: '2001'"),
        ({"steps": "1" * 5000}, 400, "steps must be a number from 1 to 2,000: '111"),
        ({"steps": "%D9%A3"}, 400, "steps must be a number"),
        ({"steps": None}, 400, "steps must be a number from 1 to 2,000: ''"),
        ({"model": -1}, 400, "model must be a number"),
        ({"space": "z"}, 400, "space must be w or w+: 'z'"),
        ({"token": "token=no"}, 403, "This address lacks its token"),
        ({"headers": {"Origin": "http://evil.example"}}, 403, "Pages of other sites may not"),
        ({"headers": {"Host": "evil.example"}}, 403, "must be 127.0.0.1 or localhost"),
        (
            {"headers": {"Content-Length": "99999999999"}},
            413,
            "not have more than 20,000,000 bytes",
        ),
    ],
)
def test_a_wrong_request_is_refused_in_a_sentence(address, changes, status, sentence):
    found, text = post(address, b"" if status == 413 else png(), **changes)
    assert found == status
    assert sentence in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("data", "changes", "sentence"),
    [
        (b"", {}, "The picture is no image of a known format"),
        (b"/etc/passwd", {}, "The picture is no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, "no image of a known format"),
        (png()[:200], {}, "The picture is damaged"),
        (bomb(), {}, "The picture must not have more than 89,478,485 pixels"),
        (png(), {"model": 7}, "there are 2 models, numbered from 0: 7"),
    ],
    ids=["nothing", "path", "program", "cut short", "bomb", "no model"],
)
def test_what_is_no_picture_is_a_sentence_and_leaves_it_running(address, data, changes, sentence):
    status, text = post(address, data, **changes)
    assert status == 200
    (line,) = lines(text)
    assert sentence in line["error"]
    is_running(address)


def test_more_than_20_mb_are_refused_while_they_arrive(address):
    def endless():
        for _ in range(400):
            yield bytes(100_000)

    try:
        status, text = post(address, endless())
        assert (status, "must not have more than 20,000,000 bytes" in text) == (413, True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all was sent
    is_running(address)


def test_a_hundred_at_once_leave_it_running_and_one_is_found(address):
    answers: list[tuple[int, str]] = []

    def one(number: int) -> None:
        data = [png(), bomb(), b"no", png()[:-40], bytes(3_000_000)][number % 5]
        answers.append(post(address, data))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 100
    assert {status for status, _ in answers} <= {200, 503}
    ends = [lines(text)[-1] for status, text in answers if status == 200]
    assert all(set(end) & {"found", "error", "superseded"} for end in ends)
    assert any("superseded" in end for end in ends)
    is_running(address)


def test_the_newest_of_two_is_found(address):
    older = opened(address, png(), steps=2000)
    older.readline()
    status, text = post(address, png())
    assert status == 200
    assert "found" in lines(text)[-1]
    assert lines(older.read().decode())[-1] == {"superseded": True}


def test_pictures_that_arrive_slowly_keep_few_places(address):
    """Four uploads may be on their way; a fifth is told to try again, and all others go on."""
    parts = urlsplit(address)
    query = f"/project?{parts.query}&model=0&label=0&space=w&steps=1"
    slow = []
    for _ in range(projecting.MOST_UPLOADS):
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.putrequest("POST", query)
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b"x")
        slow.append(connection)
    for _ in range(600):
        status, text = post(address, png())
        if status == 503:
            break
        time.sleep(0.1)
    assert (status, "At most 4 pictures may arrive" in text) == (503, True)
    with connect(address) as connection:
        assert "models" in asked(connection, kind="about")["answer"]
    for connection in slow:
        connection.close()
    for _ in range(600):  # their places are free again
        status, _ = post(address, png())
        if status == 200:
            break
        time.sleep(0.1)
    assert status == 200


def test_without_efficientnet_pixels_are_compared_and_the_page_is_told(monkeypatch):
    monkeypatch.setattr(projecting, "find_spec", lambda name: None)
    wanted = projecting.Wanted.read({"model": "0", "label": "0", "steps": "5", "space": "w"})
    assert wanted.settings.loss == "pixels"
