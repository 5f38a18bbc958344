"""What a person reads besides results: warnings, notes and progress, all on standard error."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from typing import Any

from clipzs.errors import SOME_IMAGES_FAILED, ClipzsError

REASONS_SHOWN = 20  # of images that could not be read


def say(text: str, *, kind: str = "note") -> None:
    """One line on standard error, with nothing in it that a terminal would obey."""
    from clipzs.paths import printable

    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{kind}: {printable(text)}\n")
            sys.stderr.flush()
        except OSError:  # standard error is closed or full; there is nowhere left to say so
            return


def say_in_handler(text: str) -> None:
    """As `say`, from a signal handler: past the buffers, and on a terminal with the cursor that a bar may hide."""
    shows_cursor = "\x1b[?25h" if _on_terminal() else ""
    with suppress(OSError):
        os.write(2, f"{shows_cursor}note: {text}\n".encode())


def say_error(error: ClipzsError) -> None:
    """An error as one line, and its hint as another."""
    say(str(error), kind="error")
    if error.hint:
        say(error.hint, kind="hint")


def say_unreadable(paths: Sequence[str], errors: Mapping[int, str], effect: str, *, quiet: bool) -> int:
    """Name labelled images that could not be read, and say what that means; the exit code.

    Args:
        paths: of all images.
        errors: number and reason of those that could not be read.
        effect: behind their number, what became of the rest; may be empty.
        quiet: say nothing.
    """
    if not errors:
        return 0
    if not quiet:
        for number, error in islice(errors.items(), REASONS_SHOWN):
            say(f"{paths[number]}: {error}", kind="error")
        say(f"{len(errors)} of {len(paths)} images could not be read{effect}", kind="error")
    return SOME_IMAGES_FAILED


class _Handler(logging.Handler):
    """Says each thing once: what holds for several models or templates is found for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            say(text, kind="warning" if record.levelno >= logging.WARNING else "note")


def set_up(*, quiet: bool, verbose: bool) -> None:
    """Send clipzs' own messages to standard error; keep the libraries' to themselves unless asked."""
    log = logging.getLogger("clipzs")
    log.handlers = [_Handler()]
    log.propagate = False
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    else:
        logging.getLogger().handlers = [logging.NullHandler()]
        warnings.simplefilter("ignore")
    if quiet or not _on_terminal():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "info" if verbose else "error")


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """What is going on, on standard error while a terminal is there to show it; otherwise nothing.

    A bar with images/s and time left. Where the results themselves appear on the terminal, only a line until
    the first of them is there.
    """

    def __init__(self, *, enabled: bool, until_first: bool) -> None:
        self.enabled = enabled and _on_terminal()
        self.until_first = until_first
        self._bar: Any = None
        self._images: Any = None
        self._find_total: Callable[[], int] | None = None
        self._prompts: Any = None
        self._fits: Any = None
        self._compared: Any = None
        self._compiling: Any = None

    @contextmanager
    def shown(
        self, count: Callable[[], int] | None, *, done: int = 0, first: str = "loading the model"
    ) -> Iterator["Progress"]:
        """Show it.

        Args:
            count: finds the number of images, on a thread that starts with the first results: it must not hold
                them up. None where the number cannot be known.
            done: images that an earlier run has done.
            first: what goes on before the first image is done.
        """
        with self._live() if self.enabled else nullcontext() as self._bar:
            if self._bar is not None:
                self._images = self._bar.add_task(first, total=None, completed=done)
                self._find_total = None if self.until_first else count
            yield self

    @contextmanager
    def after(self) -> Iterator[None]:
        """Show what is done when all results are there, if there is anything to do."""
        self._bar = self._compiling = None
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.stop()

    def _live(self) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(f"{task.speed:.1f}/s" if task.speed else "")

        counted = [] if self.until_first else [BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()]
        return Bar(
            SpinnerColumn(), TextColumn("{task.description}"), *counted, console=Console(stderr=True), transient=True
        )

    def _count(self, bar: Any, find_total: Callable[[], int]) -> None:
        with suppress(ClipzsError):  # a list that is gone; the run will say so
            bar.update(self._images, total=find_total())

    def advance(self, images: int, what: str = "images") -> None:
        """So many more images are done and about to be written; `what` stands before their number."""
        if self._bar is None:
            return
        if self.until_first:
            self._bar.stop()
            return
        if self._find_total is not None:
            threading.Thread(target=self._count, args=(self._bar, self._find_total), daemon=True).start()
            self._find_total = None
        self._bar.update(self._images, advance=images, description=what)

    def compiling(self, done: int, total: int) -> None:
        """So many steps of compiling the model are done."""
        if self._bar is None and self.enabled:
            self._bar = self._live()
            self._bar.start()
        if self._bar is None:
            return
        if self._compiling is None:
            self._compiling = self._bar.add_task("compiling the model for this CPU, once", total=total)
        self._bar.update(self._compiling, completed=done, visible=done < total)

    def prompts(self, done: int, total: int) -> None:
        """So many prompts are encoded."""
        if self._bar is None:
            return
        if self._prompts is None:
            self._prompts = self._bar.add_task("encoding prompts", total=total)
        self._bar.update(self._prompts, completed=done, visible=done < total)

    def comparing(self, done: int, total: int) -> None:
        """So many images are compared with all others."""
        if self._bar is None:
            return
        if self._compared is None:
            self._compared = self._bar.add_task("comparing", total=total)
        self._bar.update(self._compared, completed=done, visible=done < total)

    def fits(self, done: int, total: int) -> None:
        """So many parts of a cross-validation are done."""
        if self._bar is None:
            return
        if self._fits is None:
            self._fits = self._bar.add_task("fitting, each part left out in turn", total=total)
        self._bar.update(self._fits, completed=done, visible=done < total)
