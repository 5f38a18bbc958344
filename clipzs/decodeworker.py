"""One file → pixels, as a process does it that serves another: `decoders` starts it and asks.

Imports little (neither numpy nor sqlite), because an answer waits for its start.
"""

import hashlib
import io
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, BinaryIO

from clipzs import defaults, images
from clipzs.errors import ImageError
from clipzs.messages import Message, receive, send, working_folder
from clipzs.preprocess import framing

UNASKED_BYTES = 8_000_000  # what a file or its pixels may take without asking
CANVAS_BYTES = 8  # a pixel, that some decoders (WebP's) take before they tell the size
SPARE_BYTES = defaults.DECODING_BYTES // 2  # beyond what decoding should take, before memory is refused

Ask = Callable[[Message], bool]
Allow = Callable[[int], None]


def decode(request: Message, data: bytes, ask: Ask, allow: Allow = lambda amount: None) -> tuple[dict[str, Any], bytes]:
    """Read one file, hash it if that is wanted, and decode it unless it turns out that nobody wants its pixels.

    Args:
        request: `path` (its bytes as Latin-1), `preprocess`, `max_megapixels`, `exact`, and `hash`: whether to
            say what is in the file. A path of None stands for `data`.
        data: the file, if it is in memory.
        ask: answers `{"hold": bytes, "of": "files" or "pixels"}` when there is memory for it, and
            `{"sha256": hexadecimal, "stamp": text or null}` with whether pixels are wanted.
        allow: told how much memory the next step should take at most.

    Returns:
        `{"error": text}`, or nothing and the pixels as bytes (see `preprocess.Framing.packed`), none if they are not
        wanted.
    """
    allow(2 * images.PIPE_BYTES)
    try:
        with _opened(request["path"], data) as (file, path):
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            memory = _Memory(ask, allow, size if size <= defaults.DECODING_BYTES else 0)
            allow(memory.file + int(min(request["max_megapixels"], 1e6) * CANVAS_BYTES * 1e6))
            if request["hash"] and 0 < size <= defaults.DECODING_BYTES:
                mark = None
                if not data:
                    memory.ask("files", size)
                    mark = _stamp(file)
                    data = file.read(size)
                    file = io.BytesIO(data)
                if not ask({"sha256": hashlib.sha256(data).hexdigest(), "stamp": mark}):
                    return {}, b""
            how = framing(request["preprocess"])
            image = images.pixels(
                file,
                path,
                how,
                max_megapixels=request["max_megapixels"],
                exact=request["exact"],
                memory=memory,
            )
            return {}, how.packed(image)
    except ImageError as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": images.NO_MEMORY}, b""


@contextmanager
def _opened(path: str | None, data: bytes) -> Iterator[tuple[BinaryIO, str]]:
    """What can be read more than once, and its name."""
    if path is None:
        yield io.BytesIO(data), ""
        return
    name = os.fsdecode(path.encode("latin-1"))
    with images.opened(name) as file:
        yield file, name


class _Memory:
    """Memory that another process has the say over."""

    def __init__(self, ask: Ask, allow: Allow, file: int) -> None:
        self._ask, self._allow, self.file = ask, allow, file

    def ask(self, kind: str, amount: int) -> None:
        if amount > UNASKED_BYTES:
            self._ask({"hold": amount, "of": kind})

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for that many bytes; they are given back with the answer, or when others are asked for."""
        self.ask("pixels", amount)
        self._allow(amount + amount // 4 + self.file)
        yield


def _stamp(file: BinaryIO) -> str | None:
    """Size, times and inode of an open file as `filehashes.settled` wants them; None for what is no ordinary file."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # it is in memory
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def main(stdin: int) -> None:
    """Answer requests until the other process is gone.

    Args:
        stdin: a descriptor of the standard input of that process, which /dev/stdin then means here too; -1 if
            there is none.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # what libraries print belongs nowhere
    os.dup2(null if stdin < 0 else stdin, 0)
    _die_first()
    received: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, received), daemon=True).start()

    def ask(question: Message) -> bool:
        send(answers, question)
        return bool(received.get()[0]["yes"])

    send(answers, {"ready": True})
    while True:
        request, data = received.get()
        path = request["path"]
        try:
            if request["folder"] != working_folder():
                os.chdir(request["folder"])
        except OSError as error:
            if path is not None and not os.path.isabs(path):  # in this folder another file may have that name
                send(answers, {"done": True, "error": f"the working folder cannot be entered: {error.strerror}"})
                continue
        answer, pixels = decode(request, data, ask, _allow)
        send(answers, {"done": True, **answer}, pixels)


def _listen(requests: BinaryIO, received: "queue.SimpleQueue[tuple[dict[str, Any], bytes]]") -> None:
    """On a thread, so that the end of the other process is noticed in the middle of work."""
    with suppress(EOFError, ValueError, OSError):
        while True:
            received.put(receive(requests))
    os._exit(0)


def _die_first() -> None:
    """If the system runs out of memory, let it take this process and not the one that holds all results."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


@cache
def _statm() -> int | None:
    """A descriptor of what says how much memory this process has; None where nothing does."""
    if sys.platform != "linux":  # others know no such limit, or do not keep it
        return None
    with suppress(OSError):
        return os.open("/proc/self/statm", os.O_RDONLY)
    return None


def _allow(amount: int) -> None:
    """From now on, refuse to take more memory than that, and some to spare."""
    statm = _statm()
    if statm is None or sys.platform != "linux":
        return
    import resource

    now = int(os.pread(statm, 32, 0).split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = now + amount + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
