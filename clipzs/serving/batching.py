"""The one thread that runs a model: images of all clients in batches, and whatever else needs it in between."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from clipzs.pipeline import Prepared

log = logging.getLogger("clipzs")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Unit:
    """Images that stay together, and who is told when they are embedded."""

    images: Sequence[Prepared]
    done: "Future[Any]"
    answer: Any


class ModelThread:
    """Runs what it is given, on one thread. Nothing waits for a batch to fill: while the model works, the next gathers.

    What makes the model fail costs no other anything: the rest of its batch is tried again, each by itself.
    """

    def __init__(self, embed: Callable[[Sequence[Prepared]], object], *, size: int, name: str) -> None:
        """Start it.

        Args:
            embed: sets `vector` of prepared images.
            size: images in a batch, at most.
            name: of the model.
        """
        self._embed, self._size = embed, size
        self._changed = threading.Condition()
        self._images: deque[_Unit] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=f"clipzs-model {name}", daemon=True)
        self._thread.start()

    def embed(self, prepared: Prepared, done: "Future[Prepared]") -> None:
        """Set the vector of an image, in a batch with others; `done` is told, and skipped if it was cancelled."""
        self._add(_Unit([prepared], done, prepared))

    def embed_together(self, some: Sequence[Prepared]) -> "Future[Sequence[Prepared]]":
        """Set the vectors of images that shall be in one batch, next to each other and in their order."""
        done: Future[Sequence[Prepared]] = Future()
        self._add(_Unit(some, done, some))
        return done

    def _add(self, unit: _Unit) -> None:
        with self._changed:
            self._images.append(unit)
            self._changed.notify()

    def call(self, work: Callable[[], Answer]) -> "Future[Answer]":
        """Run something else that needs the model; images go in between."""
        done: Future[Answer] = Future()
        with self._changed:
            self._calls.append((work, done))
            self._changed.notify()
        return done

    def close(self) -> None:
        """Wait until everything is done; nothing more may be given to it."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def between(self) -> None:
        """Run a batch of the images that wait; to be called by long work on this thread."""
        some = self._next()
        if some:
            self._run(some)

    def _next(self) -> list[_Unit]:
        """Those that fit into a batch; one that is larger than that has it to itself."""
        some: list[_Unit] = []
        size = 0
        with self._changed:
            while self._images and (not some or size + len(self._images[0].images) <= self._size):
                unit = self._images.popleft()
                if unit.done.set_running_or_notify_cancel():
                    some.append(unit)
                    size += len(unit.images)
        return some

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._images or self._calls or self._ended)
                call = self._calls.popleft() if self._calls else None
                if not (self._images or call):
                    return
            self.between()
            if call and call[1].set_running_or_notify_cancel():
                self._called(*call)

    def _called(self, work: Callable[[], Any], done: "Future[Any]") -> None:
        try:
            answer = work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(answer)

    def _run(self, some: Sequence[_Unit]) -> None:
        images = [image for unit in some for image in unit.images]
        pixels = [image.pixels for image in images]  # which embedding them takes away
        try:
            self._embed(images)
        except Exception as error:
            if len(some) == 1:
                some[0].done.set_exception(error)
                return
            log.debug("a batch of %d failed, its parts are tried by themselves: %s", len(images), error)
            for image, its in zip(images, pixels, strict=True):
                image.pixels, image.vector = its, None
            for unit in some:
                self._run([unit])
        else:
            for unit in some:
                unit.done.set_result(unit.answer)
