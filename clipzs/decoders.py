"""Decoding in processes of their own: what a file does to its decoder, it does to no other file.

A worker (`decodeworker`) decodes one file at a time. If it dies of it or takes too long, a new one takes its place.
There is one worker at first, ready about when the model is, and more as soon as files wait.
"""

import atexit
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from clipzs import budget, defaults, processors
from clipzs.errors import ImageError
from clipzs.messages import Message, receive, send, working_folder

if TYPE_CHECKING:
    from clipzs.images import Blob
    from clipzs.preprocess import Preprocess, Thumbnail

log = logging.getLogger("clipzs")

MOST = 32  # workers at the same time
GROWTH_S = 0.05  # about the processor time that the start of a worker costs: sooner, another would not pay off
RETRY_S = 5.0  # where one could not be started, but others work: processes may be limited
READY_S = 60.0  # that a worker may take to start
ENDED_S = 5.0  # that it may take to end by itself, once its pipes are closed
TICK_S = 0.1  # time is counted in these, so that a process that was stopped meanwhile is not blamed for it
FAILED_STARTS = 3  # in a row, and no more are tried if there is no worker at all
# Signals to all processes of a terminal or a batch job are for the one that holds the results.
_CHILD = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.path[:] = sys.argv[2:]
from clipzs.decodeworker import main
main(int(sys.argv[1]))
"""
_ALONE = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # there is one thread to be fast for

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)", re.ASCII).fullmatch

Known = Callable[[str, str | None], bool]


@dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    Attributes:
        preprocess: the model's; or a thumbnail is made.
        max_megapixels: larger images are refused.
        exact: decode every pixel of large images.
        timeout: seconds that a file may take; 0 is without end.
    """

    preprocess: "Preprocess | Thumbnail"
    max_megapixels: float
    exact: bool
    timeout: float


