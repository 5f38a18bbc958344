"""How much memory several threads may take together."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from clipzs import defaults


class Budget:
    """Bytes that are shared out in the order in which they are asked for.

    Who asks for more than there is gets all of it, alone; nobody who asks for less can overtake
    and starve him. A thread that holds some must not ask for more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for that many bytes; give them back at the end of the block."""
        amount, ticket = min(amount, self._limit), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and amount <= self._free)
                self._free -= amount
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


DECODING = Budget(defaults.DECODING_BYTES)  # what images in decoding take
FILES = Budget(defaults.DECODING_BYTES)  # what is held of files meanwhile; asked for first
