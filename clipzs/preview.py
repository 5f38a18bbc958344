"""Pictures in a terminal: Kitty's graphics or Sixel where it has them, coloured half-blocks elsewhere.

Needs textual-image, which asks the terminal what it can as soon as it is imported: only when pictures are wanted.
"""

import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import IO, Any, Literal

from PIL import Image
from rich.console import Console
from rich.measure import Measurement

from clipzs import defaults
from clipzs.errors import UsageProblem
from clipzs.stream import THREADS
from clipzs.thumbnails import thumbnail

COLUMNS, LINES = 32, 10  # that a picture takes, at most
LONGEST = 480  # its pixels, enough for so many columns of a screen with small dots


class Preview:
    """Pictures of files, as what makes a terminal show them.

    Raises:
        UsageProblem: textual-image is not installed.
    """

    def __init__(
        self, *, max_megapixels: float = defaults.MAX_MEGAPIXELS, timeout: float = defaults.IMAGE_TIMEOUT_S
    ) -> None:
        """Ask the terminal what it can show; standard output must be one.

        Args:
            max_megapixels: of larger images nothing is shown.
            timeout: seconds that one may take; 0 is without end.
        """
        if find_spec("textual_image") is None:
            raise UsageProblem(
                "--preview needs textual-image, which is not installed", hint="pip install 'clipzs[preview]'"
            )
        self._shown = _way_to_show()
        # Kitty tells pictures apart by colours, which must be exact.
        exact = self._shown.__module__.endswith(".tgp")
        self._console = _console("truecolor" if exact else "auto")
        self._thumbnail = partial(thumbnail, longest=LONGEST, max_megapixels=max_megapixels, timeout=timeout)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="clipzs-preview")

    def __call__(self, paths: Sequence[str]) -> list[str]:
        """What shows each picture, whole lines; "" for a file that has none. Escape sequences: not for a pipe."""
        return [self._sequence(encoded) for encoded in self._pool.map(self._thumbnail, paths)]

    def _sequence(self, encoded: bytes | None) -> str:
        if encoded is None:
            return ""
        with Image.open(io.BytesIO(encoded)) as picture, self._console.capture() as captured:
            self._console.print(self._shown(picture, "auto", "auto"), end="")
        return captured.get()


def _console(colours: Literal["auto", "truecolor"]) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        no_color=False,  # NO_COLOR is about text
        color_system=colours,
        legacy_windows=False,
        width=min(COLUMNS, shutil.get_terminal_size().columns),
        height=LINES,
    )


def _way_to_show() -> Any:
    """A class of textual-image, chosen by what the terminal answers, and the size of a letter found out."""
    with _keyboard() as terminal:
        for stdin in (terminal, None):  # None: the terminal is not asked
            with suppress(Exception), _standard_input(stdin):  # an answer that makes no sense
                from textual_image.renderable import Image as Shown

                console = _console("auto")
                Measurement.get(console, console.options, Shown(Image.new("RGB", (1, 1)), "auto", "auto"))
                return Shown
    raise UsageProblem("--preview: this terminal cannot be used", hint="leave it out")


@contextmanager
def _keyboard() -> Iterator[IO[str] | None]:
    """Where the answers of the terminal arrive, whatever standard input is: a list of paths must not be read as one.

    None where there is no such place, or where it belongs to another process now.
    """
    if os.name == "nt":
        yield sys.__stdin__
        return
    with ExitStack() as opened:
        terminal: IO[str] | None = None
        with suppress(OSError):
            terminal = opened.enter_context(open("/dev/tty", encoding="utf-8"))
            terminal = terminal if os.tcgetpgrp(terminal.fileno()) == os.getpgrp() else None
        yield terminal


@contextmanager
def _standard_input(stream: Any) -> Iterator[None]:
    given = sys.__stdin__
    setattr(sys, "__stdin__", stream)  # noqa: B010  # final, for type checkers
    try:
        yield
    finally:
        setattr(sys, "__stdin__", given)  # noqa: B010
