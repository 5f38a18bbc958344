"""Real servers as processes, and a way to them with the faults that a test wants in between."""

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from clipzs import servernotes

PATIENCE_S = 60


@contextmanager
def started(cache: Path, compiled: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server of the embedded model with a cache of its own; its address and its process."""
    cache.mkdir(exist_ok=True)
    (cache / "compiled").symlink_to(compiled)
    command = [sys.executable, "-m", "clipzs", "serve", "--model", "tiny", "--port", "0", "--cache-dir", str(cache)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("CLIPZS_")}
    with subprocess.Popen([*command, *options], cwd=cache, env={**surroundings, "HF_HUB_OFFLINE": "1"}) as process:
        end = time.monotonic() + PATIENCE_S
        while not (notes := servernotes.running(servernotes.folder(cache))):
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.02)
        try:
            yield notes[0].url, process.pid
        finally:
            process.terminate()


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Relay", BaseHTTPRequestHandler, bytes], Answer | None]


class Relay(ThreadingHTTPServer):
    """Passes requests on to a server, unless `fault` answers, breaks the connection (`Broken`) or takes its time.

    Attributes:
        asked: paths, in order.
        connections: how many there were.
        fault: may be set at any time.
        address: for `--server`.
    """

    daemon_threads = True

    def __init__(self, target: str, fault: Fault | None = None, *, uds: Path | None = None) -> None:
        self.target, self.fault = target, fault
        self.asked: list[str] = []
        self.connections = 0
        self.ended = threading.Event()
        if uds is None:
            super().__init__(("127.0.0.1", 0), _Handler)
            self.address = f"http://127.0.0.1:{self.server_address[1]}"
        else:
            self.address_family = socket.AF_UNIX
            super().__init__(str(uds), _Handler)  # type: ignore[arg-type]
            self.address = f"unix:{uds}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        """Without what HTTPServer does, which takes any address for one of TCP."""
        socketserver.TCPServer.server_bind(self)

    def passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        """What the server answers."""
        there = HTTPConnection(urlsplit(self.target).netloc, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        there.request(request.command, request.path, body or None, headers)
        response = there.getresponse()
        answer = Answer(response.status, dict(response.headers), response.read())
        there.close()
        return answer

    def close(self) -> None:
        """Listen no more."""
        self.ended.set()
        self.shutdown()
        self.server_close()


class Broken(Exception):
    """The connection is closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append(self.path)
        try:
            answer = self.server.fault and self.server.fault(self.server, self, body)
            answer = answer or self.server.passed_on(self, body)
        except Broken:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: Any) -> None:
        pass
