"""The service at an address: where it listens, the note of it, and how it comes to its end."""

import errno
import ipaddress
import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from clipzs import servernotes
from clipzs.errors import SIGNALLED, ListenProblem, UsageProblem
from clipzs.privatefiles import make_folder
from clipzs.serving.protocol import protocol
from clipzs.serving.service import Service

log = logging.getLogger("clipzs")

BACKLOG = 512  # connections that the system holds until they are accepted
KEEP_ALIVE_S = 75.0  # that a connection may be without a request
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches an address.

    Raises:
        UsageProblem: there is no such address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageProblem(
            f"--host {host}: no such address", hint="127.0.0.1 is this machine, 0.0.0.0 all its addresses"
        ) from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, and does not listen yet.

    Raises:
        ListenProblem: it is taken, or none of this machine.
    """
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    found = socket.socket(family, kind, number)  # without it, asyncio leaves small answers waiting for an ACK, 40 ms
    try:
        if os.name == "posix":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        hint = "name another with --host"
        if error.errno == errno.EADDRINUSE:
            hint = "another server has it: name another --port, or 0 for any that is free"
        elif error.errno == errno.EACCES:
            hint = "ports below 1024 are the administrator's: name another with --port"
        raise ListenProblem(f"{host} port {port}: {(error.strerror or str(error)).lower()}", hint=hint) from error
    return found


def url_of(listener: socket.socket, host: str) -> str:
    """How clients on this machine write the address of a bound socket."""
    port = listener.getsockname()[1]
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        host = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def bound_path(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that only this user can reach, and that does not listen yet; gone at the end of the block.

    A socket that is there, and that nobody answers at, is replaced.

    Raises:
        ListenProblem: somebody answers there, others can enter its folder, or it cannot be made.
        UsageProblem: the path is too long for a socket, or there are none on this system.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise UsageProblem("--uds: this system has no Unix sockets", hint="use --host and --port")
    path = path.absolute()
    try:
        make_folder(path.parent)
        folder = path.parent.stat()
        if folder.st_uid != os.getuid() or stat.S_IMODE(folder.st_mode) & 0o077:
            raise ListenProblem(
                f"--uds {path}: others can enter its folder",
                hint=f"name a folder of your own, or: chmod 700 {path.parent}",
            )
        _make_way(path)
        found = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            found.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        if "too long" in str(error):
            raise UsageProblem(
                f"--uds {path}: {len(os.fsencode(path))} bytes are too many for the name of a socket",
                hint="name a shorter one: about 100 is the most",
            ) from error
        raise ListenProblem(f"--uds {path}: {(error.strerror or str(error)).lower()}") from error
    made = path.stat().st_ino
    try:
        yield found
    finally:
        found.close()
        with suppress(OSError):
            if path.stat().st_ino == made:
                path.unlink()


def _make_way(path: Path) -> None:
    """Delete a socket that nobody answers at."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenProblem(f"--uds {path}: there is something else of that name", hint="name another")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:
            pass
    raise ListenProblem(f"--uds {path}: a server answers there", hint="stop it, or name another socket")


def serve(
    app: FastAPI,
    service: Service,
    listener: socket.socket,
    *,
    url: str,
    notes: Path | None,
    ready: Callable[[], None],
    stopping: Callable[[], None],
) -> int:
    """Answer until a signal says that it is enough; then answer what was accepted.

    Args:
        app: the application.
        service: its service, that has been started; it is closed at the end.
        listener: a bound socket.
        url: how clients write its address.
        notes: the folder where the server is noted while it runs; None is nowhere.
        ready: called when it answers.
        stopping: called from the handler of the first signal; must not use stdio.

    Returns:
        The exit code: 0 if everything that was accepted was answered, otherwise 128 and the number of the signal.
    """
    config = uvicorn.Config(
        app,
        http=protocol(service.limits),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=service.limits.grace_seconds,
    )
    note: list[Path] = []

    def noted() -> None:
        if notes is not None:
            try:
                note.append(servernotes.leave(notes, url, service.token))
            except OSError as error:
                log.warning("no note of this server is left in %s: %s", notes, error.strerror or error)
        ready()

    server = _Server(config, service, noted, stopping)
    try:
        server.run(sockets=[listener])
    finally:
        for path in note:
            with suppress(OSError):
                path.unlink()
        service.close()
    return SIGNALLED + (server.signal or signal.SIGTERM) if server.unanswered else 0


class _Server(uvicorn.Server):
    """Stops at the first signal, in order; the second has the system's own meaning."""

    def __init__(
        self, config: uvicorn.Config, service: Service, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.signal: int | None = None
        self.unanswered = 0
        self._service, self._ready, self._stopping = service, ready, stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle them while the block runs; one that is ignored (`nohup`) stays so."""
        on_main = threading.current_thread() is threading.main_thread()
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (_SIGNALS if on_main else ())}
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Of the first signal."""
        self.signal, self.should_exit = sig, True
        for number in _SIGNALS:
            if signal.getsignal(number) == self.handle_exit:
                signal.signal(number, signal.SIG_DFL)
        self._stopping()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take on nothing more, and wait for what was."""
        self._service.stopping.set()
        await super().shutdown(sockets)
        self.unanswered = len(self.server_state.tasks)
