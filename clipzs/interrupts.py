"""Ctrl-C and its like, put off while something is under way that is worth finishing."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """In a `with` block: the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt, at once or when what is under
    way is done; the second ends the process there and then.

    A signal that is ignored (`nohup`) stays so. On other threads than the main one, nothing is changed.

    Attributes:
        signal: the first that came, or None.
    """

    def __init__(self, put_off: Callable[[], None]) -> None:
        """`put_off` is called from the signal handler where the answer has to wait; it must not use stdio."""
        self.signal: int | None = None
        self._put_off = put_off
        self._busy = False
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on there is something to finish."""
        self._busy = True

    def end(self) -> None:
        """It is finished.

        Raises:
            KeyboardInterrupt: a signal came meanwhile.
        """
        self._busy = False
        if self.signal is not None:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {
                number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)
            }
            for number in self._before:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if not self._busy:
            raise KeyboardInterrupt
        self._put_off()
