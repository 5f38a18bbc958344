"""The service, asked as clients ask it: through a socket, many at once, and by such as mean no good."""

import base64
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from conftest import EXAMPLES
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from clipzs import Classifier, Options
from clipzs.embedder import Embedder
from clipzs.labels import Label
from clipzs.options import checked
from clipzs.pipeline import Prepared
from clipzs.serving import models
from clipzs.serving.app import create_app
from clipzs.serving.batching import ModelThread
from clipzs.serving.limits import Limits
from clipzs.serving.measures import Measures
from clipzs.serving.models import ServedModel
from clipzs.serving.protocol import protocol
from clipzs.serving.service import Service

PATIENCE_S = 60
LABELS = ["cat", "rocket", "a cup of coffee"]
CAT, COFFEE = (EXAMPLES / name for name in ("cat.jpg", "coffee.jpg"))
LINES = {"Content-Type": "application/x-ndjson"}


def wait_until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A service that listens, in this process."""

    def __init__(self, cache: Path, ids: tuple[str, ...] = ("tiny",), **settings: Any) -> None:
        measures = Measures()
        options = checked(Options(model="tiny", cache_dir=cache, image_cache=False))
        self.models = [ServedModel(name, options, measures) for name in ids]
        self.service = Service(self.models, measures, **settings)
        self.service.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            create_app(self.service), http=protocol(self.service.limits), lifespan="off", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        self.service.close()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Any:
        return self.send("GET", path, **headers).json

    def ask(self, path: str, document: Any, **headers: str) -> tuple[int, Any]:
        response = self.send("POST", path, json.dumps(document), Content_Type="application/json", **headers)
        return response.status, response.json

    def records(self, images: list[Any], labels: list[Any] | None = None, **more: Any) -> list[dict[str, Any]]:
        status, answer = self.ask("/v1/classify", {"labels": labels or LABELS, "images": images, **more})
        assert status == 200, answer
        return answer["results"]

    def stream(self, path: str, *lines: Any) -> list[dict[str, Any]]:
        response = self.send("POST", path, "\n".join(map(json.dumps, lines)), **{"Content_Type": LINES["Content-Type"]})
        assert response.status == 200, response.body
        return [json.loads(line) for line in response.body.splitlines()]

    def measured(self, name: str, **labels: str) -> float:
        text = self.send("GET", "/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model does nothing meanwhile."""
        go_on, stuck = threading.Event(), threading.Event()
        done = self.models[0].thread.call(lambda: (stuck.set(), go_on.wait(PATIENCE_S)))
        assert stuck.wait(PATIENCE_S)
        try:
            yield
        finally:
            go_on.set()
            done.result(PATIENCE_S)

    def at_once(self, *requests: Callable[[], Any]) -> list[Any]:
        """Results of requests that begin together; to be read when they have ended."""
        found: list[Any] = [None] * len(requests)

        def work(number: int) -> None:
            found[number] = requests[number]()

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(requests))]
        for thread in threads:
            thread.start()
        self.threads = threads
        return found

    def ended(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, shared_compiled: Path) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "compiled").symlink_to(shared_compiled)
    return folder


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[Running]:
    """For all tests that need no limits of their own."""
    running = Running(cache, ("tiny", "second"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def narrow(cache: Path) -> Iterator[Running]:
    """With little room, and a token."""
    limits = Limits(
        body_bytes=200_000,
        image_bytes=100_000,
        images=4,
        labels=5,
        prompts=50,
        characters=100,
        waiting_images=6,
        waiting_bytes=600_000,
    )
    running = Running(cache, limits=limits, labels=[Label("cat"), Label("rocket")])
    yield running
    running.close()


@pytest.fixture(scope="module")
def impatient(cache: Path) -> Iterator[Running]:
    running = Running(cache, limits=Limits(seconds=2.0, idle_seconds=0.5))
    yield running
    running.close()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def picture(number: int = 0, *, side: int = 16) -> bytes:
    """A small PNG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def image(content: bytes | Path, name: str | None = None) -> dict[str, str]:
    if isinstance(content, Path):
        content, name = content.read_bytes(), name or str(content)
    return {"data": base64_of(content), **({} if name is None else {"name": name})}


GROUPS = [{"name": "cat", "group": "animal > pet"}, {"name": "rocket", "group": ["thing"], "aliases": ["spacecraft"]},
          {"name": "cup", "prompts": ["a <> of coffee", "a mug"], "group": "thing"}]  # fmt: skip
QUESTIONS: dict[str, tuple[list[Any], dict[str, Any], list[str]]] = {
    "plain": (LABELS, {}, []),
    "prompts": (
        LABELS,
        {"templates": ["simple"], "template": ["art of <>"], "context": "at night"},
        ["-t", "simple", "--template", "art of <>", "--context", "at night"],
    ),
    "scores": (LABELS, {"score": "cosine", "top_k": 2}, ["--score", "cosine", "-k", "2"]),
    "unknown": (
        LABELS,
        {"unknown": True, "negative": ["a boat"], "unknown_label": "?"},
        ["--unknown", "--negative", "a boat", "--unknown-label", "?"],
    ),
    "several": (LABELS, {"multi": True, "threshold": 0.2}, ["--multi", "--threshold", "0.2"]),
    "groups": (GROUPS, {"by_group": True, "min_score": 0.6}, ["--by-group", "--min-score", "0.6"]),
    "rolled up": (GROUPS, {"roll_up": 0.9}, ["--roll-up", "0.9"]),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_the_records_of_the_command(name, server, cache, run, tmp_path):
    labels, options, arguments = QUESTIONS[name]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:3000])
    paths = [CAT, tmp_path / "broken.jpg", COFFEE]
    printed = run("classify", *paths, "--labels-file", tmp_path / "labels.json", "--model", "tiny", "--json",
                  "--decimals", 4, "--cache-dir", cache, "--no-image-cache", *arguments)  # fmt: skip
    expected = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [record["error"] is None for record in expected] == [True, False, True]
    question = {"labels": labels, "options": options}
    images = [image(path) for path in paths]
    assert server.records(images, **question) == expected
    assert server.stream("/v1/classify", question, *images) == expected
    assert form(server, question, paths) == expected


def form(server: Running, question: Any, paths: list[Path]) -> list[Any]:
    parts = [b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n' + json.dumps(question).encode()]
    for path in paths:
        head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{path}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes())
    body = b"\r\n".join([*parts, b"--x--\r\n"])
    response = server.send("POST", "/v1/classify", body, Content_Type="multipart/form-data; boundary=x")
    return response.json["results"]


def test_huggingface_hub_asks_it_unchanged(server, monkeypatch):
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for address in (server.url, f"{server.url}/models/second"):
        client = huggingface_hub.InferenceClient(model=address)
        found = client.zero_shot_image_classification(str(CAT), candidate_labels=LABELS)
        classifier = Classifier(LABELS, model="tiny", template=["This is a photo of <>."])
        (expected,) = classifier.classify(CAT)
        assert [(one.label, pytest.approx(one.score, abs=1e-5)) for one in found] == [
            (one.label, one.score) for one in expected.scores
        ]
    drawn = client.zero_shot_image_classification(CAT.read_bytes(), LABELS, hypothesis_template="a sketch of {}")
    (other,) = Classifier(LABELS, model="tiny", template=["a sketch of <>"]).classify(CAT)
    assert [one.score for one in drawn] == pytest.approx([one.score for one in other.scores], abs=1e-5)
    assert [one.score for one in drawn] != pytest.approx([one.score for one in found], abs=1e-4)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="422") as refused:
        client.zero_shot_image_classification(b"no picture", LABELS)
    assert refused.value.response.json()["error"] == "the image cannot be read: a text file, not an image"


def test_images_of_several_clients_go_through_the_model_together(server):
    names = {"model": "tiny"}
    before = [server.measured(f"clipzs_batch_images_{what}", **names) for what in ("count", "sum")]
    seen = server.measured("clipzs_images_total", outcome="embedded", **names)
    server.records([image(CAT)])  # whose labels are known from now on
    with server.held():
        found = server.at_once(*(lambda n=n: server.records([image(picture(n), f"{n}")]) for n in range(8)))
        wait_until(lambda: server.measured("clipzs_images_total", outcome="embedded", **names) == seen + 9)
    server.ended()
    assert [[record["path"] for record in records] for records in found] == [[f"{n}"] for n in range(8)]
    after = [server.measured(f"clipzs_batch_images_{what}", **names) for what in ("count", "sum")]
    assert after == [before[0] + 2, before[1] + 9]


def test_a_full_queue_refuses_what_it_cannot_take_and_answers_the_rest(narrow):
    waiting = {"images": [image(picture(n)) for n in range(3)]}
    with narrow.held():
        found = narrow.at_once(*[lambda: narrow.ask("/v1/classify", waiting)] * 2)
        wait_until(lambda: narrow.measured("clipzs_waiting_images") == 6)
        response = narrow.send("POST", "/v1/classify", json.dumps(waiting), Content_Type="application/json")
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert response.json == {"error": "too much is waiting: 6 images", "hint": "try again later"}
    narrow.ended()
    assert [(status, len(answer["results"])) for status, answer in found] == [(200, 3), (200, 3)]
    assert narrow.measured("clipzs_waiting_images") == narrow.measured("clipzs_waiting_bytes") == 0


def test_what_a_client_that_is_gone_has_asked_is_not_done(server):
    passes = server.measured("clipzs_batch_images_count")
    encoded = server.measured("clipzs_prompts_encoded_total")
    new = {"labels": ["a word", "another word"], "images": [image(picture(50))]}
    body = json.dumps(new).encode()
    known = json.dumps({"labels": LABELS, "images": [image(picture(51))]}).encode()
    server.records([image(CAT)])
    passes += 1
    with server.held():
        for content in (body, known):
            gone = socket.create_connection(("127.0.0.1", server.port))
            head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            gone.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            wait_until(lambda: server.measured("clipzs_waiting_images") == 1)
            gone.close()
            wait_until(lambda: server.measured("clipzs_waiting_images") == 0)
    server.models[0].thread.call(lambda: None).result(PATIENCE_S)
    assert server.measured("clipzs_batch_images_count") == passes
    assert server.measured("clipzs_prompts_encoded_total") == encoded
    assert server.measured("clipzs_requests_total", status="499") >= 2


REFUSED: dict[str, tuple[int, Any]] = {
    "no JSON": (400, b"{"),
    "deep": (400, b'{"labels":' + b"[" * 100_000),
    "no number": (400, b'{"options": {"min_score": NaN}, "images": [{"data": ""}]}'),
    "half a letter": (400, rb'{"labels": ["\ud800", "b"], "images": [{"data": ""}]}'),
    "nothing": (400, {}),
    "no images": (400, {"images": []}),
    "another key": (400, {"images": [{"data": ""}], "lables": ["a"]}),
    "another option": (400, {"images": [{"data": ""}], "options": {"head": "/etc/passwd"}}),
    "an image that is none": (400, {"images": [{"name": "a"}]}),
    "two in one": (400, {"images": [{"data": "", "embedding": ""}]}),
    "blank": (400, {"labels": ["a", "  "], "images": [{"data": ""}]}),
    "one label": (422, {"labels": ["a"], "images": [{"data": ""}]}),
    "the same twice": (422, {"labels": ["a", "a "], "images": [{"data": ""}]}),
    "too many weights": (422, {"labels": ["a", {"name": "b", "weights": [1]}], "images": [{"data": ""}]}),
    "options that clash": (422, {"images": [{"data": ""}], "options": {"multi": True, "unknown": True}}),
    "no such set": (422, {"images": [{"data": ""}], "options": {"templates": ["none"]}}),
    "no place for a label": (422, {"images": [{"data": ""}], "options": {"template": ["a photo"]}}),
    "no such model": (404, {"model": "large", "images": [{"data": ""}]}),
    "too many images": (413, {"images": [{"data": ""}] * 5}),
    "too many labels": (413, {"labels": [*"abcdef"], "images": [{"data": ""}]}),
    "too many prompts": (413, {"labels": [*"abc"], "images": [{"data": ""}], "options": {"templates": ["imagenet80"]}}),
    "too many aliases": (413, {"labels": ["a", {"name": "b", "aliases": [*map(str, range(60))]}],
                               "images": [{"data": ""}], "options": {"templates": ["simple"]}}),
    "too many templates": (413, {"images": [{"data": ""}], "options": {"template": [f"{n} <>" for n in range(30)]}}),
    "too much that is not wanted": (
        413, {"images": [{"data": ""}], "options": {"unknown": True, "negative": [*map(str, range(60))]}}
    ),
    "a long context": (413, {"images": [{"data": ""}], "options": {"context": "b" * 101}}),
    "a long text": (413, {"labels": ["a", "b" * 101], "images": [{"data": ""}]}),
    "a large image": (413, {"images": [{"data": "A" * 150_000}]}),
    "a large request": (413, {"images": [{"data": "A" * 90_000}] * 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_with_its_reason(name, narrow):
    status, body = REFUSED[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = narrow.send("POST", "/v1/classify", content, Content_Type="application/json")
    answer = response.json
    assert (response.status, [*answer]) == (status, ["error", "hint"]), answer
    assert "\n" not in answer["error"]
    assert narrow.measured("clipzs_waiting_bytes") == narrow.measured("clipzs_waiting_images") == 0


def test_a_request_that_does_not_say_how_large_it_is_is_read_no_further_than_it_may_be(narrow):
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield b" " * 10_000

    connection = HTTPConnection("127.0.0.1", narrow.port, timeout=PATIENCE_S)
    with closing(connection), pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.request("POST", "/v1/classify", endless(), {"Content-Type": "application/json"})
    assert sent < 200_000_000
    assert narrow.measured("clipzs_requests_total", status="413", route="/v1/classify") >= 1
    assert narrow.get("/health")["status"] == "ok"


def test_other_routes_methods_and_types_are_refused_in_the_same_form(server):
    for method, path, type_, status in (
        ("GET", "/nowhere", "", 404),
        ("GET", "/v1/classify", "", 405),
        ("POST", "/v1/classify", "text/plain", 415),
        ("POST", "/", "application/x-www-form-urlencoded", 415),
        ("POST", "/models/", "application/json", 400),
    ):
        response = server.send(method, path, b"{}" if method == "POST" else None, Content_Type=type_)
        assert (response.status, [*response.json]) == (status, ["error", "hint"])
    assert server.send("PUT", "/").headers["Allow"] == "GET, POST"
    packed = server.send("POST", "/v1/classify", b"{}", Content_Type="application/json", Content_Encoding="gzip")
    assert packed.status == 415


OPENED: list[str] = []
WATCHED: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event in ("open", "socket.connect", "socket.getaddrinfo"):
        OPENED.append(f"{event} {arguments}")


def test_no_path_and_no_address_in_a_request_is_ever_opened(server, serve, tmp_path):
    hub = serve(lambda request: None)  # type: ignore[arg-type, return-value]
    secret = tmp_path / "secret.yaml"
    secret.write_text('templates: ["a photo of a <>"]\nlabels: [x, y]')
    url = f"http://127.0.0.1:{hub.server_port}/secret.png"
    server.records([image(CAT)])
    sys.addaudithook(_audit)
    WATCHED.append("now")
    try:
        for text in (str(secret), f"file://{secret}", url, f"data:image/png,{secret}"):
            question = {"labels": [text, {"name": "b", "aliases": [text], "prompts": [text], "group": text}],
                        "options": {"template": [f"{text} <>"], "context": text, "unknown": True, "negative": [text],
                                    "unknown_label": f"not {text}"}}  # fmt: skip
            sent = [{"data": text, "name": text}, {"embedding": text, "name": text}]
            for record in server.records(sent, **question):
                assert record["error"].startswith("not base64; paths and addresses are not opened here")
            assert server.ask("/v1/classify", {**question, "images": sent, "model": text})[0] == 404
            named = {"labels": LABELS, "options": {"templates": [text]}}
            status, answer = server.ask("/v1/classify", {**named, "images": sent})
            assert (status, answer["error"]) == (422, f"no template set {text!r} here")
            parameters = {"candidate_labels": [text, "b"], "hypothesis_template": f"{text} {{}}"}
            assert server.ask("/", {"inputs": text, "parameters": parameters})[0] == 422
            assert server.ask(f"/models/{text}", {"inputs": text, "parameters": parameters})[0] == 404
            assert server.ask("/v1/labels", {"prompts": [[text]]})[0] == 200
            assert [one["error"] is None for one in server.stream("/v1/embed", {}, {"data": text})] == [False]
    finally:
        WATCHED.clear()
    assert OPENED
    assert [event for event in OPENED if "secret" in event or str(hub.server_port) in event] == []


def test_without_a_token_only_this_machine_asks_and_no_page_of_another_place(server):
    for host in ("127.0.0.1", "localhost:1", "[::1]:8765", "LOCALHOST"):
        assert server.send("GET", "/v1/models", Host=host).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""):
        assert server.send("GET", "/v1/models", Host=host).status == 403
        assert server.send("GET", "/health", Host=host).status == 403
    own = f"127.0.0.1:{server.port}"
    origins = {
        f"http://{own}": 400,
        "http://evil.example": 403,
        "null": 403,
        "http://127.0.0.1:1": 403,
        "http://[": 403,
    }
    for origin, status in origins.items():
        response = server.send("POST", "/v1/classify", b"{}", Content_Type="application/json", Origin=origin)
        assert (response.status, origin) == (status, origin)
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    asked = server.send("OPTIONS", "/v1/classify", Origin="http://evil.example", Access_Control_Request_Method="POST")
    assert asked.status == 403


def test_a_token_is_asked_for_by_all_that_tells_or_does_anything(cache):
    secret = "a-long-enough-secret"
    running = Running(cache, token=secret, local=False)
    try:
        schema = running.get("/openapi.json")
        routes = [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]
        assert len(routes) > 8
        routes.remove(("GET", "/"))  # the page, which asks for the token itself
        assert running.send("GET", "/", Host="clipzs.example").status == 200
        for method, path in routes:
            for token in (None, f"Bearer {secret.upper()}", "Bearer ", f"Basic {secret}", secret):
                more = {"Content-Type": "application/json", "Host": "clipzs.example"}
                more |= {} if token is None else {"Authorization": token}
                response = running.send(method, path, b"{}" if method == "POST" else None, **more)
                if path == "/health":
                    assert response.json == {"status": "ok"}
                else:
                    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer"), (method, path)
        known = {"Authorization": f"Bearer {secret}", "Host": "clipzs.example"}
        assert running.get("/health", **known)["models"] == ["tiny"]
        status, _ = running.ask("/v1/classify", {"labels": LABELS, "images": [image(CAT)]}, **known)
        assert status == 200
    finally:
        running.close()


def test_a_stream_is_answered_in_order_and_read_no_faster_than_it_is_answered(server):
    count = 400
    lines = [json.dumps({"labels": LABELS})] + [json.dumps(image(picture(n % 7), f"{n}")) for n in range(count)]
    body = "\n".join(lines).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    with connection, server.held():
        sending = threading.Thread(
            target=connection.sendall, args=(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body,), daemon=True
        )
        sending.start()
        window = 2 * server.models[0].options.batch_size
        wait_until(lambda: server.measured("clipzs_waiting_images") >= window)
        assert server.get("/health")["status"] == "ok"  # others are served
        assert server.measured("clipzs_waiting_images") <= window + 2
    wait_until(lambda: server.measured("clipzs_waiting_images") == 0)
    answers = server.stream("/v1/classify", {"labels": LABELS}, *map(json.loads, lines[1:]))
    assert [answer["path"] for answer in answers] == [f"{n}" for n in range(count)]
    assert answers[:7] == [{**answer, "path": f"{n}"} for n, answer in enumerate(answers[7:14])]


def test_a_stream_ends_with_the_reason_where_it_cannot_go_on(narrow):
    good = image(picture(1), "good")
    for line, status, words in (
        (["no", "object"], "error", "object"),
        ({"name": "neither"}, "error", "`data` or `embedding`"),
        ({"data": "A" * 140_000}, "error", "0.1 MB"),
    ):
        *answers, last = narrow.stream("/v1/classify", {}, good, {**good, "data": "!"}, line, good)
        assert [answer["path"] for answer in answers] == ["good", "good"]
        assert [answer["error"] is None for answer in answers] == [True, False]
        assert ([*last], words in last["error"]) == ([status, "hint"], True), last
    assert narrow.measured("clipzs_waiting_bytes") == 0
    for first, status in (({"labels": ["a"]}, 422), ({"model": "x"}, 404), ([], 400), ({"images": []}, 400)):
        response = narrow.send("POST", "/v1/classify", json.dumps(first), Content_Type="application/x-ndjson")
        assert response.status == status


def test_lines_that_do_not_end_are_held_within_bounds(narrow):
    head = "POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    with ExitStack() as open_:
        for number in range(6):
            connection = open_.enter_context(socket.create_connection(("127.0.0.1", narrow.port), PATIENCE_S))
            connection.sendall(f"{head}Content-Length: 200000\r\n\r\n".encode() + b" " * 120_000)
            if number < 5:
                wait_until(lambda n=number: narrow.measured("clipzs_waiting_bytes") == 120_000 * (n + 1))
        assert connection.recv(100).startswith(b"HTTP/1.1 429 ")
        status, _ = narrow.ask("/v1/classify", {"images": [image(picture())]})  # has room of its own
        assert status == 200
    wait_until(lambda: narrow.measured("clipzs_waiting_bytes") == 0)


def test_texts_are_embedded_once_and_kept_where_the_command_finds_them(server, cache):
    words = [["a stethoscope", "a photo of a stethoscope"], ["a nameless word"]]
    expected = Embedder(checked(Options(model="tiny", cache=False))).labels(words, [[3.0, 1.0]])
    for encoded in (3, 0):
        status, answer = server.ask("/v1/labels", {"prompts": words, "weights": [[3, 1]]})
        assert (status, answer["encoded"]) == (200, encoded)
        for one, other in zip(answer["labels"], expected, strict=True):
            vector = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
            assert np.allclose(vector, other.vector, atol=1e-6)
            assert (one["digest"], one["longest"], one["unknown"]) == (other.tokens.hex(), other.longest, [])
    server.records([image(CAT)], ["astrolabe", "sextant"])
    classifier = Classifier(["sextant", "astrolabe"], model="tiny", cache_dir=cache)
    (result,) = classifier.classify(CAT)
    assert (result.error, classifier.prompts_encoded) == (None, 0)
    for wrong in (
        {"prompts": [["a"]], "weights": [[1, 2]]},
        {"prompts": [[]]},
        {"prompts": [["a"]], "weights": [[5e-324]]},
    ):
        assert server.ask("/v1/labels", wrong)[0] == 400


def test_embeddings_come_with_records_and_go_back_in_place_of_images(server):
    (record,) = server.records([image(CAT)], embeddings=True)
    passes = server.measured("clipzs_batch_images_count")
    again, short, long = server.records(
        [
            {"embedding": record["embedding"], "name": str(CAT)},
            {"embedding": record["embedding"][:8]},
            {"embedding": base64_of(np.full(256, np.inf, "<f4").tobytes())},
        ]
    )
    assert again == {key: value for key, value in record.items() if key != "embedding"}
    assert "bytes" in short["error"]
    assert long["error"] == "an embedding whose length is not 1"
    assert server.measured("clipzs_batch_images_count") == passes
    embedded = server.stream("/v1/embed", {"model": "second"}, image(CAT), image(b"none"))
    assert [one["error"] for one in embedded] == [None, "a text file, not an image"]
    assert embedded[0] == {"name": str(CAT), "error": None, "embedding": record["embedding"]}


def test_pixels_go_through_the_model_as_they_were_sent(server):
    (said, *_) = server.get("/v1/models")["models"]
    embedder = Embedder(checked(Options(model="tiny", cache=False)))
    height, width = said["spec"]["preprocess"]["size"]
    pixels = np.random.default_rng(3).integers(0, 256, (5, height, width, 3), np.uint8)
    passes = server.measured("clipzs_batch_images_count", model="tiny")
    path = f"/v1/pixels?model={said['digest']}"
    response = server.send("POST", path, pixels.tobytes(), Content_Type="application/octet-stream")
    vectors = np.frombuffer(response.body, "<f4").reshape(5, said["embedding_size"])
    with embedder.pipeline() as pipeline:
        expected = pipeline.embed([Prepared("", pixels=one) for one in pixels]).vectors
    assert np.allclose(vectors, expected, atol=1e-5)
    assert server.measured("clipzs_batch_images_count", model="tiny") == passes + 1
    for body, status in ((b"", 400), (b"x" * 100, 400), (bytes(101 * height * width * 3), 413)):
        assert server.send("POST", path, body, Content_Type="application/octet-stream").status == status


def test_what_does_not_go_on_is_ended(impatient):
    """A request that never comes, one that stops in the middle, a stream that falls silent."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
    body = b"Content-Length: 1000\r\n\r\n"
    for sent, answer in (
        (b"", b""),
        (head, b""),
        (head + b"Content-Type: application/json\r\n" + body + b"{", b"HTTP/1.1 408 "),
        (
            head + b"Content-Type: application/x-ndjson\r\n" + body + b'{"labels":["a","b"]}\n{"data":""}\n',
            b'"error": "nothing came for 0.5 seconds"',
        ),
    ):
        with socket.create_connection(("127.0.0.1", impatient.port), timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            received = b""
            while some := connection.recv(65536):
                received += some
        assert answer in received
        assert bool(answer) == bool(received)
    with impatient.held():
        question = json.dumps({"labels": LABELS, "images": [image(CAT)]})
        response = impatient.send("POST", "/v1/classify", question, Content_Type="application/json")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert response.json["error"] == "it took longer than 2 seconds"
    assert impatient.measured("clipzs_waiting_images") == 0


def test_answers_that_nobody_reads_are_given_up(impatient):
    (record,) = impatient.records([image(CAT)], embeddings=True)
    answered = impatient.measured("clipzs_requests_total", route="/v1/classify", status="200")
    long = [f"{n} {'label ' * 150}" for n in range(60)]
    lines = [json.dumps({"labels": long, "options": {"template": ["<>"]}})]
    lines += [json.dumps({"embedding": record["embedding"]})] * 400  # of which each has an answer of 60 kB
    body = "\n".join(lines).encode()
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", impatient.port))
        connection.settimeout(PATIENCE_S)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_on(connection, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_until(lambda: impatient.measured("clipzs_requests_active") == 1)  # the one that asks
    assert impatient.measured("clipzs_waiting_images") == impatient.measured("clipzs_waiting_bytes") == 0
    assert impatient.measured("clipzs_requests_total", route="/v1/classify", status="200") == answered + 1


def send_on(connection: socket.socket, content: bytes) -> None:
    """Until the other side has had enough."""
    connection.sendall(content)
    while True:
        time.sleep(0.1)
        connection.sendall(b" ")


def test_sets_of_labels_are_kept_within_bounds(server, monkeypatch):
    monkeypatch.setattr(models, "KEPT_BYTES", 60_000)
    first = server.records([image(CAT)])
    for number in range(4):
        server.records([image(CAT)], [f"one {number}", f"two {number}"])
    assert server.measured("clipzs_classifiers", model="tiny") <= 3
    assert server.records([image(CAT)]) == first


def test_what_fails_in_a_batch_fails_alone():
    def embed(some: Any) -> None:
        if any(one.name == "poison" for one in some):
            raise RuntimeError("not this one")
        for one in some:
            one.vector, one.pixels = np.full(2, float(one.pixels[0, 0, 0]), np.float32), None

    thread = ModelThread(embed, size=8, name="test")
    go_on = threading.Event()
    thread.call(lambda: go_on.wait(PATIENCE_S))
    futures = []
    for number, name in enumerate(["a", "poison", "b"]):
        one = Prepared(name, pixels=np.full((1, 1, 3), number, np.uint8))
        futures.append(thread.embed_together([one]))
    go_on.set()
    thread.close()
    assert [futures[place].result()[0].vector.tolist() for place in (0, 2)] == [[0, 0], [2, 2]]
    with pytest.raises(RuntimeError, match="not this one"):
        futures[1].result()


def test_the_page_of_the_api_holds_every_route_and_fetches_nothing(server):
    schema = server.get("/openapi.json")
    response = server.send("GET", "/docs")
    page = response.body.decode()
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    assert "src=" not in page
    assert "<script" not in page
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= {*policy}
    served = "/ /health /metrics /models/{model} /v1/classify /v1/embed /v1/labels /v1/models /v1/pixels"
    assert {*served.split()} <= {*schema["paths"]}
    names = {*schema["components"]["schemas"]}
    assert {part.split('"')[0] for part in json.dumps(schema).split("#/components/schemas/")[1:]} <= names


def test_the_limits_and_labels_of_the_server_are_told_and_its_labels_are_used(narrow):
    said = narrow.get("/v1/models")
    assert said["labels"] == ["cat", "rocket"]
    assert (said["limits"]["images"], said["limits"]["labels"]) == (4, 5)
    assert "simple" in [each["name"] for each in said["templates"]]
    assert said["models"][0]["engine"] == "openvino"
    status, answer = narrow.ask("/v1/classify", {"images": [image(CAT)]})
    assert (status, answer["results"][0]["label"] in said["labels"]) == (200, True)
    assert answer["results"] == narrow.records([image(CAT)], ["cat", "rocket"])


def test_what_may_be_wrong_with_labels_is_told_to_the_client_alone(server, caplog):
    status, answer = server.ask("/v1/classify", {"labels": ["猫", "dog"], "images": [image(CAT)]})
    assert status == 200
    assert any("猫" in warning for warning in answer["warnings"])
    assert "猫" not in caplog.text
