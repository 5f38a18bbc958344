"""Batches of work, in order, a bounded way ahead, and over when the reader is."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipzs.stream import batches


class Counted:
    """A source that knows how far it was read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.length):
            self.taken += 1
            yield number


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "clipzs-feed"]


def settled(value: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + seconds
    while not value() and time.monotonic() < end:
        time.sleep(0.01)
    return value()


def collect(running: Iterator[list[Any]], got: list[Any]) -> None:
    for batch in running:
        got += batch


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 40), size=st.integers(1, 9), live=st.booleans())
def test_every_item_comes_out_once_and_in_order_in_batches_of_the_size(length, size, live):
    found = list(batches(range(length), lambda item: item * item, size=size, live=live))
    assert [one for batch in found for one in batch] == [item * item for item in range(length)]
    assert all(1 <= len(batch) <= size for batch in found)
    if not live:
        assert all(len(batch) == size for batch in found[:-1])


def test_slow_items_do_not_lose_their_place():
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item

    assert [one for batch in batches(range(30), work, size=4) for one in batch] == list(range(30))


def test_the_source_is_read_no_more_than_four_batches_ahead():
    source = Counted(1000)
    running = batches(source, lambda item: item, size=8)
    for handed_over in range(8, 80, 8):
        next(running)
        time.sleep(0.02)
        assert source.taken <= handed_over + 4 * 8
    running.close()


def test_work_is_done_on_several_threads_at_once():
    together = threading.Barrier(2, timeout=10)

    def work(item: int) -> int:
        together.wait()
        return item

    assert list(batches(range(4), work, size=4)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("live", [False, True])
def test_a_failing_source_is_raised_after_what_came_before(live):
    def source() -> Iterator[int]:
        yield from range(5)
        raise KeyError("the list broke")

    running = batches(source(), lambda item: item, size=3, live=live)
    got: list[int] = []
    with pytest.raises(KeyError, match="the list broke"):
        collect(running, got)
    assert got == [0, 1, 2, 3, 4]
    assert settled(lambda: not feeders())


def test_failing_work_is_raised_after_what_came_before():
    got: list[float] = []
    with pytest.raises(ZeroDivisionError):
        collect(batches([1, 2, 4, 5, 0, 8], lambda item: 1 / item, size=3), got)
    assert got == [1, 0.5, 0.25, 0.2]
    assert settled(lambda: not feeders())


def test_a_live_source_that_waits_holds_no_result_back():
    given: queue.Queue[int | None] = queue.Queue()
    running = batches(iter(given.get, None), lambda item: item, size=100, live=True)
    given.put(1)
    assert next(running) == [1]
    given.put(2)
    assert next(running) == [2]
    given.put(None)
    assert list(running) == []


def test_closing_stops_the_feeder_at_once_and_reads_no_further():
    source = Counted(1_000_000)
    running = batches(source, lambda item: item, size=2)
    next(running)
    running.close()
    assert settled(lambda: not feeders())
    assert source.taken <= 2 + 4 * 2
