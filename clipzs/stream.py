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
    futures: queue.SimpleQueue[Future[Done] | None] = queue.SimpleQueue()
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
            failed: Future[Done] = Future()
            failed.set_exception(error)
            futures.put(failed)
        futures.put(None)

    threading.Thread(target=feed, name="clipzs-feed", daemon=True).start()
    try:
        ended = False
        while not ended:
            batch: list[Done] = []
            failure: BaseException | None = None
            while len(batch) < size and not ended:
                try:
                    future = futures.get(timeout=LINGER_S if live and batch else None)
                except queue.Empty:
                    break
                failure = future.exception() if future else None
                if future is None or failure is not None:
                    ended = True
                else:
                    batch.append(future.result())
                    window.release()
            if batch:
                yield batch
            if failure is not None:
                raise failure
    finally:
        stopped.set()
        window.release()
        pool.shutdown(wait=False, cancel_futures=True)
