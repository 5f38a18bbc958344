"""`--server`: a running server computes, and everything is as if this process had."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, Run
from servers import Answer, Broken, Fault, Relay, started
from typer.testing import Result

from clipzs import Classifier, connection, servernotes

LABELS = ("--labels", "cat,rocket,a cup of coffee,temple,flower")
TINY = ("--model", "tiny", "--no-image-cache")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, shared_compiled: Path) -> Iterator[str]:
    """A real server, for all tests of this module."""
    with started(tmp_path_factory.mktemp("served"), shared_compiled) as (url, _):
        yield url


@pytest.fixture
def relay(address: str) -> Iterator[Callable[..., Relay]]:
    """Starts a way to the server with a fault in it."""
    running: list[Relay] = []

    def start(fault: Fault | None = None, uds: Path | None = None) -> Relay:
        running.append(Relay(address, fault, uds=uds))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with photos, and all kinds of files that are none."""
    folder = tmp_path / "pictures"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("*.txt", "*.yaml", "*.md"))
    (folder / "broken.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:5000])
    (folder / "empty.png").touch()
    (folder / "text.webp").write_text("no picture")
    os.mkfifo(folder / "pipe.jpg")
    return folder


def fed(folder: Path) -> Path:
    """Puts a picture through the pipe in the folder, once."""
    pipe = folder / "pipe.jpg"
    threading.Thread(target=lambda: pipe.write_bytes((EXAMPLES / "rocket.jpg").read_bytes()), daemon=True).start()
    return pipe


_ALONE: dict[tuple[object, ...], Result] = {}


def alone(run: Run, *arguments: object) -> Result:
    """What a command says without a server, which several tests compare with."""
    if arguments not in _ALONE:
        _ALONE[arguments] = run(*arguments)
    return _ALONE[arguments]


def answered(document: object, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


OPTIONS = {
    "records": ("--json", "--templates", "simple"),
    "a table": ("--format", "table", "--top-k", "3"),
    "csv of all scores": ("--format", "csv", "--top-k", "9", "--score", "cosine"),
    "unknown": ("--unknown", "--negative", "a boat", "--json"),
    "several answers": ("--multi", "--threshold", "0.3", "--json"),
    "groups": ("--labels-file", EXAMPLES / "labels.yaml", "--by-group", "--json"),
    "roll-up": ("--labels-file", EXAMPLES / "labels.yaml", "--roll-up", "0.6", "--json"),
    "how images are read": ("--exact-decode", "--max-megapixels", "0.2", "--batch-size", "3", "--json"),
    "labels that are alike": ("--labels", "cat,cats,no cat,feline cat", "--json"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_output_is_the_same_to_the_byte(run, address, pictures, options):
    labels = () if "--labels-file" in options or "--labels" in options else LABELS
    outputs = []
    for where in ((), ("--server", address)):
        images = (pictures, fed(pictures), pictures / "missing.jpg", "/dev/null")
        done = run("classify", *images, *labels, *TINY, *options, *where)
        outputs.append((done.exit_code, done.stdout_bytes, done.stderr_bytes))
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == 3
    assert outputs[0][1].count(b"pipe.jpg") > 0


def test_page_log_and_head_are_the_same(run, address, cat, coffee, tmp_path):
    classes = tmp_path / "classes"
    for label, picture in (("cat", cat), ("cup", coffee)):
        (classes / label).mkdir(parents=True)
        shutil.copy(picture, classes / label)
    heads, pages, logs = [], [], []
    for name, where in (("here", ()), ("there", ("--server", address))):
        head, page, log = (tmp_path / f"{name}.{suffix}" for suffix in ("safetensors", "html", "json"))
        assert run("fit", classes, "-o", head, *TINY, *where).exit_code == 0
        done = run("classify", classes, "--head", head, "--no-image-cache", "--report", page, "--log", log, *where)
        assert done.exit_code == 0, done.stderr
        heads.append(head.read_bytes())
        pages.append(re.sub(r'"(made|started)": ?"[^"]+"|"seconds": ?[0-9.]+', "", page.read_text(encoding="utf-8")))
        logs.append(
            {key: value for key, value in json.loads(log.read_text()).items() if key not in ("started", "seconds")}
        )
    assert heads[0] == heads[1]
    assert pages[0] == pages[1]
    for log in logs:
        log["head"] = None  # which says where it is
    assert logs[0] == logs[1]


def test_other_commands_ask_the_server_too(run, address, relay, pictures, tmp_path):
    (pictures / "pipe.jpg").unlink()
    way = relay()
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "path,label\n" + "".join(f"{EXAMPLES / name}.jpg,{name}\n" for name in ("cat", "rocket", "temple"))
    )
    commands = [
        ("sort", pictures, "--to", tmp_path / "to", "--dry-run", *LABELS),
        ("filter", pictures, "--is", "cat", *LABELS),
        ("eval", "--truth", truth, "--json"),
        ("search", "a cat", pictures, "--format", "tsv"),
        ("dupes", pictures, "--min-similarity", "0.5", "--format", "tsv"),
        ("labels", "check", "--labels", "cat,cats,dog"),
    ]
    for command in commands:
        options = TINY[:2] if command[0] == "labels" else TINY
        here, there = (run(*command, *options, *where) for where in ((), ("--server", way.address)))
        assert (here.exit_code, here.stdout, here.stderr) == (there.exit_code, there.stdout, there.stderr)
        assert here.exit_code != 2, here.stderr
        assert way.asked[0] == "/v1/models"
        assert len(way.asked) > 1
        way.asked.clear()


def test_a_client_loads_no_model_and_no_server(address, cat):
    code = (
        "import sys; from clipzs.cli import app\n"
        f"try: app({['classify', str(cat), *LABELS, *TINY, '--server', address]!r})\n"
        "except SystemExit as stop: print(stop.code)\n"
        "heavy = {'torch', 'open_clip', 'openvino', 'fastapi', 'uvicorn', 'starlette', 'asyncio'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0", "loaded: []"], done.stderr


def test_a_socket_does_as_well(run, relay, cat, tmp_path):
    way = relay(uds=tmp_path / "s")
    here = alone(run, "classify", cat, *LABELS, *TINY)
    there = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert there.stdout == here.stdout
    assert [path.partition("?")[0] for path in way.asked] == ["/v1/models", "/v1/labels", "/v1/pixels"]
    assert way.connections == 1


def described(**changes: object) -> Fault:
    """Changes what the server says of its model."""

    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        if request.path != "/v1/models":  # type: ignore[attr-defined]
            return None
        said = json.loads(relay.passed_on(request, body).body)  # type: ignore[arg-type]
        said["models"][0] |= changes
        return answered(said)

    return fault


other_weights = described(digest="0" * 64)


def test_auto_takes_the_server_that_has_the_model(run, relay, cat, tmp_path):
    way, notes = relay(), tmp_path / "cache" / "servers"
    servernotes.leave(notes, way.address)
    done = run("classify", cat, *LABELS, *TINY, "--server", "auto")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(way.asked) == 3


def test_auto_computes_here_where_no_server_has_the_model(run, relay, cat, tmp_path):
    way, notes = relay(other_weights), tmp_path / "cache" / "servers"
    arguments = ("classify", cat, *LABELS, *TINY, "--server", "auto")
    alone = run(*arguments)
    assert alone.stderr == "warning: --server auto: no server is running: computing in this process\n"
    servernotes.leave(notes, way.address)
    strange = run(*arguments)
    assert "no running server has tiny" in strange.stderr
    assert (alone.exit_code, strange.exit_code, strange.stdout) == (0, 0, alone.stdout)
    assert way.asked == ["/v1/models"]
    way.fault = described(precision="bf16")
    assert "as it is asked for" in run(*arguments, "--precision", "fp32").stderr


def test_auto_takes_no_word_of_others_and_none_of_the_dead(run, relay, cat, tmp_path):
    way, notes = relay(), tmp_path / "cache" / "servers"
    note = servernotes.leave(notes, way.address)
    said = json.loads(note.read_text())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    dead = note.with_name("dead.json")
    dead.write_text(json.dumps({**said, "pid": ended.pid}))
    dead.chmod(0o600)
    elsewhere = note.with_name("elsewhere.json")
    elsewhere.write_text(json.dumps({**said, "pid": ended.pid, "host": "another machine"}))
    elsewhere.chmod(0o600)
    note.with_name("nonsense.json").write_text("[")
    note.chmod(0o644)
    assert run("classify", cat, *LABELS, *TINY, "--server", "auto").exit_code == 0
    assert way.asked == []
    assert (dead.exists(), elsewhere.exists(), note.exists()) == (False, True, True)


def test_where_nobody_listens_this_process_computes(run, cat, tmp_path):
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        here = alone(run, "classify", cat, *LABELS, *TINY)
        for address in (nobody, f"unix:{tmp_path}/none", f"unix:{tmp_path}/{'long' * 50}"):
            done = run("classify", cat, *LABELS, *TINY, "--server", address)
            assert (done.exit_code, done.stdout) == (0, here.stdout)
            assert done.stderr.startswith(f"warning: {address} cannot be reached: ")
            assert done.stderr.endswith(": computing in this process\n")


def test_a_proxy_in_front_of_nobody_is_no_answer_either(run, relay, cat):
    way = relay(lambda *_: Answer(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"))
    here = alone(run, "classify", cat, *LABELS, *TINY)
    there = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert (there.exit_code, there.stdout) == (0, here.stdout)
    assert "(status 502): computing in this process" in there.stderr


def garbage(text: bytes) -> Fault:
    def reply(relay: Relay, request: object, body: bytes) -> Answer | None:
        request.wfile.write(text)  # type: ignore[attr-defined]
        raise Broken

    return reply


NONE = {
    "a page": lambda *_: Answer(200, {"Content-Type": "text/html"}, b"<html>"),
    "no such route": lambda *_: Answer(404, {}, b"Not found"),
    "a redirection": lambda *_: Answer(302, {"Location": "http://127.0.0.1:1/"}, b""),
    "other JSON": lambda *_: answered([1, 2]),
    "deep JSON": lambda *_: Answer(200, {}, b"[" * 100_000),
    "no models": lambda *_: answered({"models": [], "limits": {}}),
    "half a model": lambda *_: answered({"models": [{"id": "tiny"}], "limits": {}}),
    "no HTTP": garbage(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "endless headers": garbage(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200),
    "too much": garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b" " * 11_000_000),
}  # fmt: skip


@pytest.mark.parametrize("reply", NONE.values(), ids=NONE)
def test_what_is_no_server_of_clipzs_is_an_error(run, relay, cat, reply):
    way = relay(reply)
    done = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert (done.exit_code, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {way.address} is no server of clipzs: ")
    assert second.startswith("hint: ")


ADDRESSES = (
    "localhost:8765", "ftp://here", "http://", "http://a:b@c", "http://h:99999", "unix:", "http://bücher/", "http://h\n",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none_is_wrong_usage(run, cat, address):
    done = run("classify", cat, *LABELS, *TINY, "--server", address)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --server")
    assert len(done.stderr.splitlines()) == 2


def test_a_token_is_sent_and_a_wrong_one_is_an_error(run, relay, cat, monkeypatch):
    def guard(relay: Relay, request: object, body: bytes) -> Answer | None:
        right = request.headers["Authorization"] == "Bearer sesame"  # type: ignore[attr-defined]
        return None if right else answered({"error": "not the token of this server", "hint": "send it"}, 401)

    way, hint = relay(guard), "hint: set the token of the server as CLIPZS_TOKEN"
    for token in ("", "wrong"):
        monkeypatch.setenv("CLIPZS_TOKEN", token)
        done = run("classify", cat, *LABELS, *TINY, "--server", way.address)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == f"error: {way.address}: not the token of this server\n{hint}\n"
    monkeypatch.setenv("CLIPZS_TOKEN", "sesame")
    assert run("classify", cat, *LABELS, *TINY, "--server", way.address).exit_code == 0
    monkeypatch.setenv("CLIPZS_TOKEN", "two\nlines")
    assert "newline" in run("classify", cat, *LABELS, *TINY, "--server", way.address).stderr


@pytest.mark.parametrize(
    "options", [("--precision", "bf16"), ("--engine", "torch"), ("--device", "cuda"), ("--compile",)]
)
def test_a_server_that_computes_otherwise_is_an_error(run, address, cat, options):
    done = run("classify", cat, *LABELS, *TINY, *options, "--server", address)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {address}: {options[0]} ")


def test_a_server_without_the_model_is_an_error(run, address, relay, folder, cat):
    arguments = ("classify", cat, *LABELS, "--no-image-cache")
    done = run(*arguments, "--model", f"local-dir:{folder('vit')}", "--server", address)
    assert done.exit_code == 2
    assert done.stderr == f"error: {address} has no local-dir:{folder('vit')}\nhint: it has tiny\n"

    way = relay(other_weights)
    done = run(*arguments, "--model", "tiny", "--server", way.address)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "its tiny has other weights" in done.stderr
    assert run(*arguments, "--server", address).exit_code == 0, "the server's own, where none is named"


def after(path: str, count: int, what: Callable[[], Answer | None]) -> Fault:
    """Lets so many requests of a path through, and then does something else."""
    seen = [0]

    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        seen[0] += request.path.startswith(path)  # type: ignore[attr-defined]
        return what() if seen[0] > count and request.path.startswith(path) else None  # type: ignore[attr-defined]

    return fault


def broken() -> Answer:
    raise Broken


ENDS = {
    "it is gone": broken,
    "it stops": lambda: answered({"error": "the server is stopping", "hint": None}, 503),
    "it has other weights now": lambda: answered({"error": "no model", "hint": None}, 404),
    "it answers less": lambda: Answer(200, {}, b"1234"),
    "it answers nonsense": lambda: Answer(200, {}, b"\0" * 2 * 4 * 256),
    "it answers no numbers": lambda: answered({"labels": [{}], "encoded": "many"}),
}


@pytest.mark.parametrize("path", ["/v1/labels", "/v1/pixels"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_when_the_server_fails_the_rest_is_computed_here(run, relay, path, end):
    way = relay(after(path, 1 if path == "/v1/pixels" else 0, end))
    arguments = ("classify", EXAMPLES, *LABELS, *TINY, "--json", "--batch-size", "2")
    here, there = alone(run, *arguments), run(*arguments, "--server", way.address)
    assert (there.exit_code, there.stdout, here.stderr) == (here.exit_code, here.stdout, "")
    assert there.stderr.startswith(f"warning: {way.address}")
    assert there.stderr.endswith(": computing the rest in this process\n")
    assert len(there.stderr.splitlines()) == 1


def test_what_cannot_go_on_here_ends_with_all_that_was_computed(run, address, relay, tmp_path):
    """The server's model is none that this process can have."""

    way, out = relay(), tmp_path / "out.jsonl"
    says, lost = described(name="hf-hub:someone/model"), after("/v1/pixels", 1, broken)
    way.fault = lambda *asked: says(*asked) or lost(*asked)
    done = run(
        "classify", EXAMPLES, *LABELS, "--no-image-cache", "--batch-size", "2", "-o", out, "--server", way.address
    )
    assert done.exit_code == 1
    error, hint = done.stderr.splitlines()
    assert "which was not asked for here" in error
    assert "--resume" in hint
    assert [json.loads(line)["error"] for line in out.read_text().splitlines()] == [None, None]


def test_a_busy_server_is_waited_for(run, relay, cat, monkeypatch):
    busy = iter([True, True, False, True, False])

    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        if request.path != "/v1/models" and next(busy, False):  # type: ignore[attr-defined]
            return Answer(
                429, {"Retry-After": "0"}, json.dumps({"error": "too much is waiting", "hint": None}).encode()
            )
        return None

    way = relay(fault)
    here = alone(run, "classify", cat, *LABELS, *TINY)
    there = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert (there.exit_code, there.stdout) == (0, here.stdout)
    assert there.stderr == f"warning: {way.address} is busy: waiting\n"
    assert len(way.asked) == 6
    monkeypatch.setattr(connection, "PATIENCE_S", 0.0)
    way.fault = lambda *_: Answer(429, {"Retry-After": "Sat, 1 Jan 2000 00:00:00 GMT"}, b'{"error": "too much"}')
    impatient = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert (impatient.exit_code, impatient.stdout) == (0, here.stdout)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/pixels"])
def test_a_server_that_trickles_is_given_up(run, relay, cat, monkeypatch, path):
    monkeypatch.setattr(connection, "DESCRIBE_S", 0.5)
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)

    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        if not request.path.startswith(path):  # type: ignore[attr-defined]
            return None
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")  # type: ignore[attr-defined]
        while not relay.ended.wait(0.05):
            try:
                request.wfile.write(b" ")  # type: ignore[attr-defined]
            except OSError:
                break
        raise Broken

    way = relay(fault)
    here = alone(run, "classify", cat, *LABELS, *TINY)
    there = run("classify", cat, *LABELS, *TINY, "--server", way.address)
    assert (there.exit_code, there.stdout) == (0, here.stdout)
    assert "does not answer within 0.5 s" in there.stderr


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew(run, relay):
    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        answer = relay.passed_on(request, body)  # type: ignore[arg-type]
        request.close_connection = True  # type: ignore[attr-defined]
        return answer

    way = relay(fault)
    arguments = ("classify", EXAMPLES, *LABELS, *TINY, "--json", "--batch-size", "2")
    here, there = alone(run, *arguments), run(*arguments, "--server", way.address)
    assert (there.stdout, there.stderr) == (here.stdout, here.stderr)
    assert way.connections == len(way.asked) == 6


def test_no_more_is_asked_at_once_than_the_server_takes(run, relay):
    def fault(relay: Relay, request: object, body: bytes) -> Answer | None:
        if request.path != "/v1/models":  # type: ignore[attr-defined]
            return None
        said = json.loads(relay.passed_on(request, body).body)  # type: ignore[arg-type]
        said["limits"] |= {"images": 3, "labels": 2, "prompts": 10}
        return answered(said)

    way = relay(fault)
    arguments = ("classify", EXAMPLES, *LABELS, *TINY, "--template", "a <>", "--decimals", "5")
    here, there = (run(*arguments, *where) for where in ((), ("--server", way.address)))
    assert there.stdout == here.stdout
    assert [path.partition("?")[0] for path in way.asked[1:]] == ["/v1/labels"] * 3 + ["/v1/pixels"] * 3


def test_pictures_in_memory_go_to_the_server_too(address, cat):
    from PIL import Image

    arrays = [np.asarray(Image.open(cat)), np.asarray(Image.open(EXAMPLES / "rocket.jpg"), np.float32) / 255]
    for images in (arrays, [Image.open(cat)]):
        here, there = (
            [*Classifier(["cat", "dog"], model="tiny", server=server).classify(images)] for server in (None, address)
        )
        assert here == there


def test_a_heat_map_is_drawn_here(run, address, cat, tmp_path, monkeypatch):
    arguments = ("explain", cat, "--labels", "cat,dog", "--model", "tiny")
    assert run(*arguments, "--server", address).stdout == run(*arguments).stdout
    refused = run(*arguments, "-o", tmp_path / "map.png", "--server", address)
    assert refused.exit_code == 2
    assert "does not go with --server" in refused.stderr
    assert "-o" in refused.stderr
    monkeypatch.setenv("CLIPZS_SERVER", address)
    assert "a heat map is a picture" in run(*arguments, "-o", tmp_path / "map.txt").stderr


def test_what_the_server_said_of_images_is_kept_here(run, relay, cat):
    way = relay()
    arguments = ("classify", cat, *LABELS, "--model", "tiny")
    first, second = (run(*arguments, "--server", way.address) for _ in range(2))
    assert first.stdout == second.stdout
    assert [path.startswith("/v1/pixels") for path in way.asked].count(True) == 1
    assert run(*arguments).stdout == first.stdout
