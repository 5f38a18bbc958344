"""Whole processes: how long, how much memory, how much was read, and what was printed."""

import contextlib
import ctypes
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SURROUNDINGS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
SAMPLING_S = 0.5
PATIENCE_S = 300.0  # with what a command left running
_BECOME_SUBREAPER = 36  # Linux: PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: from its start to its end.
        megabytes: peak resident memory; of workers too, where they were watched.
        read_megabytes: bytes it asked the system to read, from files and pipes; mapped files do not count.
        after_seconds: what it left running behind its answer; waited for before the next measurement.
        output: its standard output.
    """

    seconds: float
    megabytes: float
    read_megabytes: float
    after_seconds: float
    output: str


def run(command: Sequence[str], *, watch_workers: bool = False, status: int = 0, limit_s: float = 1800) -> Measured:
    """Run a command to its end.

    Args:
        command: program and arguments.
        watch_workers: look twice a second how much memory it and its children use together, shared pages counted once.
        status: the exit status it should have; the benchmark stops at any other.
        limit_s: a command that takes longer is killed, and the benchmark stops.
    """
    _adopt_orphans()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as problems:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=problems, cwd=ROOT, env={**os.environ, **SURROUNDINGS}
        )
        killer = threading.Timer(limit_s, process.kill)
        killer.start()
        watcher = _Watcher(process.pid)
        if watch_workers:
            watcher.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - start
        killer.cancel()
        watcher.ended.set()
        read = _bytes_read(process.pid)
        _, wait_status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(wait_status)
        if process.returncode != status:
            problems.seek(0)
            last_words = problems.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"failed with {process.returncode}: {' '.join(command)[:600]}\n{last_words}")
        after = _wait_for_the_rest()
        output.seek(0)
        return Measured(
            seconds,
            max(usage.ru_maxrss / 1024, watcher.peak),
            read / 1e6,
            after,
            output.read().decode(errors="replace"),
        )


class _Watcher(threading.Thread):
    """Peak of the memory of a process and its descendants together, in megabytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLING_S):
            self.peak = max(self.peak, sum(_proportional_kb(pid) for pid in _family(self.pid)) / 1024)


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(member for child in children for member in _family(int(child)))]
    return [pid]


def _proportional_kb(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def _bytes_read(pid: int) -> int:
    """Of a process that has ended and was not yet collected."""
    with contextlib.suppress(OSError, ValueError):
        facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(facts["rchar"])
    return 0


def _adopt_orphans() -> None:
    """Let processes that a command leaves behind become ours, so that they can be waited for."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)


def _wait_for_the_rest() -> float:
    """Processes that the command started and did not wait for."""
    start = time.perf_counter()
    with contextlib.suppress(ChildProcessError):
        while time.perf_counter() - start < PATIENCE_S:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
    return time.perf_counter() - start
