"""The explorer's server: the page and its WebSocket, on this machine alone."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from stylenat.explorer.gallery import Gallery
from stylenat.extras import require

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp
    from starlette.websockets import WebSocket

PAGE = "index.html"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
MOST_SESSIONS = 16
MOST_CONNECTIONS = 128
LEAST_MESSAGE = 64 * 1024


def page_files() -> dict[str, bytes]:
    """The files of the page, by name."""
    folder = files("stylenat.explorer") / "page"
    names = (entry.name for entry in folder.iterdir())
    return {
        name: (folder / name).read_bytes()
        for name in sorted(names)
        if PurePosixPath(name).suffix in TYPES
    }


def application(gallery: Gallery, token: str) -> ASGIApp:
    """The page and its WebSocket, behind the guard. Only one network runs at a time."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route, WebSocketRoute

    from stylenat.explorer.guard import Guard
    from stylenat.explorer.projecting import Projector
    from stylenat.explorer.session import Session

    held = page_files()
    executor = ThreadPoolExecutor(1, thread_name_prefix="explorer")
    sessions: set[WebSocket] = set()
    projector = Projector(gallery, executor)

    def file(request: Request) -> Response:
        name = request.path_params.get("name", PAGE)
        if name not in held:
            return Response("There is no such file.", status_code=404)
        return Response(held[name], media_type=TYPES[PurePosixPath(name).suffix])

    async def talk(socket: WebSocket) -> None:
        if len(sessions) >= MOST_SESSIONS:
            await socket.close(1013)
            return
        sessions.add(socket)
        try:
            await Session(socket, gallery, executor).run()
        finally:
            sessions.discard(socket)

    return Guard(
        Starlette(
            routes=[
                Route("/", file),
                Route("/page/{name}", file),
                Route("/project", projector.answer, methods=["POST"]),
                WebSocketRoute("/socket", talk),
            ]
        ),
        token,
    )


def serve(gallery: Gallery, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it. `ready` gets the page's address, token included.

    With port 0 the system chooses one. Raises OSError if the port is taken, and ValueError if the
    packages of the extra `explore` are absent.
    """
    require_server()
    import uvicorn

    token = secrets.token_urlsafe(24)
    config = gallery.model(0).generator.config
    longest = 4 * config.num_ws * config.style_dim + 1024
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror, f"port {port}") from error
    server = uvicorn.Server(
        uvicorn.Config(
            application(gallery, token),
            log_level="error",
            access_log=False,
            server_header=False,
            ws_max_size=max(LEAST_MESSAGE, longest),
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=16 * 1024,
            timeout_keep_alive=5,
        )
    )
    ready(f"http://127.0.0.1:{listening.getsockname()[1]}/?token={token}")
    with listening:
        server.run(sockets=[listening])


def require_server() -> None:
    """Raises ValueError, naming the extra, if a package that the server needs is absent."""
    require(
        "the explorer's server",
        "starlette",
        "uvicorn",
        "websockets",
        extra="explore",
        otherwise="write a page that needs no server with --static DIR",
    )
