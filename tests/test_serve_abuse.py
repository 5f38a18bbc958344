"""The service among clients that mean no good, or know no better: it neither fails nor stops answering the others."""

import base64
import contextlib
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from conftest import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from servers import started
from starlette.testclient import TestClient

from clipzs import Options
from clipzs.labels import Label
from clipzs.options import checked
from clipzs.serving import serve
from clipzs.serving.app import create_app
from clipzs.serving.limits import Limits
from clipzs.serving.measures import Measures
from clipzs.serving.models import ServedModel
from clipzs.serving.service import Service

PATIENCE_S = 60
QUIET_S = 1.0  # after which the server gives up a client that does nothing
thorough = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


# What the description of the API allows, and what it does not


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, shared_compiled: Path) -> Iterator[Any]:
    cache = tmp_path_factory.mktemp("served")
    (cache / "compiled").symlink_to(shared_compiled)
    measures = Measures()
    limits = Limits(body_bytes=100_000, image_bytes=50_000, images=5, labels=10, prompts=300, characters=200)
    model = ServedModel("tiny", checked(Options(model="tiny", cache_dir=cache)), measures)
    service = Service([model], measures, labels=[Label("cat"), Label("rocket")], limits=limits, local=False)
    service.start()
    yield create_app(service)
    service.close()


