"""Who may ask at all, and what every answer has in common. Stands before all routes."""

import asyncio
import hmac
import ipaddress
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipzs.serving.refusals import FORBIDDEN, NO_TOKEN, TOO_SLOW, Refusal, of, stopping
from clipzs.serving.service import Service

OPEN = {"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/health"}  # to be read without a token; no secrets
_DRAINED_S = 2.0  # that a client may go on sending what nobody reads, so that it comes to read the answer
_DRAINED_BYTES = 64_000_000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets in who may ask; counts requests; answers failures that no route has answered."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        measures, begun = self._service.measures, time.perf_counter()
        answer, reading = _Answer(send), _Reading(receive, scope)
        with measures.active.track_inprogress():
            try:
                self._check(scope)
                await self._app(scope, reading, answer)
            except ClientDisconnect:
                answer.status = answer.status or 499
            except asyncio.CancelledError:
                answer.status = answer.status or 499
                raise
            except Exception as error:
                refusal = of(error)
                if answer.status:
                    raise
                await _refuse(refusal, reading, answer)
            finally:
                route = getattr(scope.get("route"), "path", None) or "other"
                measures.requests.labels(route, _method(scope), str(answer.status)).inc()
                measures.seconds.labels(route).observe(time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        service, headers = self._service, Headers(scope=scope)
        if service.stopping.is_set() and scope["path"] != "/health":
            raise stopping()
        reading = scope["method"] in ("GET", "HEAD")
        if service.token is not None:
            scope["state"]["known"] = known = _has_token(headers, service.token)
            if not known and not (reading and scope["path"] in OPEN):
                raise Refusal(
                    NO_TOKEN,
                    "a token is needed" if "authorization" not in headers else "not the token of this server",
                    hint="send it as `Authorization: Bearer TOKEN`",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return
        scope["state"]["known"] = True
        if not service.local:
            return
        host = headers.get("host", "").lower()
        if not _is_loopback(host):
            raise Refusal(FORBIDDEN, f"not the name of this server: {host!r}", hint="ask for 127.0.0.1 or localhost")
        origin = headers.get("origin")
        if not reading and origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise Refusal(FORBIDDEN, "pages of other places may not ask", hint="leave Origin out, or use the page at /")


class _Reading:
    """The body of a request, and whether it has come to its end."""

    def __init__(self, receive: Receive, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._receive = receive
        self.ended = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not (message["type"] == "http.request" and message.get("more_body"))
        return message


class _Answer:
    """An answer on its way, with the headers that all have."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            self.status = message["status"]
        await self._send(message)


async def _refuse(refusal: Refusal, reading: _Reading, answer: _Answer) -> None:
    """Answer with the refusal; a client that is still sending may go on for a moment, lest it never reads why."""
    body = json.dumps(refusal.as_json(), ensure_ascii=False).encode()
    headers: dict[str, Any] = {
        **refusal.headers,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **({} if reading.ended else {"Connection": "close"}),
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await answer({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await answer({"type": "http.response.body", "body": body, "more_body": True})
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAINED_S):
            while not reading.ended and size < _DRAINED_BYTES and refusal.status != TOO_SLOW:
                size += len((await reading()).get("body", b""))
    await answer({"type": "http.response.body", "body": b""})


def _method(scope: Scope) -> str:
    """One of the usual ones, so that nobody can make more of them than there are."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE") else "other"


def _has_token(headers: Headers, token: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and kind.lower() == "bearer"


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
