"""From a request to its answer: decoded, embedded together with those of others, scored; given up when nobody waits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from clipzs.pipeline import Prepared
from clipzs.serving import bodies
from clipzs.serving.bodies import ImageBody
from clipzs.serving.models import Given, Ready, ServedModel, to_base64
from clipzs.serving.refusals import STOPPING, TOO_SLOW, Refusal, of, stopping
from clipzs.serving.service import Service
from clipzs.writers import json_text

BULK = 10  # whole batches on a slow processor, or thousands of prompts
_FEW = 4_096  # scores that are made at once without holding up other requests

Answer = TypeVar("Answer")
Handler = Callable[..., Coroutine[Any, Any, Response]]


def as_json(content: Any) -> bytes:
    """JSON on one line, as records are written."""
    return json_text(content).encode()


class JsonResponse(Response):
    """JSON as records are written."""

    media_type = bodies.JSON

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return as_json(content)


def bounded(service: Service, *, bulk: bool = False) -> Callable[[Handler], Handler]:
    """Makes a route that gives up when it takes too long; `bulk` is for what may take `BULK` times as long."""
    seconds = service.limits.seconds * (BULK if bulk else 1)

    def decorated(handler: Handler) -> Handler:
        @wraps(handler)
        async def route(request: Request, **more: Any) -> Response:
            try:
                async with asyncio.timeout(seconds):
                    return await handler(request, **more)
            except TimeoutError as error:
                said = f"it took longer than {seconds:g} seconds"
                if not request.scope["state"].get("read"):
                    raise Refusal(TOO_SLOW, f"{said} to send it", hint="send it as a stream") from error
                raise Refusal(
                    STOPPING, said, hint="ask for less at once, or try again later", headers={"Retry-After": "1"}
                ) from error

        return route

    return decorated


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The outcome of work for a request whose body was read; given up if the client goes.

    Raises:
        ClientDisconnect: it is gone.
    """
    request.scope["state"]["read"] = True
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await working


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def scored(ready: Ready, images: Sequence[Prepared], *, embeddings: bool) -> list[dict[str, Any]]:
    """A record of each image."""

    def work() -> list[dict[str, Any]]:
        made = [result.as_json() for result in ready.results(images)]
        if embeddings:
            for record, image in zip(made, images, strict=True):
                record["embedding"] = None if image.vector is None else to_base64(image.vector)
        return made

    if len(images) * len(ready.classifier.labels) <= _FEW:
        return work()
    return await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class _Begun:
    """An image of a stream that is on its way, and the bytes it holds."""

    future: "Future[Prepared]"
    size: int


@dataclass(frozen=True, slots=True)
class _End:
    """Of a stream; where it came before its time, why."""

    why: Refusal | None = None


@asynccontextmanager
async def closed_on_failure(lines: AsyncGenerator[bytes, None]) -> AsyncIterator[None]:
    """Closes a stream that does not come to be answered."""
    try:
        yield
    except BaseException:
        await lines.aclose()
        raise


class Stream(Response):
    """Lines of images in, lines of answers out: in order, each as soon as it is there, no more than are read.

    It ends before its time with a line of `error` and `hint` in place of an answer: where a line is not understood,
    the client sends nothing for too long, the model fails, or the service stops.
    """

    media_type = bodies.LINES

    def __init__(
        self,
        service: Service,
        model: ServedModel,
        lines: AsyncGenerator[bytes, None],
        answer: Callable[[Sequence[Prepared]], Awaitable[Sequence[Any]]],
    ) -> None:
        """Set up.

        Args:
            service: what is shared.
            model: that embeds the images.
            lines: those that are left of the request.
            answer: what to write of some images.
        """
        super().__init__()
        del self.headers["content-length"]
        self._service, self._model, self._lines, self._answer = service, model, lines, answer
        window = max(2, 2 * model.options.batch_size)
        self._begun: asyncio.Queue[_Begun | _End] = asyncio.Queue(window)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        reading = asyncio.ensure_future(self._read(receive))
        writing = asyncio.ensure_future(self._write(send))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                reading.result()
                raise ClientDisconnect
            writing.result()
        finally:
            for task in (reading, writing):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            await self._lines.aclose()
            while not self._begun.empty():
                left = self._begun.get_nowait()
                if isinstance(left, _Begun):
                    self._drop(left)
        await send({"type": "http.response.body", "body": b""})

    async def _read(self, receive: Receive) -> None:
        """Until the client is gone; it is not told of the end of what it sends."""
        stopped = asyncio.ensure_future(self._service.stopping.wait())
        try:
            number = 0
            while True:
                next_line = asyncio.ensure_future(anext(self._lines, None))
                await asyncio.wait({next_line, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not next_line.done():
                    next_line.cancel()
                    raise stopping()
                line = next_line.result()
                if line is None:
                    break
                image = bodies.parsed(line, ImageBody).given(number)
                bodies.check_image(image, self._service.limits)
                await self._service.room.wait(len(line))
                await self._put(image, len(line))
                number += 1
            await self._begun.put(_End())
        except ClientDisconnect:
            return
        except Exception as error:
            await self._begun.put(_End(of(error)))
        finally:
            stopped.cancel()
        await _gone(receive)

    async def _put(self, image: Given, size: int) -> None:
        begun = _Begun(self._model.submit(image), size)
        try:
            await self._begun.put(begun)
        except asyncio.CancelledError:
            self._drop(begun)
            raise

    async def _write(self, send: Send) -> None:
        """Answers of all that is done, and of the next one that is not."""
        end: _End | None = None
        while end is None:
            some: list[_Begun] = []
            while end is None and (not some or (some[-1].future.done() and not self._begun.empty())):
                one = await self._begun.get()
                if isinstance(one, _End):
                    end = one
                else:
                    some.append(one)
            try:
                lines = await self._lines_of(some)
            except Exception as error:
                lines, end = b"", _End(of(error))
            if end is not None and end.why is not None:
                lines += end.why.line()
            await send({"type": "http.response.body", "body": lines, "more_body": True})

    async def _lines_of(self, some: Sequence[_Begun]) -> bytes:
        try:
            prepared = [await asyncio.wrap_future(one.future) for one in some]
        finally:
            for one in some:
                self._drop(one)
        return b"".join(as_json(answer) + b"\n" for answer in await self._answer(prepared))

    def _drop(self, begun: "_Begun") -> None:
        begun.future.cancel()
        self._service.room.give_streamed(begun.size)
