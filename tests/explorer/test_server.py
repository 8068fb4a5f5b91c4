"""The explorer's server, without a browser: who may talk to it, and what it makes of nonsense."""

from __future__ import annotations

import json
import random
import socket
import struct
from urllib.parse import urlsplit

import numpy as np
import pytest

from stylenat.explorer import guard
from stylenat.latents.attention_maps import attention_weights
from stylenat.sampling import render, seed_ws

pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `explore`)")
client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402


def http(address: str, path: str, *headers: str) -> tuple[int, str]:
    """Status and text of a request with exactly these headers."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer.decode()


def connect(address: str, *, origin: str | None = None, host: str | None = None):
    parts = urlsplit(address)
    own = f"http://127.0.0.1:{parts.port}"
    headers = {} if host is None else {"Host": host}
    return client.connect(
        f"ws://127.0.0.1:{parts.port}/socket?{parts.query}",
        origin=own if origin is None else origin or None,
        additional_headers=headers,
        compression=None,
    )


def asked(connection, **question) -> dict:
    connection.send(json.dumps({"id": 1, **question}))
    return json.loads(connection.recv(timeout=60))


def header(
    identity: int, model: int, pane: int, place: int = 0, y: float = 0, x: float = 0
) -> bytes:
    return struct.pack("<IIIIff", identity, model, pane, place, y, x)


def host(address: str) -> str:
    return f"Host: {urlsplit(address).netloc}"


# Who may talk to it


def test_the_page_needs_host_and_token_and_is_served_with_its_policy(address):
    path = "/?" + urlsplit(address).query
    status, text = http(address, path, host(address))
    assert status == 200
    assert "content-security-policy: default-src 'self'" in text
    port = urlsplit(address).port
    assert http(address, path, f"Host: localhost:{port}")[0] == 200
    assert http(address, "/", host(address))[0] == 403
    assert http(address, "/?token=no", host(address))[0] == 403
    assert http(address, path + "&token=no", host(address))[0] == 403


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "[::1]:x",
        "a b",
        "0.0.0.0",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(address, name):
    status, text = http(address, "/?" + urlsplit(address).query, f"Host: {name}")
    assert status == 403, text
    assert "127.0.0.1 or localhost" in text


def test_a_page_of_another_site_is_refused(address):
    path = "/?" + urlsplit(address).query
    origin = "Origin: https://evil.example"
    assert http(address, path, host(address), origin)[0] == 403
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", ""):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin=origin)
        assert refused.value.response.status_code == 403


def test_the_socket_needs_the_token(address):
    with pytest.raises(InvalidStatus):
        connect(address.replace("token=", "token=x"))


def test_no_path_leads_out_of_the_page(address):
    for path in ("/page/../serving.py", "/page/%2e%2e/serving.py", "/page/../../../etc/passwd",
                 "/page//etc/passwd", "/page/__init__.py", "/page/"):  # fmt: skip
        status, text = http(address, f"{path}?{urlsplit(address).query}", host(address))
        assert status == 404, text


def test_the_server_listens_on_this_machine_alone(address):
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address to try")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own, urlsplit(address).port), timeout=60)


def test_the_guard_lets_other_protocols_pass_unseen():
    assert guard._is_local("http://127.0.0.1:80")
    assert not guard._is_local("http://127.0.0.1:80/path")


# What it answers


def test_w_and_pixels_are_those_of_python(address, generators):
    with connect(address) as connection:
        connection.send(json.dumps({"id": 9, "kind": "w", "model": 1, "seed": 4}))
        answer = connection.recv(timeout=60)
        assert struct.unpack_from("<II", answer) == (9, 1)
        w = np.frombuffer(answer, "<f4", offset=8)
        ws = seed_ws(generators[1], [4])
        assert np.array_equal(w, ws[0, 0].numpy())
        connection.send(header(10, 1, 0) + ws.numpy().tobytes())
        answer = connection.recv(timeout=60)
        assert struct.unpack_from("<II", answer) == (10, 2)
        assert answer[8:] == render(generators[1], ws)[0].numpy().tobytes()


def test_attention_is_that_of_the_head_group_at_the_query(address, generators):
    ws = seed_ws(generators[0], [0])
    found = list(attention_weights(generators[0], ws))[2]  # 16x16, kernel 3
    with connect(address) as connection:
        labels = asked(connection, kind="places")["answer"]
        connection.send(header(3, 0, 2, place=2, y=0.5, x=0.99) + ws.numpy().tobytes())
        answer = connection.recv(timeout=60)
    assert labels[2] == found.place.label
    assert struct.unpack_from("<II", answer) == (3, 3)
    seen = np.frombuffer(answer, "<f4", offset=8).reshape(16, 16)
    weights = found.weights[0, 8, 15].mean(0).view(3, 3).numpy()
    assert np.allclose(seen[7:10, 13:16], weights / weights.max(), atol=1e-6)
    assert np.count_nonzero(seen) == 9


def test_of_many_images_the_newest_wins(address, generators):
    ws = seed_ws(generators[0], [0]).numpy().tobytes()
    with connect(address) as connection:
        for identity in range(200):
            connection.send(header(identity, 0, 0) + ws)
        kinds = {}
        for _ in range(200):
            identity, kind = struct.unpack_from("<II", connection.recv(timeout=60))
            kinds[identity] = kind
    assert len(kinds) == 200
    assert kinds[199] == 2
    assert list(kinds.values()).count(0) > 0


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"kind": "w", "model": 2}, "there are 2 models, numbered from 0: 2"),
        ({"kind": "w", "model": -1}, "there are 2 models, numbered from 0: -1"),
        ({"kind": "w", "seed": 2**32}, f"must be from 0 to {2**32 - 1}: {2**32}"),
        ({"kind": "w", "seed": "1"}, "must be whole numbers"),
        ({"kind": "facts", "model": True}, "must be whole numbers"),
        ({"kind": "open", "model": 0}, "kind must be one of about, facts, w, places: 'open'"),
        ({"kind": ["w"]}, "kind must be one of"),
    ],
)
def test_a_wrong_question_is_answered_in_a_sentence(address, question, sentence):
    with connect(address) as connection:
        assert sentence in asked(connection, **question)["error"]
        assert "models" in asked(connection, kind="about")["answer"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "a header and float32 numbers"),
        (header(1, 0, 0) + b"xyz", "a header and float32 numbers"),
        (header(1, 0, 7), "a pane must be below 3: 7"),
        (header(1, 0, 0) + bytes(8), "3 x 8 numbers for this model: 2"),
        (header(1, 99, 0) + bytes(96), "there are 2 models"),
        (header(1, 0, 2, place=99) + bytes(96), "no head group of this number: 99"),
        (header(1, 0, 2, y=float("nan")) + bytes(96), "between 0 and 1 on the image"),
        (header(1, 0, 0) + b"\xff" * 96, "must be finite numbers"),
    ],
)
def test_a_wrong_image_is_answered_in_a_sentence(address, data, sentence):
    with connect(address) as connection:
        connection.send(data)
        assert sentence in json.loads(connection.recv(timeout=60))["error"]


def test_a_hundred_hostile_requests_leave_it_running(address):
    chance = random.Random(0)
    place = (urlsplit(address).hostname, urlsplit(address).port)
    for _ in range(60):  # HTTP: noise, endless headers, bodies that nobody asked for
        with socket.create_connection(place, timeout=60) as connection:
            noise = chance.choice([
                chance.randbytes(chance.randrange(1, 2000)),
                b"GET / HTTP/1.1\r\nHost: " + b"a" * 20_000,
                b"POST /socket HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nxx",
                b"GET /socket HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                f"GET /?{'token=a&' * 500} HTTP/1.1\r\n{host(address)}\r\n\r\n".encode(),
            ])  # fmt: skip
            connection.sendall(noise)
    for _ in range(40):  # WebSockets: noise, nested JSON, messages beyond the limit
        message = chance.choice([
            chance.randbytes(chance.randrange(300)),
            "[" * 50_000,
            '{"id": 1e999}',
            '{"id": 1, "kind": "w", "seed": 1' + "0" * 5000 + "}",
            bytes(1 << 20),
        ])  # fmt: skip
        with connect(address) as connection:
            try:
                connection.send(message)
                assert "error" in json.loads(connection.recv(timeout=60))
            except ConnectionClosed:
                assert len(message) == 1 << 20
    with connect(address) as connection:
        assert "models" in asked(connection, kind="about")["answer"]
