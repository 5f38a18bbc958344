"""How many processors this process may use."""

import os

_bound: int | None = None


def bound(number: int) -> None:
    """Use no more than so many: the others of this machine are others'. To be called before there is a model."""
    global _bound
    _bound = number


def count() -> int:
    """Processors this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return there if _bound is None else min(there, _bound)
