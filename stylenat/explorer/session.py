"""One open page, as the server sees it: questions come in, and answers go out.

A question is JSON, `{"id": 7, "kind": "about" | "facts" | "w" | "places", "model": 0, "seed": 3,
"label": 0}`, or bytes, little-endian: id, model, pane and place as uint32, y and x as float32, then
ws as float32. Panes 0 and 1 ask for pixels; pane 2 asks for the attention of the query (y, x) at a
place. The answer to JSON is JSON with that id, but for `w`; the others are bytes: id and kind as
uint32, then w or attention (float32) or pixels (uint8). An error is JSON, `{"id": 7, "error":
"why"}`.

Of a model above 64x64, images of its lower levels come first, from 64x64 up, with kind 4 and the
same id. The newest question for an image wins: one that waits in the same pane, or is on its way
from level to level, is answered with kind 0.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from stylenat.explorer.gallery import Gallery
from stylenat.text import first_line, listed, shown

SUPERSEDED, W, PIXELS, ATTENTION, PREVIEW = range(5)
HEADER = struct.Struct("<IIIIff")
ANSWER = struct.Struct("<II")
MOST_WAITING = 64
PANES, OVERLAY = 3, 2
KINDS = ("about", "facts", "w", "places")
NUMBERS = ("model", "seed", "label")
FAULTS = (ValueError, OSError, RuntimeError)  # of a question, or of this machine


@dataclass(frozen=True)
class Image:
    """A question for an image, as a page sends it."""

    identity: int
    model: int
    pane: int
    place: int
    at: tuple[float, float]
    ws: bytes

    @classmethod
    def read(cls, data: bytes) -> Image:
        """Raises ValueError unless these bytes are a question for an image."""
        if len(data) < HEADER.size or (len(data) - HEADER.size) % 4:
            raise ValueError("a question for an image must be a header and float32 numbers")
        identity, model, pane, place, y, x = HEADER.unpack_from(data)
        if pane >= PANES:
            raise ValueError(f"a pane must be below {PANES}: {pane}")
        return cls(identity, model, pane, place, (y, x), data[HEADER.size :])


class Session:
    """Answers the questions of one WebSocket until it is closed.

    The networks run on `executor`, one question after the other.
    """

    def __init__(self, socket: WebSocket, gallery: Gallery, executor: Executor) -> None:
        self.socket = socket
        self.gallery = gallery
        self.executor = executor
        self.questions: deque[dict[str, Any]] = deque()
        self.images: dict[int, Image] = {}  # the newest question of each pane
        self.wake = asyncio.Event()

    async def run(self) -> None:
        await self.socket.accept()
        working = asyncio.create_task(self._work())
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if working.done():  # by a fault of ours: the page shall not wait for ever
                    working.result()
                if (data := message.get("bytes")) is not None:
                    await self._take_image(data)
                else:
                    await self._take_question(message.get("text") or "")
                self.wake.set()
        except WebSocketDisconnect:
            return
        finally:
            working.cancel()

    async def _take_image(self, data: bytes) -> None:
        try:
            image = Image.read(data)
        except ValueError as error:
            await self._refuse(0, str(error))
            return
        if image.pane in self.images:
            await self.socket.send_bytes(ANSWER.pack(self.images[image.pane].identity, SUPERSEDED))
        self.images[image.pane] = image

    async def _take_question(self, text: str) -> None:
        try:
            question = json.loads(text)
        except (ValueError, RecursionError):
            question = None
        if not isinstance(question, dict) or type(question.get("id")) is not int:
            await self._refuse(0, f"a question must be JSON with an id: {shown(text)}")
        elif question.get("kind") not in KINDS:
            await self._refuse(
                question["id"], f"kind must be one of {', '.join(KINDS)}: "
                f"{shown(question.get('kind'))}"
            )  # fmt: skip
        elif any(type(question.get(key, 0)) is not int for key in NUMBERS):
            await self._refuse(question["id"], f"{listed(NUMBERS)} must be whole numbers")
        elif len(self.questions) >= MOST_WAITING:
            await self._refuse(question["id"], f"at most {MOST_WAITING} questions may wait")
        else:
            self.questions.append(question)

    async def _work(self) -> None:
        """Answer what waits, questions first, since images are made of their answers."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.questions or self.images:
                if self.questions:
                    await self._answer(self.questions.popleft())
                else:
                    await self._show(self.images.pop(min(self.images)))

    async def _show(self, image: Image) -> None:
        if image.pane == OVERLAY:
            given = (image.model, image.ws, image.place, image.at)
            await self._compute(image.identity, ATTENTION, self.gallery.attention, *given)
            return
        # Level by level, so that the answer to a question, or a newer image, need not wait.
        levels = self.gallery.pixels(image.model, image.ws)
        is_whole = False
        while not is_whole:
            try:
                is_whole, pixels = await self._run(next, levels)
            except FAULTS as error:
                await self._refuse(image.identity, _sentence(error))
                return
            if pixels is not None:
                await self._send(image.identity, PIXELS if is_whole else PREVIEW, pixels)
            while self.questions and not is_whole:
                await self._answer(self.questions.popleft())
            if image.pane in self.images and not is_whole:
                await self._send(image.identity, SUPERSEDED, b"")
                return

    async def _answer(self, question: dict[str, Any]) -> None:
        identity, model = question["id"], question.get("model", 0)
        if question["kind"] == "w":
            given = (model, question.get("seed", 0), question.get("label", 0))
            await self._compute(identity, W, self.gallery.w, *given)
        elif question["kind"] in ("facts", "places"):
            await self._compute(identity, None, getattr(self.gallery, question["kind"]), model)
        else:
            await self._compute(identity, None, self.gallery.about)

    async def _compute(self, identity: int, kind: int | None, function: Any, *given: Any) -> None:
        try:
            answer = await self._run(function, *given)
        except FAULTS as error:
            await self._refuse(identity, _sentence(error))
            return
        if kind is None:
            await self.socket.send_text(json.dumps({"id": identity, "answer": answer}))
        else:
            await self._send(identity, kind, answer)

    async def _run(self, function: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *given)

    async def _send(self, identity: int, kind: int, answer: bytes) -> None:
        await self.socket.send_bytes(ANSWER.pack(identity & 0xFFFFFFFF, kind) + answer)

    async def _refuse(self, identity: int, sentence: str) -> None:
        await self.socket.send_text(json.dumps({"id": identity, "error": sentence}))


def _sentence(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else None
    return reason or first_line(error)
