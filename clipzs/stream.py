"""Images decoded on threads a little ahead of the model, handed over in batches and in order."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

LINGER_S = 0.05  # how long a live source may hold back a batch that is not full


def batches(
    items: Iterable[Item], work: Callable[[Item], Done], *, size: int, live: bool = False
) -> Iterator[list[Done]]:
    """`work` done on every item, in order, in lists of `size` (the last may be shorter).

    At most two batches are held at a time beyond the one handed over. An exception of `work` or of
    `items` is raised here, in its place.

    Args:
        items: consumed on a thread of its own, so that slow sources and slow models overlap.
        work: runs on several threads at once.
        size: items in a batch.
        live: hand over what is there instead of waiting for a full batch.
    """
    window = threading.Semaphore(2 * size)
    futures: queue.SimpleQueue[Future[Done] | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 2), thread_name_prefix="clipzs-decode")

    def feed() -> None:
        try:
            for item in items:
                window.acquire()
                if stopped.is_set():
                    return
                futures.put(pool.submit(work, item))
        except BaseException as error:
            futures.put(error)
        futures.put(None)

    threading.Thread(target=feed, name="clipzs-feed", daemon=True).start()
    try:
        ended = False
        while not ended:
            batch: list[Done] = []
            while len(batch) < size:
                try:
                    future = futures.get(timeout=LINGER_S if live and batch else None)
                except queue.Empty:
                    break
                if future is None:
                    ended = True
                    break
                if isinstance(future, BaseException):
                    if batch:
                        yield batch
                    raise future
                batch.append(future.result())
                window.release()
            if batch:
                yield batch
    finally:
        stopped.set()
        window.release()
        pool.shutdown(wait=False, cancel_futures=True)