class Decoders:
    """Workers, for all threads of this process."""

    def __init__(self) -> None:
        self._reset()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._failed_starts, self._failed_at = 0, -math.inf
        self._watched = self._warned = False

    def start(self) -> None:
        """Start the first worker while other things are loaded."""
        with self._changed:
            if not self._workers:
                self._grow(1)

    def decode(self, file: "str | Blob", how: Decoding, known: Known | None = None) -> bytes:
        """Read one file and decode it to uint8 [height, width, 3], as bytes; none if they are not wanted. Or to a WebP.

        Args:
            file: any name the system can open, `/dev/stdin` and pipes included; or one in memory.
            how: for which model, and within which limits.
            known: called with the SHA-256 (hexadecimal) of a file and its stamp (see `filehashes.settled`), unless it
                is too large to be hashed; whether its pixels are not needed.

        Raises:
            ImageError: it cannot be read or decoded, takes too long, or crashes its decoder, alone too.
        """
        path, data = (file, b"") if isinstance(file, str) else (None, file.data)
        request = {
            "path": None if path is None else os.fsencode(path).decode("latin-1"),
            "folder": working_folder(),
            "preprocess": vars(how.preprocess),
            "max_megapixels": how.max_megapixels,
            "exact": how.exact,
            "hash": known is not None,
        }
        try:
            with _Answers(known) as answers:
                if path is not None and _is_only_here(path):
                    answer, pixels = _here(request, data, answers)
                else:
                    answer, pixels = self._tried(request, data, answers, how.timeout)
        except _Crash as crash:
            if crash.late or (path is not None and not os.path.isfile(path)):  # what was read of a pipe is gone
                raise ImageError(str(crash)) from crash
            answer, pixels = self._tried_alone(request, data, known, how.timeout)
        if "error" in answer:
            raise ImageError(answer["error"])
        return pixels

    def _tried_alone(self, request: Message, data: bytes, known: Known | None, timeout: float) -> tuple[Message, bytes]:
        """Once more, in a new worker and with all memory there is for decoding."""
        try:
            with budget.DECODING.hold(defaults.DECODING_BYTES), _Answers(known, alone=True) as answers:
                return self._tried(request, data, answers, timeout, fresh=True)
        except _Crash as crash:
            raise ImageError(str(crash)) from crash

    def _tried(
        self, request: Message, data: bytes, answers: "_Answers", timeout: float, *, fresh: bool = False
    ) -> tuple[Message, bytes]:
        worker = self._taken(fresh=fresh)
        if worker is None:
            if fresh:
                raise _Crash("its decoder crashed, and no other can be started")
            return _here(request, data, answers)
        try:
            done = worker.answer(request, data, answers, timeout)
        except BaseException:
            self._drop(worker)
            self._failed_starts = 0  # that no more of them could be started does not mean that none can
            raise
        self._give_back(worker)
        return done

    def _taken(self, *, fresh: bool) -> "_Worker | None":
        """A worker, as soon as there is one; None if none can be started."""
        while True:
            with self._changed:
                if fresh:
                    self._grow(1)
                while not self._idle:
                    if self._may_grow():
                        self._grow(max(1, min(len(self._workers), _most() - len(self._workers))))
                    elif self._workers:
                        self._changed.wait(GROWTH_S)
                    else:
                        return None
                if not self._watched:
                    threading.Thread(target=self._watch, name="clipzs-watch", daemon=True).start()
                    self._watched = True
                worker = self._idle.pop()
            if self._begun(worker):
                return worker

    def _may_grow(self) -> bool:
        """Whether a file that waits is reason to start more: not while those there are have hardly begun."""
        if not self._workers:
            return self._failed_starts < FAILED_STARTS
        begun = [worker.ready_at for worker in self._workers]
        waited = time.monotonic() - max(*begun, self._failed_at)
        return len(begun) < _most() and waited >= (RETRY_S if self._failed_starts else GROWTH_S)

    def _grow(self, number: int) -> None:
        for _ in range(number):
            try:
                worker = _Worker()
            except OSError as error:
                self._start_failed(str(error))
                return
            self._workers.add(worker)
            self._idle.append(worker)
        self._changed.notify_all()

    def _begun(self, worker: "_Worker") -> bool:
        if worker.ready_at != math.inf:
            return True
        try:
            worker.wait_until_ready()
        except _Crash as crash:
            self._drop(worker)
            with self._changed:
                self._start_failed(str(crash))
            return False
        self._failed_starts = 0
        return True

    def _start_failed(self, why: str) -> None:
        self._failed_starts += 1
        self._failed_at = time.monotonic()
        if self._failed_starts >= FAILED_STARTS and not self._workers and not self._warned:
            self._warned = True
            log.warning("no process can be started to decode in (%s): a file that crashes its decoder ends all", why)

    def _give_back(self, worker: "_Worker") -> None:
        with self._changed:
            if worker in self._workers:
                self._idle.append(worker)
                self._changed.notify()

    def _drop(self, worker: "_Worker") -> None:
        worker.end()
        with self._changed:
            self._workers.discard(worker)
            self._changed.notify_all()

    def _watch(self) -> None:
        """On a thread, while there is work: end what takes too long."""
        changed = self._changed
        while True:
            time.sleep(TICK_S)
            with changed:
                workers = [*self._workers]
                if len(self._idle) == len(workers):
                    self._watched = False
                    return
            for worker in workers:
                worker.tick()

    def close(self) -> None:
        """End all workers; should there be more to decode, new ones are started."""
        with self._changed:
            workers, self._workers, self._idle = self._workers, set(), []
            self._failed_starts = 0
        for worker in workers:
            worker.end()

    def _forget(self) -> None:
        """In a forked process: the workers are another's."""
        for worker in self._workers:
            worker.disown()
        self._reset()


