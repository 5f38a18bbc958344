"""Work done on threads a little ahead of its reader, handed over in batches and in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

LINGER_S = 0.05  # how long a batch that is not full waits for more
KNOWN_AT_ONCE = 1024  # results that cost no work in one batch
WAITING_BYTES = 512_000_000  # of items in memory that wait to be worked on
THREADS = min(32, (os.cpu_count() or 1) + 2)


def batches(
    items: Iterable[Item],
    work: Callable[[Item], Done],
    *,
    size: int,
    window: int | None = None,
    live: bool = False,
    known: Callable[[Sequence[Item]], Sequence[Done | None]] = lambda items: [None] * len(items),
    weigh: Callable[[Item], int] = lambda item: 0,
    threads: int = THREADS,
) -> Generator[list[Done], None, None]:
    """What becomes of every item, in order, in lists with at most `size` results of work.

    Items are read at most four batches ahead. An exception of `work` or of `items` is raised here, in its place.

    Args:
        items: consumed on a thread of its own, so that slow sources and slow models overlap.
        work: runs on several threads at once.
        size: results of work in a list.
        window: how many are worked on, or done, before they are asked for; None is two lists.
        live: hand over what is there instead of waiting for a full list.
        known: results that cost no work, None for the other items. A list may hold `KNOWN_AT_ONCE` of them.
        weigh: bytes of memory that an item takes until it is worked on.
        threads: how many work.
    """
    source = _Source(items, weigh)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clipzs-decode")
    try:
        line = _Line(source, pool, work, known, size=size, window=window or 2 * size)
        while line.fill(live=live):
            batch, failure = line.take()
            if batch:
                yield batch
            if failure is not None:
                raise failure
        if source.failure is not None:
            raise source.failure
    finally:
        source.stop()
        pool.shutdown(wait=False, cancel_futures=True)


class _Source(Generic[Item]):
    """Items, read ahead on a thread."""

    def __init__(self, items: Iterable[Item], weigh: Callable[[Item], int]) -> None:
        self.failure: BaseException | None = None
        self._weigh = weigh
        self._changed = threading.Condition()
        self._read: deque[tuple[Item, int]] = deque()
        self._room = self._least = 1
        self._bytes = 0  # of what was read and not yet worked on
        self._ended = self._stopped = False
        threading.Thread(target=self._feed, args=(items,), name="clipzs-feed", daemon=True).start()

    def _feed(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                weight = self._weigh(item)
                with self._changed:
                    self._read.append((item, weight))
                    self._bytes += weight
                    if self._enough():
                        self._changed.notify_all()
                    while not self._stopped and (len(self._read) >= self._room or self._bytes >= WAITING_BYTES):
                        self._changed.wait()
                    if self._stopped:
                        return
        except BaseException as error:
            self.failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self, most: int, *, least: int, timeout: float | None) -> list[tuple[Item, int]]:
        """Up to `most` items with their weights, once there are `least` or no more will come.

        When the time is over, those that are there; without a time, at least one.
        """
        with self._changed:
            self._room, self._least = 2 * most, least
            self._changed.notify_all()
            self._changed.wait_for(self._enough, LINGER_S if timeout is None else timeout)
            if timeout is None:
                self._least = 1
                self._changed.wait_for(lambda: self._read or self._ended)
            some = [self._read.popleft() for _ in range(min(most, len(self._read)))]
            self._changed.notify_all()
        return some

    def _enough(self) -> bool:
        return len(self._read) >= self._least or self._ended or self._bytes >= WAITING_BYTES

    def worked_on(self, weight: int) -> None:
        """An item of that weight takes no memory any more."""
        if weight:
            with self._changed:
                self._bytes -= weight
                self._changed.notify_all()

    def stop(self) -> None:
        """Read no further."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Line(Generic[Item, Done]):
    """Items on their way, in order: results that are known, and work that waits, runs or is done."""

    def __init__(
        self,
        source: _Source[Item],
        pool: ThreadPoolExecutor,
        work: Callable[[Item], Done],
        known: Callable[[Sequence[Item]], Sequence[Done | None]],
        *,
        size: int,
        window: int,
    ) -> None:
        self._source, self._pool, self._work, self._known = source, pool, work, known
        self._size, self._window = size, window
        self._at_once = size  # items looked up together: more while nearly all are known
        self._held: deque[Done | None] = deque()  # None: its turn in `_futures`, then `_waiting`
        self._futures: deque[Future[Done]] = deque()
        self._waiting: deque[tuple[Item, int]] = deque()

    def fill(self, *, live: bool) -> bool:
        """Look further ahead; waits only if there is not yet a batch. False at the end."""
        while self._unknown < 2 * self._size and len(self._held) < 2 * KNOWN_AT_ONCE:
            ready = self._unknown >= self._size or len(self._held) >= KNOWN_AT_ONCE
            patience = 0.0 if ready else LINGER_S if live and self._held else None
            wanted = self._at_once
            items = self._source.take(wanted, least=1 if live and not self._held else wanted, timeout=patience)
            if items:
                self._add(items)
            if not items or (patience is not None and len(items) < wanted):
                break
        return bool(self._held)

    @property
    def _unknown(self) -> int:
        return len(self._waiting) + len(self._futures)

    def _add(self, items: Sequence[tuple[Item, int]]) -> None:
        results = self._known([item for item, _ in items])
        unknown = [weighed for weighed, result in zip(items, results, strict=True) if result is None]
        self._held += results
        self._waiting += unknown
        few = 2 * len(unknown) < self._size
        self._at_once = min(2 * self._at_once, max(KNOWN_AT_ONCE, self._size)) if few else self._size
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._futures) < self._window:
            self._futures.append(self._pool.submit(self._one, *self._waiting.popleft()))

    def _one(self, item: Item, weight: int) -> Done:
        try:
            return self._work(item)
        finally:
            self._source.worked_on(weight)

    def take(self) -> tuple[list[Done], BaseException | None]:
        """The next batch, up to a failure if there is one."""
        batch: list[Done] = []
        worked = 0
        while self._held and len(batch) < max(KNOWN_AT_ONCE, self._size):
            result = self._held[0]
            if result is None:
                if worked == self._size:
                    break
                future = self._futures.popleft()
                failure = future.exception()
                if failure is not None:
                    return batch, failure
                result, worked = future.result(), worked + 1
                self._start()
            self._held.popleft()
            batch.append(result)
        return batch, None
