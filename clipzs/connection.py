"""One kept connection to a server of clipzs, over TCP or a Unix socket: requests out, whole answers in, within a time.

It goes through no proxy and follows no redirection: what it is told to reach is what it reaches.
"""

import http.client
import json
import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from clipzs import __version__
from clipzs.errors import NoAnswer, ServerProblem, UsageProblem

log = logging.getLogger("clipzs")

UNIX = "unix:"
CONNECT_S = 5.0  # to be let in
DESCRIBE_S = 15.0  # to be told what there is
ANSWER_S = 600.0  # for anything else: the model may be slow, and others before us
PATIENCE_S = 900.0  # with a server that is busy
LONGEST_PAUSE_S = 30.0  # between two tries, whatever it asks for
_NOBODY = (502, 503, 504)  # what a server says that is stopping, or a proxy in front of none
_LEAST = 100_000  # bytes that any answer may have: it may say why it is none
_FORM = f"write http://HOST:PORT, https://HOST or {UNIX}PATH"
_NOT_CLIPZS = "start one with `clipzs serve`, which says where it listens"

Body = bytes | memoryview


@dataclass(frozen=True)
class _Address:
    """Where a server is.

    Attributes:
        host: its name, with port; "localhost" of a socket.
        secure: whether it speaks TLS.
        socket: path of a Unix socket; None for TCP.
        prefix: of the paths of all requests.
    """

    host: str
    secure: bool = False
    socket: str | None = None
    prefix: str = ""


