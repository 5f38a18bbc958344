"""Memory that runs out while a model computes: how it is known, and going on in smaller batches."""

import errno
import gc
import logging
import sys
from collections.abc import Callable

import numpy as np

from clipzs.errors import ModelError
from clipzs.score import Array

log = logging.getLogger("clipzs")

# As torch says it on GPUs, Apple GPUs and CPUs, its libraries (cuDNN also of batches too large for it), and OpenVINO.
_SIGNS = (
    "out of memory",
    "Invalid buffer size",
    "can't allocate memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "could not create a memory",
    "could not create a primitive",
    "bad_alloc",
    "bad allocation",
    "Failed to allocate",
    "can't alloc",
)


class OutOfMemory(ModelError):
    """What a model was given at once is too much for the memory there is."""

    def __init__(self, device: str) -> None:
        super().__init__(
            f"not enough memory on the device {device} to compute",
            hint="use a smaller model" if device == "cpu" else "use a smaller model, or --device cpu",
        )


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, whoever raised it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS)


class Halving:
    """Runs batches whole while the memory is enough, and in ever smaller pieces from when it is not."""

    def __init__(self, what: str, release: Callable[[], None]) -> None:
        """Set up.

        Args:
            what: the rows are, for people, e.g. "images".
            release: gives memory back that the device keeps for later.
        """
        self._what = what
        self._release = release
        self._most = sys.maxsize

    def __call__(self, work: Callable[[slice], Array], rows: int) -> Array:
        """float32 [rows, d], in order, by as few calls of `work` as the memory allows; the size that did is kept.

        Raises:
            OutOfMemory: it is not enough for one row.
        """
        parts: list[Array] = []
        done, smaller = 0, False
        while done < rows:
            size = min(self._most, rows - done)
            try:
                parts.append(work(slice(done, done + size)))
            except OutOfMemory as error:
                log.debug("%s: %s", error, error.__cause__)
                if size == 1:
                    raise
            else:
                done += size
                if smaller:
                    log.warning("out of memory: batch size %d for %s from now on", size, self._what)
                    smaller = False
                continue
            # Only here, where the error and with it all that was computed until then is gone.
            self._most, smaller = size // 2, True
            gc.collect()
            self._release()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
