"""A Ray cluster: one of one's own on this machine, or one that is there; and how it is divided among workers."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipzs import processors
from clipzs.errors import ClipzsError, UsageProblem

LOCAL, AUTO = "local", "auto"  # addresses: of a cluster of one's own, of one that Ray finds
CPUS = 4  # of a worker without a GPU: more processes on the same cores need more memory, fewer leave cores idle
CONNECT_S = 5.0
_OBJECTS = 100_000_000  # bytes for what Ray passes between processes: here a line for each part
_LONGEST = 40  # characters of a folder in which the names of Ray's sockets are short enough for the system
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # how a client of gRPC greets: the preface, no settings
_SETTINGS = 4  # the type of the frame that answers it
_HINT = (
    "an address is HOST:PORT, as `ray start --head` says it on the first machine; auto finds a cluster on this machine "
    "or in RAY_ADDRESS; local starts one"
)

log = logging.getLogger("clipzs")


@dataclass(frozen=True)
class Node:
    """What Ray may use of a machine: processors and GPUs."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Share:
    """How a cluster is divided among workers.

    Attributes:
        workers: how many.
        cpus: processors of each.
        gpus: of each; below 1, several have one GPU together.
    """

    workers: int
    cpus: int
    gpus: float


def shared(nodes: Sequence[Node], workers: int | None, gpus: float | None, *, device: str = "auto") -> Share:
    """Divide a cluster among workers, each of which has to fit onto one machine: Ray waits for ever for what does not.

    Args:
        nodes: the machines.
        workers: how many are wanted; None is one for each GPU or share of it, without GPUs one for four processors.
        gpus: of each, at most 1; None is a whole one, where there are some.
        device: what is to compute.

    Raises:
        UsageProblem: they do not fit.
    """
    there = sum(node.gpus for node in nodes)
    if gpus is None:
        gpus = 1.0 if there and device != "cpu" else 0.0
    if gpus > 1:
        raise UsageProblem(f"--gpus-per-worker {gpus:g}: a worker computes on one GPU", hint="give 1, or a part of it")
    if gpus and not there:
        raise UsageProblem("there is no GPU in the Ray cluster", hint="leave --gpus-per-worker out")
    each = gpus

    def room(cpus: int) -> int:
        """How many workers of so many processors fit."""
        return sum(int(min(node.cpus // cpus, _seats(node, each))) for node in nodes)

    usual = min([CPUS, *(int(node.cpus) for node in nodes if node.cpus >= 1)])
    wanted = workers or room(1 if gpus else usual)
    if not 0 < wanted <= room(1):
        of_each = f"one CPU{f' and {gpus:g} GPU' if gpus else ''} for each"
        there_is = f"{sum(node.cpus for node in nodes):g} CPUs{f' and {there:g} GPUs' if gpus else ''}"
        raise UsageProblem(
            f"{f'{workers} workers do not fit: ' if workers else ''}the Ray cluster has room for {room(1)} "
            f"({there_is} on {len(nodes)} machine{'s' * (len(nodes) != 1)}; {of_each})",
            hint="ask for fewer with --workers, or add machines first: Ray would wait for them without a word",
        )
    most = usual if not (workers or gpus) else max(int(node.cpus) for node in nodes)
    return Share(wanted, max(cpus for cpus in range(1, most + 1) if room(cpus) >= wanted), gpus)


def _seats(node: Node, gpus: float) -> float:
    """For how many workers its GPUs are enough: nobody has parts of two."""
    return node.gpus * int(1 / gpus + 1e-9) if gpus else float("inf")


@contextmanager
def cluster(address: str, workers: int | None) -> Iterator[Any]:
    """Ray's package, connected; whatever Ray says meanwhile goes nowhere or, if log messages are wanted, to stderr.

    Args:
        address: HOST:PORT of a cluster, "auto", or "local" for one that lasts as long as the block.
        workers: how many a cluster of one's own has to have room for.

    Raises:
        UsageProblem: Ray is not installed, or there is no cluster.
        ClipzsError: one of one's own cannot be started.
    """
    local = address == LOCAL
    if not local:
        _check_reachable(address)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if local:
            stack.enter_context(_settings())
        try:
            import ray
        except ImportError as error:
            raise UsageProblem("--ray needs Ray", hint="pip install 'clipzs[ray]'") from error
        level = logging.INFO if _verbose() else logging.CRITICAL
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": level}
        if local:
            how |= {
                "num_cpus": max(processors.count(), (workers or 0) + 2),
                "include_dashboard": False,
                "object_store_memory": _OBJECTS,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": stack.enter_context(_private_folder()),
            }
        if threading.current_thread() is threading.main_thread():  # where Ray answers SIGTERM itself
            stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        stack.callback(ray.shutdown)
        try:
            ray.init(address=address, **how)
        except Exception as error:  # of no kind in common
            raise _problem(address, error) from error
        yield ray


def _problem(address: str, error: Exception) -> ClipzsError:
    """What kept Ray from being started or connected, in a line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__  # what Ray says first is only that it could not
    said = " ".join(str(cause).split()) or type(cause).__name__
    if address == LOCAL:
        return ClipzsError(f"Ray cannot be started: {said}", hint="--verbose shows what Ray says")
    refused = f"--ray {address}: no connection to the Ray cluster"
    if "InvalidAuthToken" in said:
        token = "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH of that cluster"  # noqa: S105
        return UsageProblem(f"{refused}: it has another token", hint=f"set {token}")
    return UsageProblem(f"{refused}: {said}", hint=_HINT)


def nodes(ray: Any, address: str, workers: int | None) -> list[Node]:
    """The machines of a connected cluster that have processors for workers.

    Args:
        ray: as of `cluster`, with the same address and workers.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A cluster of one's own was told of more processors than there are, to spare Ray the wait for one that is free.
    most = max(processors.count(), workers or 0) if address == LOCAL else float("inf")
    return [Node(min(one["CPU"], most), one.get("GPU", 0.0)) for one in alive if one.get("CPU")]


def _check_reachable(address: str) -> None:
    """See that somebody answers: Ray itself takes more than a minute, and cannot be interrupted then.

    Raises:
        UsageProblem: nobody does, or something else than Ray.
    """
    if "://" in address:
        raise UsageProblem(
            f"--ray {address}: clipzs has to run on a machine of the cluster",
            hint="run it there with --ray auto, or submit it: ray job submit -- clipzs batch … --ray auto",
        )
    place = address
    if address == AUTO:
        place = os.environ.get("RAY_ADDRESS", "")
        with suppress(OSError):
            place = place or Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/ray_current_cluster").read_text().strip()  # noqa: S108
        if not place or "://" in place:
            return  # Ray finds it, or says at once that there is none
    host, _, port = place.rpartition(":")
    if not (host and port.isdecimal()):
        raise UsageProblem(f"--ray {address}: no address", hint=_HINT)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.settimeout(CONNECT_S)
            connection.sendall(_HTTP2)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UsageProblem(f"--ray {address}: no Ray cluster at {place}: {error}", hint=_HINT) from error
    if answer[3:4] != bytes([_SETTINGS]):
        raise UsageProblem(f"--ray {address}: what answers at {place} is no Ray cluster", hint=_HINT)


@contextmanager
def _settings() -> Iterator[None]:
    """For a cluster of one's own: it tells nobody about itself, and has a token of its own unless there is another.

    It listens on all addresses, and Ray's own token would be kept where other users of the machine may read it.
    """
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)


@contextmanager
def _private_folder() -> Iterator[str]:
    """Where a cluster of one's own keeps its sockets and logs: /tmp/ray is a name that others can take first."""
    base = tempfile.gettempdir()
    if os.name != "nt" and len(base) > _LONGEST:
        base = "/tmp"  # noqa: S108  # only as the place of a folder with a name of its own
    folder = tempfile.mkdtemp(prefix="clipzs-ray-", dir=base)
    try:
        yield os.path.join(folder, "r")  # Ray lets everybody into its own folder, but nobody gets there
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verbose() -> bool:
    return log.isEnabledFor(logging.DEBUG)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what Ray prints, warns of and logs reaches standard output, nor standard error unless it is wanted.

    Parts of it come from code that knows neither Python's streams nor its warnings.
    """
    with ExitStack() as stack:
        if _verbose():
            stack.enter_context(redirect_stdout(sys.stderr))
            yield
            return
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_descriptor_to(nowhere.fileno()))
        yield


@contextmanager
def _descriptor_to(target: int) -> Iterator[None]:
    """The second descriptor leads elsewhere; Python's own standard error stays where it was."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    before: Any = None
    with suppress(OSError, ValueError, AttributeError):
        if sys.stderr.fileno() == 2:
            before = sys.stderr
            before.flush()
            sys.stderr = open(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)  # noqa: SIM115
    os.dup2(target, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        if before is not None:
            sys.stderr.flush()
            sys.stderr = before
        os.close(kept)
