"""HTTP/1.1 for clients that cannot be trusted to go on: connections are few, and each has to make progress."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from clipzs.serving.limits import Limits


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """What speaks HTTP on a connection, within these limits."""
    return type("Protocol", (_Protocol,), {"limits": limits})


class _Protocol(H11Protocol):
    """Ends connections that are too many, whose request does not come, or whose answer is not read.

    Bodies are no matter of this: who reads them counts the time (`bodies.chunks`).
    """

    limits: Limits

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._asked: asyncio.TimerHandle | None = None
        self._read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._asked = self.loop.call_later(self.limits.idle_seconds, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        for timer in (self._asked, self._read):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """From the first byte of a request to the last of its headers, time is counted."""
        super().data_received(data)
        at_work = self.cycle is not None and not self.cycle.response_complete
        if at_work and self._asked is not None:
            self._asked.cancel()
            self._asked = None
        elif not at_work and self._asked is None:
            self._asked = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """Enough waits to be read by the client; from now on, time is counted."""
        super().pause_writing()
        self._wait_for_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It was read."""
        super().resume_writing()
        if self._read is not None:
            self._read.cancel()
            self._read = None

    def _wait_for_reader(self, left: int) -> None:
        self._read = self.loop.call_later(self.limits.idle_seconds, self._look_at_reader, left)

    def _look_at_reader(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._wait_for_reader(left)
