"""`clipzs serve` as a real process: where it listens, who may come, and how it stops."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from test_serve import CAT, image, wait_until

from clipzs import servernotes

PATIENCE_S = 60
SERVE = (sys.executable, "-m", "clipzs", "serve", "--model", "tiny")


@contextmanager
def started(
    *arguments: object, command: tuple[str, ...] = SERVE, **environment: str
) -> Iterator["tuple[subprocess.Popen[bytes], servernotes.Note]"]:
    """A server, and the note that it leaves."""
    notes = servernotes.folder(Path(os.environ["CLIPZS_CACHE_DIR"]))
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],
    ) as process:
        try:
            found: list[servernotes.Note] = []

            def listens() -> bool:
                assert process.poll() is None, process.communicate()
                found[:] = [note for note in servernotes.running(notes) if note.pid == process.pid]
                return bool(found)

            wait_until(listens)
            yield process, found[0]
        finally:
            with suppress(OSError):
                process.kill()


def port_of(note: servernotes.Note) -> int:
    return int(note.url.rpartition(":")[2])


def line_of(connection: socket.socket, held: bytearray) -> bytes:
    """The next line of an answer in chunks, without what parts them."""
    while True:
        line, end, rest = bytes(held).partition(b"\n")
        if end:
            held[:] = rest
            if line.startswith(b"{"):
                return line
            continue
        some = connection.recv(65536)
        assert some, bytes(held)
        held += some


def test_stopped_in_the_middle_it_answers_what_it_accepted_and_nothing_else():
    question = json.dumps({"labels": ["cat", "rocket"]}).encode()
    whole = json.dumps({"labels": ["cat", "rocket"], "images": [image(CAT)]}).encode()
    line = json.dumps(image(CAT)).encode()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/"
    with started("--port", "0", "--host", "localhost") as (process, note):
        address = ("localhost", port_of(note))
        assert note.url == f"http://localhost:{address[1]}"
        (file,) = servernotes.folder(Path(os.environ["CLIPZS_CACHE_DIR"])).iterdir()
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
        with (
            closing(socket.create_connection(address, PATIENCE_S)) as stream,
            closing(socket.create_connection(address, PATIENCE_S)) as half,
        ):
            stream.sendall(head + b"x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            for some in (question, line):
                stream.sendall(f"{len(some) + 1:x}\r\n".encode() + some + b"\n\r\n")
            held = bytearray()
            assert json.loads(line_of(stream, held))["error"] is None
            half.sendall(head + f"json\r\nContent-Length: {len(whole)}\r\n\r\n".encode() + whole[:1000])
            with closing(HTTPConnection(*address, timeout=PATIENCE_S)) as asked:
                asked.request("GET", "/metrics")
                assert b"clipzs_requests_active 3.0" in asked.getresponse().read()
                process.send_signal(signal.SIGTERM)
                wait_until(lambda: refuses(address))
            last = json.loads(line_of(stream, held))
            assert last == {"error": "the server is stopping", "hint": "ask the one that takes its place"}
            half.sendall(whole[1000:])
            received = b""
            while some := half.recv(65536):
                received += some
            answer_head, _, body = received.partition(b"\r\n\r\n")
            assert answer_head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["results"][0]["error"] is None
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output, errors.decode().splitlines()) == (
        0,
        b"",
        [f"note: listening at {note.url}", "note: stopping: what was accepted is answered; once more ends it at once"],
    )
    assert not file.exists()


def refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_with_torch_in_memory_that_nothing_needs_it_starts_again_without(tmp_path):
    """As after the first start with a model, which is compiled by torch then."""
    starts = tmp_path / "starts"
    code = (
        f"import sys, pathlib; starts = pathlib.Path({str(starts)!r})\n"
        "if not starts.exists(): import torch\n"
        "with starts.open('a') as file: print('torch' in sys.modules, *sys.argv[1:3], file=file)\n"
        "from clipzs.cli import main; main()"
    )
    with started("--port", "0", "-q", command=(sys.executable, "-c", code, *SERVE[3:])) as (process, note):
        assert starts.read_text().splitlines() == ["True serve --model", "False serve --model"]
        with closing(HTTPConnection("127.0.0.1", port_of(note), timeout=PATIENCE_S)) as asked:
            asked.request("GET", "/health")
            assert json.load(asked.getresponse()) == {"status": "ok", "clipzs": note.version, "models": ["tiny"]}
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
    assert process.returncode == 0


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("whoever", timeout=PATIENCE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self.path))

    def asked(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        with closing(self):
            self.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **headers})
            response = self.getresponse()
            return response.status, json.loads(response.read())


def test_a_unix_socket_is_for_its_user_and_a_request_too_long_is_cut_off_at_the_end(run, tmp_path):
    path = tmp_path / "own" / "serve.sock"
    path.parent.mkdir(mode=0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    secret = {"CLIPZS_TOKEN": "a-long-enough-secret"}
    with started("--uds", path, "--grace", "1", "--labels", "cat,rocket", **secret) as (process, note):
        assert (note.url, note.token) == (f"unix:{path}", secret["CLIPZS_TOKEN"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert UnixConnection(path).asked("GET", "/v1/models")[0] == 401
        known = {"Authorization": f"Bearer {note.token}"}
        status, answer = UnixConnection(path).asked("POST", "/v1/classify", {"images": [image(CAT)]}, **known)
        assert (status, answer["results"][0]["label"] in ("cat", "rocket")) == (200, True)
        other = run("serve", "--model", "tiny", "--uds", path)
        assert (other.exit_code, other.stdout) == (1, "")
        assert other.stderr.splitlines() == [
            f"error: --uds {path}: a server answers there",
            "hint: stop it, or name another socket",
        ]
        with closing(socket.socket(socket.AF_UNIX)) as half:
            half.connect(str(path))
            head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {note.token}\r\n"
            half.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
            wait_until(lambda: b"clipzs_requests_active 2.0" in metrics(path, known))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert not path.exists()


def metrics(path: Path, headers: dict[str, str]) -> bytes:
    with closing(UnixConnection(path)) as connection:
        connection.request("GET", "/metrics", headers=headers)
        return connection.getresponse().read()


def refused(run: Any, *arguments: object, code: int = 2) -> str:
    result = run("serve", *arguments)
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, [line.partition(":")[0] for line in lines]) == (
        code,
        "",
        ["error", "hint"],
    )
    return str(lines[0]).removeprefix("error: ")


def test_what_is_wrong_at_the_start_is_one_line_and_a_hint(run, tmp_path, monkeypatch):
    tiny = ("--model", "tiny")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(run, *tiny, "--port", port, code=1) == f"127.0.0.1 port {port}: address already in use"
    assert refused(run, *tiny, "--host", "0.0.0.0") == "--host 0.0.0.0: other machines reach it, so it needs a token"
    assert "no such address" in refused(run, *tiny, "--host", "no.such.host.invalid")
    assert refused(run, "--model", "tinny", "--port", 0).startswith("unknown model 'tinny'")
    assert refused(run, *tiny, *tiny, "--port", 0) == "a model is named twice"
    assert refused(run, *tiny, "--port", 0, "--labels", "cat") == "only one label given: cat"
    assert refused(run, *tiny, "--max-body", "much") == "'much' is no size"
    assert refused(run, *tiny, "--port", 0, "--uds", tmp_path / "s").startswith("--uds takes the place")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    assert refused(run, *tiny, "--uds", tmp_path / "open" / "s", code=1).endswith("others can enter its folder")
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own" / "file").touch()
    assert refused(run, *tiny, "--uds", tmp_path / "own" / "file", code=1).endswith("something else of that name")
    assert "too many for the name of a socket" in refused(run, *tiny, "--uds", tmp_path / "own" / ("s" * 110))
    (tmp_path / "token").write_text("short\n")
    assert "16 or more ASCII characters" in refused(run, *tiny, "--token-file", tmp_path / "token")
    assert "no such file" in refused(run, *tiny, "--token-file", tmp_path / "missing")
    monkeypatch.setenv("CLIPZS_TOKEN", "")
    assert "16 or more ASCII characters" in refused(run, *tiny)
    monkeypatch.delenv("CLIPZS_TOKEN")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused(run, *tiny) == "the server needs uvicorn"


def test_the_server_and_its_packages_are_imported_by_no_other_command():
    code = (
        "import sys; from clipzs.cli import app\n"
        f"try: app(['classify', {str(CAT)!r}, '--labels', 'a,b', '--model', 'tiny'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