def parsed(address: str) -> _Address:
    """An address as the user writes it.

    Raises:
        UsageProblem: it is none.
    """
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX).removeprefix("//")
        if not path or not hasattr(socket, "AF_UNIX"):
            raise UsageProblem(f"--server {address}: there is no such socket here", hint=_FORM)
        return _Address("localhost", socket=path)
    try:
        parts = urlsplit(address)
        known, _ = parts.scheme in ("http", "https") and parts.hostname, parts.port
    except ValueError:
        known = None
    if not known or parts.query or parts.fragment or not (address.isascii() and address.isprintable()):
        raise UsageProblem(f"--server {address}: not the address of a server", hint=_FORM)
    if "@" in parts.netloc:
        raise UsageProblem("--server: no password belongs in an address", hint="set the token as CLIPZS_TOKEN")
    return _Address(parts.netloc, parts.scheme == "https", prefix=parts.path.rstrip("/"))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Connection:
    """To one server; for one thread at a time. Closed when nobody holds it any more.

    Attributes:
        address: as the user wrote it.
    """

    _kept: http.client.HTTPConnection | None = None

    def __init__(self, address: str, token: str | None) -> None:
        """Nothing is connected yet.

        Args:
            address: `http://…`, `https://…` or `unix:PATH`.
            token: that the server asks for.

        Raises:
            UsageProblem: the address is none, or the token is no text for a header.
        """
        self.address = address
        self._where = parsed(address)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UsageProblem(
                "the token in CLIPZS_TOKEN has other than printable characters", hint="check for a newline"
            )
        self._headers = {"User-Agent": f"clipzs/{__version__}", "Host": self._where.host}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._said_busy = False

    def get(self, path: str, *, most: int) -> Any:
        """The JSON at a path.

        Args:
            path: from "/" on.
            most: bytes of the answer.

        Raises:
            NoAnswer: nobody answers, or too late.
            ServerProblem: it refuses, or is no clipzs.
        """
        return self._json(self._answer("GET", path, b"", "", most, DESCRIBE_S))

    def post_json(self, path: str, document: Any, *, most: int) -> Any:
        """The JSON that answers JSON; arguments and errors as of `get`."""
        content = json.dumps(document).encode("ascii")
        return self._json(self._answer("POST", path, content, "application/json", most, ANSWER_S))

    def post(self, path: str, content: Body, *, most: int) -> bytes:
        """The bytes that answer bytes; arguments and errors as of `get`."""
        return self._answer("POST", path, content, "application/octet-stream", most, ANSWER_S)

    def __del__(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def strange(self, why: str) -> ServerProblem:
        """What is raised where the answer is none of clipzs'."""
        return ServerProblem(f"{self.address} is no server of clipzs: {why}", hint=_NOT_CLIPZS)

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.strange("its answer is not JSON") from error

    def _answer(self, method: str, path: str, content: Body, type_: str, most: int, within: float) -> bytes:
        """As `get`; tries again while the server says that it is busy."""
        until = time.monotonic() + PATIENCE_S
        while True:
            status, headers, body = self._exchanged(method, path, content, type_, most, within)
            if status == 200:
                return body
            if status == 429 and time.monotonic() < until:
                if not self._said_busy:
                    log.warning("%s is busy: waiting", self.address)
                    self._said_busy = True
                time.sleep(_pause(headers.get("Retry-After")))
                continue
            raise self._refused(status, body)

    def _refused(self, status: int, body: bytes) -> Exception:
        try:
            said = json.loads(body)
            reason, hint = str(said["error"]), said.get("hint")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if status in _NOBODY:
                return NoAnswer(f"{self.address}: nobody behind it answers (status {status})")
            return self.strange(f"it answers with status {status}")
        if status in (408, 429, *_NOBODY):
            return NoAnswer(f"{self.address}: {_short(reason)}")
        if status == 401:
            hint = "set the token of the server as CLIPZS_TOKEN"
        return ServerProblem(f"{self.address}: {_short(reason)}", hint=_short(hint) if isinstance(hint, str) else None)

    def _exchanged(
        self, method: str, path: str, content: Body, type_: str, most: int, within: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request and its answer; once more if the server has closed a connection that was kept."""
        headers = self._headers | ({"Content-Type": type_} if type_ else {})
        most = max(most, _LEAST)
        kept = self._kept is not None
        connection = self._kept or self._connected()
        self._kept = None
        try:
            with _Limit(connection, within) as limit:
                connection.request(method, self._where.prefix + path, content or None, headers)
                response = connection.getresponse()
                body = response.read(most + 1)
            if len(body) > most:
                raise self.strange("its answer is too long")
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if limit.over:
                raise NoAnswer(f"{self.address} does not answer within {within:g} s") from error
            if isinstance(error, http.client.HTTPException) and not isinstance(
                error, (http.client.IncompleteRead, http.client.RemoteDisconnected)
            ):
                raise self.strange("it does not speak HTTP") from error
            if kept:
                return self._exchanged(method, path, content, type_, most, within)
            raise NoAnswer(f"{self.address} gives no answer") from error
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._kept = connection
        return response.status, response.headers, body

    def _connected(self) -> http.client.HTTPConnection:
        where = self._where
        connection: http.client.HTTPConnection
        try:
            if where.socket is not None:
                connection = _UnixConnection(where.socket, timeout=CONNECT_S)
            elif where.secure:
                connection = http.client.HTTPSConnection(where.host, timeout=CONNECT_S)
            else:
                connection = http.client.HTTPConnection(where.host, timeout=CONNECT_S)
            connection.connect()
        except ssl.SSLError as error:
            raise ServerProblem(
                f"{self.address}: no secure connection: {_short(error.reason or str(error))}",
                hint="a server without a certificate is reached with http://",
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise NoAnswer(f"{self.address} cannot be reached: {_short(why or str(error))}") from error
        connection.sock.settimeout(None)
        return connection


class _Limit:
    """In a `with` block, seconds for all of it, however slowly the other side trickles: then its connection is cut.

    Attributes:
        over: whether it was.
    """

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.over = False
        self._socket = connection.sock
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "_Limit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.over = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _pause(asked: str | None) -> float:
    """Seconds to wait before the next try."""
    try:
        return min(max(float(asked or 1), 0.05), LONGEST_PAUSE_S)
    except ValueError:  # a date
        return 1.0


def _short(text: str) -> str:
    """One line of what another machine says."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]}…"
