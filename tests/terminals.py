"""Terminals of our own, to see what commands show on one."""

import os
import pty
import sys
import termios
import threading
from collections.abc import Callable

import pytest

PATIENCE_S = 60


class Screen:
    """A terminal, and all that is shown on it until its last writer is gone."""

    def __init__(self) -> None:
        self._ours, self.terminal = pty.openpty()
        attributes = termios.tcgetattr(self.terminal)
        attributes[1] &= ~termios.OPOST  # bytes as they were written
        termios.tcsetattr(self.terminal, termios.TCSANOW, attributes)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._shown += os.read(self._ours, 4096)
            except OSError:  # its last writer is gone
                return

    def answer(self, text: str) -> None:
        """Send what a terminal says when it is asked."""
        os.write(self._ours, text.encode())

    def shown(self) -> str:
        os.close(self.terminal)
        self._reader.join(PATIENCE_S)
        os.close(self._ours)
        return self._shown.decode()


def shown_on_terminal(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> str:
    """All that a call in this process sends to standard output, a terminal."""
    screen = Screen()
    with open(screen.terminal, "w", closefd=False) as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        call()
    return screen.shown()