class _Answers:
    """What a worker is told while it decodes a file, and what is held for it meanwhile."""

    def __init__(self, known: Known | None, *, alone: bool = False) -> None:
        self._known, self._alone = known, alone
        self._held = {"files": (budget.FILES, ExitStack()), "pixels": (budget.DECODING, ExitStack())}

    def __call__(self, question: Message) -> bool:
        if "hold" in question:
            shared, held = self._held[question["of"]]
            held.close()  # it is done with what it asked for before
            if not self._alone:
                held.enter_context(shared.hold(question["hold"]))
            return True
        return self._known is None or not self._known(question["sha256"], question["stamp"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shared_and_held in self._held.values():
            shared_and_held[1].close()


class _Crash(Exception):
    """A worker is gone; the message says why."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class _Worker:
    """One process that decodes.

    Attributes:
        ready_at: when it was ready (`time.monotonic`); infinite until then.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self.ready_at = math.inf
        self._lock = threading.Lock()
        self._left: float | None = None  # seconds; None without a limit
        self._late = False
        stdin = _standard_input()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [*_interpreter(), "-c", _CHILD, str(stdin), *_search_path()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                close_fds=os.name == "nt",  # elsewhere what the shell opened keeps its name: /dev/fd/63
                env={**os.environ, **_ALONE},
            )
        finally:
            if stdin >= 0:
                os.close(stdin)
        self._requests, self._answers = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        _widen(self._answers.fileno())

    def wait_until_ready(self) -> None:
        """Wait for its first word.

        Raises:
            _Crash: it cannot work here.
        """
        self._count(READY_S)
        self._next("it did not start in time")
        self._count(None)
        self.ready_at = time.monotonic()

    def answer(self, request: Message, data: bytes, answers: _Answers, timeout: float) -> tuple[Message, bytes]:
        """What becomes of one file.

        Raises:
            _Crash: the process is gone, or was ended because it took too long.
        """
        late = f"decoding took longer than {timeout:g} seconds; --image-timeout allows more"
        left = timeout or None
        self._say(request, data)
        while True:
            self._count(left)
            said, pixels = self._next(late)
            left = self._count(None)
            if "done" in said:
                return said, pixels
            self._say({"yes": answers(said)})

    def _say(self, message: Message, data: bytes = b"") -> None:
        with suppress(OSError):  # it is gone, which is noticed next
            send(self._requests, message, data)

    def _next(self, late: str) -> tuple[Message, bytes]:
        try:
            return receive(self._answers)
        except (EOFError, OSError, ValueError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDED_S)  # so that the reason is its own
            self.end()
            raise (_Crash(late, late=True) if self._late else _Crash(_cause(self._process.returncode))) from error

    def _count(self, seconds: float | None) -> float | None:
        """Let it have so many seconds from now on, None for no end; what was left of the last ones."""
        with self._lock:
            left, self._left = self._left, seconds
            return left

    def tick(self) -> None:
        """So much time has passed."""
        with self._lock:
            if self._left is not None:
                self._left -= TICK_S
                if self._left <= 0:
                    self._late, self._left = True, None
                    self._process.kill()

    def end(self) -> None:
        """Kill it, if it is not dead, and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                pipe.close()

    def disown(self) -> None:
        """Let go of it, in a forked process. A thread that is not there may hold the locks of its pipes."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self._requests.fileno())
        os.dup2(null, self._answers.fileno())
        os.close(null)
        self._process.returncode = 0


def _here(request: Message, data: bytes, answers: _Answers) -> tuple[Message, bytes]:
    """What becomes of one file, without a worker."""
    from clipzs.decodeworker import decode

    return decode(request, data, answers)


def _is_only_here(path: str) -> bool:
    """Whether a path is an open file of this process that its children do not get."""
    opened = _DESCRIPTOR(path)
    with suppress(OSError):
        return opened is not None and not os.get_inheritable(int(opened[1]))
    return False


def _cause(code: int) -> str:
    """Why a process ended, by its exit code."""
    if code == -9:
        return "its decoder was killed, probably for want of memory"
    with suppress(ValueError):
        return f"its decoder crashed ({signal.Signals(-code).name})"
    return f"its decoder ended with code {code}"


def _interpreter() -> list[str]:
    """Python, without anything from the environment or the working folder.

    Raises:
        OSError: this is no ordinary Python; what it is might do anything.
    """
    program = sys.executable or ""
    if getattr(sys, "frozen", False) or "python" not in os.path.basename(program).lower():
        raise OSError("there is no Python to start")
    return [program, "-I", "-S", *["-B"] * sys.dont_write_bytecode, *["-X", "utf8"] * sys.flags.utf8_mode]


def _search_path() -> list[str]:
    return [*filter(None, sys.path), str(Path(__file__).parent.parent)]


def _standard_input() -> int:
    """A descriptor of it for a child, -1 if there is none."""
    if os.name == "nt":
        return -1
    try:
        copy = os.dup(0)
    except OSError:  # closed by the caller (<&-)
        return -1
    os.set_inheritable(copy, True)
    return copy


def _widen(pipe: int) -> None:
    """Let a whole image into a pipe, so that a worker need not wait for its reader."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


@cache
def _most() -> int:
    """As many workers as processors, and one for while the others wait to be asked."""
    return min(processors.count() + 1, MOST)


DECODERS = Decoders()
