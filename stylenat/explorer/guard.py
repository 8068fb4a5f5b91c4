"""Who may talk to the explorer: only a page of this machine that knows the token.

A page of another site can make a browser ask this machine for anything. It can't set the headers
Host and Origin, which the browser writes, and it does not know the token. A site whose name is
made to point at this machine (DNS rebinding) is known by that name in Host.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = ("127.0.0.1", "localhost")
# Nothing of the page comes from elsewhere, and no other page may hold it in a frame.
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
OPEN_PATHS = "/page/"  # the page's own files, which hold nothing of a model


class Guard:
    """Refuses what does not come from the page, before the application sees it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason = self.refusal(scope)
        if reason is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            await PlainTextResponse(reason, status_code=403)(scope, receive, _with_headers(send))
        else:  # before it was accepted: the server answers 403
            await send({"type": "websocket.close", "code": 1008})

    def refusal(self, scope: MutableMapping[str, Any]) -> str | None:
        """None, or a sentence on why this request is refused."""
        pairs = [
            (key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]
        ]
        hosts = [value for key, value in pairs if key == "host"]
        origins = [value for key, value in pairs if key == "origin"]
        if len(hosts) != 1 or not _is_local(f"http://{hosts[0]}"):
            return "The host of this address must be 127.0.0.1 or localhost."
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return "Pages of other sites may not use the explorer."
        if scope["type"] == "websocket" and not origins:
            return "Only a page in a browser may open this connection."
        if scope["type"] == "http" and scope["path"].startswith(OPEN_PATHS):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if len(given) != 1 or not secrets.compare_digest(given[0].encode(), self.token.encode()):
            return "This address lacks its token: open the one that `stylenat explore` printed."
        return None


def _is_local(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.hostname in LOCAL_NAMES and parts.username is None and parts.path == ""
    except ValueError:  # a port that is none, for example
        return False


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending
