"""How much may wait at the same time, of all clients together. Belongs to the event loop; needs no lock."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from clipzs.serving.limits import Limits
from clipzs.serving.measures import Measures
from clipzs.serving.refusals import busy


class Room:
    """Images and bytes that wait. Requests take what they need or are refused; streams wait until there is some.

    Lines of streams that are not whole yet have as much again. They never wait, so that they hold up nothing.
    """

    def __init__(self, limits: Limits, measures: Measures) -> None:
        self._limits, self._measures = limits, measures
        self._images = self._bytes = self._streamed = self._partial = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()  # bytes that streams wait for, in turn

    @contextmanager
    def taken(self) -> Iterator["Share"]:
        """What one request holds; given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            share.give_back()

    def take(self, images: int, size: int) -> None:
        """For a request.

        Raises:
            Refusal: there is not as much room.
        """
        if images and self._images + images > self._limits.waiting_images:
            raise busy(f"{self._images} images")
        if size and self._bytes + size > self._limits.waiting_bytes:
            raise busy(f"{self._bytes / 1e6:.0f} MB")
        self._add(images, size)

    async def wait(self, size: int) -> None:
        """For an image of a stream: taken as soon as there is room."""
        if self._line or not self._fits(size):
            turn = asyncio.get_running_loop().create_future()
            self._line.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._let_in()  # it may have been first in the line
                else:
                    self.give_streamed(size)
                raise
        else:
            self._add(1, size, streamed=1)

    def hold_partly(self, before: int, now: int) -> None:
        """Of a stream, bytes of what was read and is not on its way: so many before, so many now.

        Raises:
            Refusal: there is not as much room.
        """
        self._partial += now - before
        self._measures.waiting_bytes.set(self._bytes + self._partial)
        if now > before and self._partial > self._limits.waiting_bytes:
            raise busy(f"{self._partial / 1e6:.0f} MB")

    def give(self, images: int, size: int) -> None:
        """Of a request, back."""
        self._add(-images, -size)
        self._let_in()

    def give_streamed(self, size: int) -> None:
        """Of an image of a stream, back."""
        self._add(-1, -size, streamed=-1)
        self._let_in()

    def _fits(self, size: int) -> bool:
        limits = self._limits
        return (
            2 * self._streamed < limits.waiting_images
            and self._images < limits.waiting_images
            and (self._bytes + size <= limits.waiting_bytes or not self._bytes)
        )

    def _let_in(self) -> None:
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            size, turn = self._line.popleft()
            if not turn.done():
                self._add(1, size, streamed=1)
                turn.set_result(None)

    def _add(self, images: int, size: int, *, streamed: int = 0) -> None:
        self._images += images
        self._bytes += size
        self._streamed += streamed
        self._measures.waiting_images.set(self._images)
        self._measures.waiting_bytes.set(self._bytes + self._partial)


class Share:
    """The part of the room that one request holds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._images = self._bytes = 0

    def take(self, *, images: int = 0, size: int = 0) -> None:
        """Some more.

        Raises:
            Refusal: there is not as much room.
        """
        self._room.take(images, size)
        self._images += images
        self._bytes += size

    def give_back(self) -> None:
        """All of it."""
        self._room.give(self._images, self._bytes)
        self._images = self._bytes = 0