@schemathesis.serializer("application/x-ndjson")
def lines(context: object, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


OPERATIONS = [
    *(("GET", path) for path in ("/", "/health", "/metrics", "/v1/models")),
    *(("POST", path) for path in ("/v1/classify", "/v1/embed", "/v1/pixels", "/v1/labels", "/v1/explain")),
    *(("POST", path) for path in ("/", "/models/{model}")),
]


def test_every_operation_is_tried(app):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = [(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_api_describes_is_answered_as_it_is_described(app, method, path):
    """Status, content type and form of every answer; none is a failure of the server."""
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]

    @thorough
    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def ask(case):
        if isinstance(case.body, dict):
            case.body.pop("model", None)  # nearly all are unknown
        if case.query and len(case.query.get("model", "")) % 2:
            case.query["model"] = "tiny"
        case.call_and_validate(excluded_checks=[positive_data_acceptance])  # labels that are alike are refused

    ask()


@pytest.mark.parametrize("path", [path for method, path in OPERATIONS if method == "POST"])
def test_what_the_api_does_not_describe_is_refused_as_it_is_described(app, path):
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["POST"]

    @thorough
    @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def ask(case):
        case.call_and_validate()

    ask()


scalar = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=20)
several = scalar | st.lists(scalar, max_size=4)
anything = several | st.lists(several, max_size=4) | st.dictionaries(st.text(max_size=8), several, max_size=4)
a_cat = {"data": base64.b64encode((EXAMPLES / "cat.jpg").read_bytes()).decode()[:40_000]}
image = st.just(a_cat) | st.fixed_dictionaries({"data": st.text()}, optional={"name": st.text()})
labels = st.lists(st.text(max_size=9), max_size=4)
asked = st.fixed_dictionaries({}, optional={"labels": labels, "model": st.just("tiny"), "embeddings": st.booleans()})
line = st.one_of(image, image, asked, anything).map(json.dumps).map(str.encode) | st.binary(max_size=30)


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
def test_a_stream_of_anything_ends_in_order(app, path):
    """A line for each that was understood, and for the first that was not the reason: then no more."""
    client = TestClient(app)

    @thorough
    @given(asked, st.lists(line, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
    def ask(first, rest, end):
        content = end.join([json.dumps(first).encode(), *rest])
        answer = client.post(path, content=content, headers={"Content-Type": "application/x-ndjson"})
        found = [json.loads(one) for one in answer.content.splitlines()]
        if answer.status_code == 200:
            ended = [set(one) == {"error", "hint"} for one in found]
            assert not any(ended[:-1])
            assert len(found) <= sum(one.count(b"\n") + one.count(b"\r") + 1 for one in rest)
        else:
            assert answer.status_code in (400, 413, 422)
            assert set(*found) == {"error", "hint"}

    ask()


# What comes through a socket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_compiled: Path) -> Iterator[tuple[str, int]]:
    """Its HOST:PORT and its process; quick to give up."""
    cache = tmp_path_factory.mktemp("served")
    options = ("--max-idle", str(QUIET_S), "--max-seconds", "20", "--max-waiting", "8", "--max-images", "4",
               "--max-body", "2MB", "--labels", "cat,rocket", "--quiet")  # fmt: skip
    with started(cache, shared_compiled, *options) as (url, pid):
        yield urlsplit(url).netloc, pid


def connected(place: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side is done."""
    content = b""
    with suppress(ConnectionResetError):
        while some := connection.recv(65536):
            content += some
    return content


def asks_well(place: str) -> tuple[int, Any]:
    connection = HTTPConnection(place, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        body = json.dumps(
            {"images": [{"name": "cat", "data": base64.b64encode((EXAMPLES / "cat.jpg").read_bytes()).decode()}]}
        )
        connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FORM = HEAD.replace(b"application/json", b"multipart/form-data")
BODY = b'{"labels": ["cat", "rocket"], "images": [{"data": ""}]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
MALFORMED = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "another host": b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a strange host": b"GET /v1/models HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "a whole URL": b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a path that climbs": b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe%ff%00%2e%2e HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "endless headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 300_000 + b"\r\n\r\n",
    "a long path": b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header with a NUL": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length that is none": HEAD + b"Content-Length: many\r\n\r\n" + BODY,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + BODY,
    "an enormous length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
    "a length and chunks": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    "chunks that are none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "a chunk of endless size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 10_000,
    "chunks of another kind": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a body that is compressed": HEAD + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + BODY,
    "a body that ends too soon": HEAD + b"Content-Length: 5000\r\n\r\n" + BODY,
    "an upgrade": HEAD + LENGTH + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + BODY,
    "a promise": HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
    "JSON that is deep": HEAD + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
    "a number that is long": HEAD + b"Content-Length: 100000\r\n\r\n" + b"9" * 100_000,
    "a form without an end": FORM.replace(b"data", b"data; boundary=x") + LENGTH + b"\r\n" + BODY,
    "a form without a boundary": FORM + LENGTH + b"\r\n" + BODY,
    "a form of many parts": FORM.replace(b"data", b"data; boundary=x")
    + b"Content-Length: 1400000\r\n\r\n" + b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n" * 25_000,
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_gets_a_refusal_or_nothing(server, name):
    place, _ = server
    with connected(place) as connection:
        with suppress(OSError):
            connection.sendall(MALFORMED[name])
            connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    statuses = re.findall(rb"^HTTP/1\.1 (\d+) ", answer, re.MULTILINE)
    assert all(status.startswith((b"1", b"2", b"4")) for status in statuses), answer[:500]
    assert (statuses[-1:] == [b"200"]) <= (name in ("a folded header", "an upgrade", "a promise")), answer[:500]
    assert b"Traceback" not in answer


def test_requests_with_wrong_bytes_are_answered_or_refused(server):
    """One byte of a request in another place, twice, or another: as a broken proxy would send it."""
    place, _ = server
    draw = random.Random(0)
    right = HEAD + LENGTH + b"Connection: close\r\n\r\n" + BODY
    for _ in range(60):
        request = bytearray(right)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(request))
            request[at : at + draw.randint(0, 1)] = bytes([draw.randrange(256)] * draw.randint(0, 2))
        with connected(place) as connection:
            with suppress(OSError):
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            answer = received(connection)
        assert re.match(rb"HTTP/1\.1 [124]\d\d |$", answer), (bytes(request), answer[:300])


def test_answers_do_not_wait_for_more_to_send():
    """asyncio switches Nagle's algorithm off for sockets that say what they speak: 40 ms an answer."""
    with serve.bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def slowly(place: str, content: bytes) -> None:
    """A byte at a time."""
    with connected(place) as connection, suppress(OSError):
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(QUIET_S / 4)
        received(connection)


def never_reading(place: str) -> None:
    """Asks for more than the system holds for it, and does not read."""
    with socket.socket() as connection, suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = place.rpartition(":")
        connection.settimeout(PATIENCE_S)
        connection.connect((host, int(port)))
        for _ in range(3_000):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2 * QUIET_S)


def gone(place: str, content: bytes) -> None:
    """Leaves in the middle, by a reset."""
    with connected(place) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(content)


def test_bad_clients_cost_good_ones_nothing_and_leave_nothing_behind(server):
    place, pid = server
    status, expected = asks_well(place)
    assert status == 200
    picture = base64.b64encode((EXAMPLES / "rocket.jpg").read_bytes())
    stream = HEAD.replace(b"application/json", b"application/x-ndjson") + b"Content-Length: 1500000\r\n\r\n{}\n"
    stream += b'{"data": "%s"}\n' % picture
    whole = b'{"images": [{"data": "%s"}]}' % picture
    bad: list[Callable[[], None]] = [
        lambda: slowly(place, HEAD),
        lambda: slowly(place, HEAD + LENGTH + b"\r\n" + BODY),
        lambda: slowly(place, stream[-20:]),
        lambda: never_reading(place),
        lambda: gone(place, HEAD + b"Content-Length: %d\r\n\r\n" % len(whole) + whole),
        lambda: gone(place, HEAD + b"Content-Length: %d\r\n\r\n" % len(whole) + whole[:1000]),
        lambda: gone(place, stream),
        lambda: gone(place, HEAD),
    ]
    before = sockets(pid)
    threads = [threading.Thread(target=one, daemon=True) for one in bad * 5]
    for thread in threads:
        thread.start()
    answers = [asks_well(place) for _ in range(10)]
    assert [status for status, _ in answers if status not in (200, 429)] == []
    assert [answer for status, answer in answers if status == 200].count(expected) >= 5
    assert all(answer == expected for status, answer in answers if status == 200)
    end = time.monotonic() + PATIENCE_S
    while sockets(pid) > before or waiting(place):
        assert time.monotonic() < end, (before, sockets(pid), waiting(place))
        time.sleep(0.1)
    assert asks_well(place) == (200, expected)


def sockets(pid: int) -> int:
    """How many a process has open."""
    found = 0
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith("socket:")
    return found


def waiting(place: str) -> bool:
    """Whether the server still holds anything for others than the one who asks this."""
    connection = HTTPConnection(place, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        said = connection.getresponse().read().decode()
    names = ("waiting_images", "waiting_bytes", "requests_active")
    held = [float(*re.findall(rf"^clipzs_{name} (\S+)$", said, re.MULTILINE)) for name in names]
    return held != [0, 0, 1]
