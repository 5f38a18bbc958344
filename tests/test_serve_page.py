"""The page of `clipzs serve` in a browser: pictures in, labels changed, answers taken away, and what may go wrong."""

import base64
import contextlib
import csv
import io
import json
import re
import shlex
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from browsing import downloaded, low_contrast, nameless, press, until
from conftest import EXAMPLES
from PIL import Image

from clipzs import records
from clipzs.formulas import original
from clipzs.labels import Label
from clipzs.options import Options, checked
from clipzs.serving.limits import Limits

uvicorn = pytest.importorskip("uvicorn", reason="not installed with the extra `serve`")

LABELS = "#labels=a+cat,a+rocket,a+cup+of+coffee"
PHOTOS = ("cat.jpg", "rocket.jpg", "coffee.jpg")

Visit = Callable[..., Any]


class Server:
    """The service in this process, on a thread; it can be stopped and started again at the same address."""

    def __init__(self, service: Any, cache: Path) -> None:
        self.service = service
        self.cache = cache
        self.port = 0
        self.start()

    def start(self) -> None:
        from clipzs.serving.app import create_app

        config = uvicorn.Config(
            create_app(self.service), host="127.0.0.1", port=self.port, log_level="error", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """As many images wait as may."""
        self.service.room.take(self.service.limits.waiting_images, 0)
        yield
        self.service.room.give(self.service.limits.waiting_images, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory, shared_compiled, folder) -> Iterator[Server]:
    """Two models: the embedded one, and a random one that says other things."""
    from clipzs.serving.measures import Measures
    from clipzs.serving.models import ServedModel
    from clipzs.serving.service import Service

    cache = tmp_path_factory.mktemp("cache")
    (cache / "compiled").symlink_to(shared_compiled)
    common = {"cache_dir": cache, "prompts_dir": cache / "prompts"}
    measures = Measures()
    models = [
        ServedModel("tiny", checked(Options(model="tiny", **common)), measures),
        ServedModel("random", checked(Options(model=f"local-dir:{folder('vit')}", engine="torch", **common)), measures),
    ]
    service = Service(models, measures)
    service.start()
    server = Server(service, cache)
    yield server
    server.stop()
    service.close()


@pytest.fixture
def visit(browser, server) -> Iterator[Visit]:
    """Open the page; whatever it complains of, or asks of others, fails the test."""
    contexts, complaints = [], []

    def opened(place: str = "", *, expected: str = "nothing", **more: Any) -> Any:
        settings = {"viewport": {"width": 1200, "height": 800}, "permissions": ["clipboard-read", "clipboard-write"]}
        context = browser.new_context(**settings | more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.uploads = []
        page.on("console", lambda message: said(message, expected))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked(page, request))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(server.url + place)
        if server.service.token is None:
            until(page, "document.getElementById('templates').options.length > 0")
        return page

    def said(message: Any, expected: str) -> None:
        if message.type in ("error", "warning") and not re.search(expected, message.text):
            complaints.append(message.text)

    def asked(page: Any, request: Any) -> None:
        if not request.url.startswith((server.url, "blob:", "data:")):
            complaints.append(request.url)
        if "multipart" in request.headers.get("content-type", ""):
            page.uploads.append(request.url)

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def add(page: Any, *files: Path | str) -> None:
    """Pick pictures, and wait for their answers."""
    page.locator("#files").set_input_files([EXAMPLES / file for file in files])
    answered(page)


def answered(page: Any) -> None:
    """Wait until all that is shown answers what is asked now."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it is drawn then
    until(page, "document.getElementById('cards').getAttribute('aria-busy') === 'false'")


def answers(page: Any) -> list[str]:
    return page.locator(".card .answer").all_text_contents()


def bars(page: Any) -> dict[str, str]:
    """Of the picture that is shown large."""
    rows = page.eval_on_selector_all(
        ".about .score",
        "rows => rows.map((row) => ['.what', '.num'].map((part) => row.querySelector(part).textContent))",
    )
    return dict(rows)


def labels(page: Any) -> list[str]:
    return page.locator("#chips .chip").all_text_contents()


def type_label(page: Any, text: str) -> None:
    page.locator("#label").focus()
    page.keyboard.type(text)


def drag(page: Any, kind: str, *files: Path) -> None:
    """As files and folders are dragged from a file manager."""
    what = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    page.context.new_cdp_session(page).send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 300, "data": what})


def paste(page: Any, name: str, data: bytes) -> None:
    page.evaluate(
        """([name, text]) => {
          const data = new DataTransfer(), bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
          data.items.add(new File([bytes], name, { type: "image/jpeg" }));
          document.body.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData: data }));
        }""",
        [name, base64.b64encode(data).decode()],
    )


def copied(page: Any, button: str) -> str:
    page.locator(button).click()
    page.locator("#toast.on", has_text="copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


# Pictures in


def test_what_is_there_before_anything_is_said_how_to_begin(visit):
    page = visit()
    assert "Drop pictures here" in page.locator("#drop").inner_text()
    assert "Change the words" in page.locator("#teach").inner_text()
    page.locator("#examples .chip", has_text="indoors").click()
    assert labels(page) == ["indoors", "outdoors"]
    add(page, "temple.jpg")
    assert not page.locator("#teach").is_visible()
    assert sum(float(text.rstrip(" %")) for text in bars(page).values()) == pytest.approx(100, abs=0.2)


def test_pictures_and_folders_are_picked_dropped_and_pasted(visit, tmp_path):
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    shutil.copy(EXAMPLES / "temple.jpg", tmp_path / "folder" / "in it")
    (tmp_path / "folder" / "notes.txt").write_text("none")
    page = visit(LABELS)
    add(page, "cat.jpg")
    dragged = [EXAMPLES / "rocket.jpg", tmp_path / "folder"]
    drag(page, "dragEnter", *dragged)
    page.locator("#over").wait_for()
    drag(page, "drop", *dragged)
    page.locator("#toast.on", has_text="1 image added, 1 left out: no images").wait_for()
    paste(page, "image.jpg", (EXAMPLES / "coffee.jpg").read_bytes())
    page.locator(".name", has_text="pasted-1.jpg").wait_for()
    answered(page)
    assert not page.locator("#over").is_visible()
    assert page.locator(".name").all_text_contents() == ["cat.jpg", "rocket.jpg", "temple.jpg", "pasted-1.jpg"]
    assert answers(page)[:2] + answers(page)[3:] == ["a cat", "a rocket", "a cup of coffee"]
    assert page.locator(".name").nth(2).get_attribute("title") == "folder/in it/temple.jpg"
    until(page, "document.querySelectorAll('.card img[src^=blob]').length === 4")
    drag(page, "dragEnter", *dragged)
    drag(page, "drop", EXAMPLES / "rocket.jpg", EXAMPLES / "flower.jpg")
    page.locator("#toast.on", has_text="1 image added, 1 here already").wait_for()


def test_of_a_folder_only_pictures_are_taken_and_many_come_in_pages(visit, tmp_path):
    noise = np.random.default_rng(0)
    for number in range(100):
        place = tmp_path / "many" / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).resize((96, 96)).save(place / f"{number:03}.png")
    (tmp_path / "many" / "notes.txt").write_text("none")
    (tmp_path / "many" / ".hidden.png").write_bytes(b"none")
    (tmp_path / "many" / "torn.jpg").write_bytes(b"none")
    page = visit("#labels=red,green,blue,noise")
    page.locator("#folder").set_input_files(tmp_path / "many")
    page.locator("#toast.on", has_text="2 left out: no images").wait_for()
    answered(page)
    assert page.locator("#count").text_content() == "101 images · 1 unreadable"
    assert page.locator(".card").count() == 60
    page.locator("#more").scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('.card').length === 101")
    shown = page.locator("#show option").all_text_contents()
    assert sum(int(re.search(r"\((\d+)\)", text)[1]) for text in shown[1:]) == 101
    page.locator("#show").select_option("!")
    until(page, "document.querySelectorAll('.card').length === 1")
    assert "torn.jpg, unreadable" in page.locator(".card .pic").get_attribute("aria-label")
    assert page.locator("#count").text_content() == "1 of 101 images · 1 unreadable"
    assert 100 / 16 < len(page.uploads) < 30


def test_they_are_sorted_and_left_out_by_label_and_certainty(visit):
    page = visit(LABELS)
    add(page, *PHOTOS, "temple.jpg")
    names = ["cat.jpg", "rocket.jpg", "coffee.jpg", "temple.jpg"]
    score = {one["path"]: {row["label"]: row["score"] for row in one["scores"]} for one in results(page)}
    best = {name: max(score[name].values()) for name in names}
    orders = {
        "high": sorted(names, key=lambda name: -best[name]),
        "unsure": sorted(names, key=lambda name: best[name] - sorted(score[name].values())[-2]),
        "name": sorted(names),
        "of:a rocket": sorted(names, key=lambda name: -score[name]["a rocket"]),
    }
    for sort, order in orders.items():
        page.locator("#sort").select_option(sort)
        until(
            page,
            f"[...document.querySelectorAll('.name')].map((one) => one.textContent).join() === '{','.join(order)}'",
        )
    page.locator("#show").select_option("=a cat")
    until(page, "document.querySelectorAll('.card').length < 4")
    assert {text.split(",")[1].strip()[:5] for text in shown(page)} == {"a cat"}
    page.locator("#show").select_option("")
    page.locator("#sure").select_option("unsure")
    until(page, f"document.querySelectorAll('.card').length === {sum(one < 0.9 for one in best.values())}")


def shown(page: Any) -> list[str]:
    return [one.get_attribute("aria-label") for one in page.locator(".card .pic").all()]


def results(page: Any) -> list[dict[str, Any]]:
    """As the page gives them away."""
    page.locator("#save").click()
    found = json.loads(copied(page, "#copy-json"))["results"]
    press(page, "Escape")
    return found


# What is asked changes, and nothing is uploaded again


def test_labels_are_typed_pasted_and_removed_without_another_upload(visit):
    page = visit()
    add(page, "cat.jpg")
    assert "add labels" in page.locator("#count").text_content()
    type_label(page, "a cat,")
    until(page, "document.getElementById('count').textContent.includes('add another')")
    type_label(page, "a dog")
    press(page, "Enter")
    answered(page)
    two = bars(page)
    assert [*two] == ["a cat", "a dog"] or [*two] == ["a dog", "a cat"]
    type_label(page, '"salt, pepper",')
    answered(page)
    assert labels(page) == ["a cat", "a dog", "salt, pepper"]
    page.evaluate('navigator.clipboard.writeText(\'a rocket\\ta temple\\na cat, "a ""b"""\\n\')')
    page.locator("#label").focus()
    press(page, "Control+v")
    page.locator("#toast.on", has_text="a cat is a label already").wait_for()
    assert labels(page) == ["a cat", "a dog", "salt, pepper", "a rocket", "a temple", 'a "b"']
    press(page, "Backspace", "Backspace", "Backspace", "Backspace")
    answered(page)
    assert bars(page) == two
    page.locator("#chips .chip", has_text="a dog").click()
    type_label(page, "a rocket")
    press(page, "Tab")  # leaving adds what is typed
    answered(page)
    assert sorted(bars(page)) == ["a cat", "a rocket"]
    page.locator("#clear-labels").click()
    type_label(page, "a cat,a rocket,")
    answered(page)
    assert sorted(bars(page)) == ["a cat", "a rocket"]
    assert len(page.uploads) == 1


def test_templates_and_options_change_answers_and_another_model_takes_the_bytes_once(visit):
    page = visit("#labels=a+cat,a+dog,a+rocket")
    add(page, *PHOTOS)
    first = results(page)
    page.locator("#templates").select_option("simple")
    answered(page)
    assert [one["scores"] for one in results(page)] != [one["scores"] for one in first]
    page.locator("#templates").select_option("default")
    answered(page)
    assert results(page) == first
    assert len(page.uploads) == 1
    page.locator("#model").select_option("random")
    answered(page)
    other = results(page)
    assert {one["model"] for one in other} != {one["model"] for one in first}
    assert len(page.uploads) == 2
    page.locator("#model").select_option("tiny")
    answered(page)
    assert results(page) == first
    page.locator("#model").select_option("random")
    answered(page)
    assert results(page) == other
    assert len(page.uploads) == 2


def test_several_answers_or_none(visit):
    page = visit("#labels=a+cat,a+cup+of+coffee,a+saucer&templates=simple")
    add(page, "coffee.jpg", "temple.jpg")
    page.get_by_label("Several labels").check()
    page.locator("#least").fill("0")
    answered(page)
    assert all(len(one["labels"]) == 3 for one in results(page))
    page.locator("#least").fill("1")
    answered(page)
    assert answers(page) == ["unknown", "unknown"]
    page.get_by_label("The best label, or unknown").check()
    answered(page)
    assert "unknown" in {score["label"] for score in results(page)[0]["scores"]}
    page.get_by_label("The best label", exact=True).check()
    page.locator("#least").fill("1")
    page.locator("#top").select_option("1")
    answered(page)
    assert [(one["label"], len(one["scores"])) for one in results(page)] == [("unknown", 1), ("unknown", 1)]
    assert len(page.uploads) == 1


def test_the_address_holds_what_is_asked_and_no_picture(visit):
    page = visit("#labels=one,%22two,+three%22&mode=multi&threshold=0.25&top=3&templates=simple&model=random")
    assert labels(page) == ["one", "two, three"]
    assert page.get_by_label("Several labels").is_checked()
    assert [page.locator(f"#{name}").input_value() for name in ("least", "top", "templates", "model")] == [
        "0.25", "3", "simple", "random",
    ]  # fmt: skip
    add(page, "cat.jpg")
    type_label(page, "four,")
    answered(page)
    before = page.url
    page.reload()
    until(page, "document.getElementById('templates').options.length > 0")
    assert (labels(page), page.url) == (["one", "two, three", "four"], before)
    assert page.locator("#bar").is_hidden()
    page = visit("#labels=,,a,a&mode=none&least=7&top=x&templates=../../etc&model=nobody&sort=toString&more=1")
    assert labels(page) == ["a"]
    assert page.locator("#templates").input_value() == "default"


def test_labels_of_the_server_come_with_all_they_have(visit, server, run, monkeypatch):
    groups = [
        Label("cat", aliases=("kitten",), groups=("animal",)),
        Label("rocket", prompts=("a <> on its pad",)),
        Label("dog"),
    ]
    server.service.labels, before = tuple(groups), server.service.labels
    try:
        page = visit()
        assert labels(page) == ["cat", "rocket", "dog"]
        add(page, "cat.jpg", "rocket.jpg")
        own = results(page)
        type_label(page, "temple,")
        answered(page)
        press(page, "Backspace")
        answered(page)
        assert results(page) == own
        page.locator("#save").click()
        folder = Path.cwd()
        command = shlex.split(copied(page, "#copy-command"))
        downloaded(page, "#save-labels", folder)
        monkeypatch.setenv("CLIPZS_DECIMALS", "4")
        monkeypatch.chdir(EXAMPLES)
        command[command.index("labels.json")] = str(folder / "labels.json")
        done = run(*command[1:], "--json")
        assert [json.loads(line) for line in done.stdout.splitlines()] == own
    finally:
        server.service.labels = before
        (folder / "labels.json").unlink(missing_ok=True)


# Where in the picture


def test_a_heat_map_is_laid_on_the_picture_and_taken_off(visit):
    page = visit(LABELS)
    add(page, "cat.jpg")
    seen = []
    for label in ("a cat", "a rocket"):
        page.locator(".score", has_text=label).click()
        page.locator(f".heat:not([hidden])[alt='Heat map of {label}']").wait_for(timeout=60_000)
        until(page, "document.querySelector('.heat').naturalWidth > 100")
        seen.append(page.evaluate("document.querySelector('.heat').src"))
        assert page.locator(".score", has_text=label).get_attribute("aria-pressed") == "true"
    assert seen[0] != seen[1]
    page.locator(".score", has_text="a rocket").click()
    page.locator(".heat").wait_for(state="hidden")
    assert len(page.uploads) == 1


def test_heat_is_where_explain_finds_it(server, run, tmp_path):
    image = base64.b64encode((EXAMPLES / "cat.jpg").read_bytes()).decode()
    question = {"labels": ["a cat", "a rocket"], "label": "a cat", "image": {"data": image}}
    status, found = ask(server, question)
    assert (status, found["found"]) == (200, True)
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["heat"]))).convert("RGB"), np.float64)
    target = tmp_path / "map.png"
    done = run("explain", EXAMPLES / "cat.jpg", "--labels", "a cat,a rocket", "--model", "tiny", "-o", target,
               "--map-of", "a cat")  # fmt: skip
    assert done.exit_code == 0, done.output
    with Image.open(target) as expected:
        assert np.abs(np.asarray(expected, np.float64) - drawn).mean() < 3  # the picture below it was a WebP


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"label": "a dog"}, 422, "none of the labels"),
        ({"image": {"data": "aGVsbG8="}}, 422, "image"),
        ({"image": {"data": "/etc/passwd?"}}, 422, "not base64"),
        ({"image": {"embedding": "AAAA"}}, 400, "drawn on the image itself"),
        ({"image": {}}, 400, "`data` or `embedding`"),
        ({"labels": ["a cat"]}, 422, "only one label"),
        ({"model": "nobody"}, 404, "no model"),
        ({"more": 1}, 400, "more"),
    ],
)
def test_a_heat_map_that_cannot_be_drawn_says_why(server, change, status, words):
    image = base64.b64encode((EXAMPLES / "cat.jpg").read_bytes()).decode()
    found = ask(server, {"labels": ["a cat", "a rocket"], "label": "a cat", "image": {"data": image}} | change)
    assert found[0] == status
    assert words in found[1]["error"]


def ask(server: Server, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        server.url + "v1/explain", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# Taken away

NASTY = ["it's $HOME", 'a "cat", curled', "=1+1", "-x", "<b>bold</b>", "कुत्ता"]


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("", []),
        ("&mode=multi&threshold=0.3&templates=simple", ["--multi", "--threshold", "--templates"]),
        ("&mode=unknown&least=0.2&top=3&templates=simple", ["--templates", "--unknown", "--min-score", "--top-k"]),
    ],
)
def test_the_command_and_the_exports_say_the_same_as_the_page(
    visit, server, run, monkeypatch, tmp_path, place, options
):
    names = ["-dashed name.jpg", "=1+1.jpg", "it's.jpg", "torn.jpg"]
    for photo, name in zip(PHOTOS, names, strict=False):
        shutil.copy(EXAMPLES / photo, tmp_path / name)
    (tmp_path / "torn.jpg").write_bytes(b"none")
    page = visit(f"#labels={quote(','.join(NASTY[2:]))}{place}")
    for label in NASTY[:2]:
        type_label(page, '"' + label.replace('"', '""') + '",')
    assert labels(page) == [*NASTY[2:], *NASTY[:2]]
    add(page, *(tmp_path / name for name in names))
    page.locator("#save").click()
    command = copied(page, "#copy-command")
    assert page.locator("#command").inner_text().split() == command.split()
    saved = {form: downloaded(page, f"#save-{form}", tmp_path) for form in ("json", "csv")}
    words = shlex.split(command)
    assert words[:2] == ["clipzs", "classify"]
    assert [word for word in words if word in options] == sorted(options, key=words.index)
    monkeypatch.setenv("CLIPZS_DECIMALS", "4")
    monkeypatch.setenv("CLIPZS_CACHE_DIR", str(server.cache))  # of the background, which takes seconds
    monkeypatch.chdir(tmp_path)
    lines = run(*words[1:], "--json").stdout.splitlines()
    own = json.loads(saved["json"].read_text())["results"]
    assert [{**one, "path": Path(one["path"]).name} for one in map(json.loads, lines)] == own
    assert [one["path"] for one in own] == names
    rows = [*csv.reader(io.StringIO(run(*words[1:], "-f", "csv", *top(place)).stdout))]
    mine = [*csv.reader(io.StringIO(saved["csv"].read_text()))]
    assert [[original(row[0]), *row[1:]] for row in mine] == [
        [original(row[0]).removeprefix("./"), *row[1:]] for row in rows
    ]
    assert mine[1][0] == "'-dashed name.jpg"  # which a spreadsheet would run
    assert [one.path for one in records.read(saved["json"])] == names
    assert [*dict.fromkeys(one.path for one in records.read(saved["csv"]))] == names


def top(place: str) -> list[str]:
    """A table has one row of each image unless it is told otherwise."""
    return [] if "top=" in place else ["--top-k", str(len(NASTY))]


def test_names_and_labels_stay_text(visit, tmp_path):
    name, label = "<img src=x onerror=alert(1)>.jpg", "<svg onload=alert(1)>"
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / name)
    shutil.copy(EXAMPLES / "rocket.jpg", tmp_path / "line\nend \u202egpj.jpg")
    page = visit()
    for text in (label, "</script>", "\u202ecat"):
        type_label(page, text)
        press(page, "Enter")
    add(page, tmp_path / name, tmp_path / "line\nend \u202egpj.jpg")
    assert page.locator(".name").all_text_contents() == [name, "line\\x0aend \\u202egpj.jpg"]
    assert label in labels(page)
    page.locator(".pic").first.click()
    page.locator("#large h2", has_text="onerror").wait_for()
    press(page, "Escape")
    page.locator("#save").click()
    assert label in page.locator("#command").inner_text()
    assert page.locator("img[src=x], svg[onload]").count() == 0


def test_nothing_but_the_page_itself_may_run_in_it(server):
    with urllib.request.urlopen(server.url) as answer:
        policy, text = answer.headers["content-security-policy"], answer.read().decode()
    rules = dict(part.split(" ", 1) for part in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text)
    assert not re.search(r"<[^>]+\son\w+=", text)


# What goes wrong


def test_a_picture_that_cannot_be_read_says_why_and_costs_no_other_anything(visit, tmp_path):
    (tmp_path / "torn.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:2000])
    (tmp_path / "words.txt").write_text("no picture")
    page = visit(LABELS)
    add(page, tmp_path / "torn.jpg", "cat.jpg", tmp_path / "words.txt")
    assert answers(page) == ["unreadable", "a cat", "unreadable"]
    reasons = [one["error"] for one in results(page)]
    assert (reasons[0], reasons[1]) == (reasons[0], None)
    assert page.locator(".card .none.error").all_text_contents() == [reasons[0], reasons[2]]
    type_label(page, "a dog,")
    answered(page)
    assert len(page.uploads) == 1  # they are not tried again


def test_a_picture_that_is_too_large_says_so(visit, server, tmp_path, monkeypatch):
    Image.effect_noise((700, 700), 90).save(tmp_path / "large.png")
    monkeypatch.setattr(server.service, "limits", Limits(image_bytes=100_000))
    page = visit(LABELS)
    add(page, tmp_path / "large.png", "cat.jpg")
    assert answers(page) == ["unreadable", "a cat"]
    assert "0.1 MB" in page.locator(".card .none.error").text_content()


def test_what_takes_the_server_too_long_is_tried_alone_and_can_be_added_again(visit, server):
    server.service.limits, usual = Limits(seconds=1e-6), server.service.limits
    server.restart()
    try:
        page = visit(LABELS, expected="503|408")
        add(page, *PHOTOS)
    finally:
        server.service.limits = usual
        server.restart()
    assert answers(page) == ["unreadable"] * 3
    assert len(page.uploads) == 1 + 3
    add(page, *PHOTOS)
    assert answers(page) == ["a cat", "a rocket", "a cup of coffee"]


def test_labels_that_the_server_does_not_take_are_explained_beside_them(visit):
    page = visit("#labels=a+cat," + "x" * 1200, expected="413")
    add(page, "cat.jpg", "rocket.jpg")
    page.locator("#label-problem", has_text="1000 at most").wait_for()
    press(page, "l", "Backspace")
    type_label(page, "a dog,")
    answered(page)
    assert page.locator("#label-problem").text_content() == ""
    assert len(answers(page)) == 2


def test_labels_that_the_model_cannot_tell_apart_are_warned_of(visit):
    page = visit("#labels=Dog,dog,cat")
    add(page, "cat.jpg")
    assert "Dog" in page.locator("#label-warning").text_content()


def test_a_busy_server_is_waited_for_and_stale_answers_are_dropped(visit, server):
    page = visit("#labels=a+cat,a+dog", expected="429")
    with server.busy():
        page.locator("#files").set_input_files([EXAMPLES / name for name in PHOTOS])
        page.locator("#count", has_text="the server is busy").wait_for()
        type_label(page, "a rocket,")
    answered(page)
    assert "a rocket" in {score["label"] for score in results(page)[1]["scores"]}
    assert page.locator("#count").text_content() == "3 images"


def test_uploads_are_cancelled_and_gone_on_with(visit, server):
    page = visit(LABELS, expected="429")
    with server.busy():
        page.locator("#files").set_input_files([EXAMPLES / name for name in PHOTOS])
        page.locator("#count", has_text="the server is busy").wait_for()
        page.locator("#cancel").click()
        page.locator("#count", has_text="cancelled").wait_for()
    type_label(page, "a dog,")
    page.wait_for_timeout(300)
    assert answers(page) == [""] * 3
    page.locator("#go-on").click()
    answered(page)
    assert answers(page) == ["a cat", "a rocket", "a cup of coffee"]


def test_a_server_that_is_gone_is_said_and_gone_on_with_when_it_is_back(visit, server):
    page = visit(LABELS, expected="ERR_CONNECTION_REFUSED|503")
    add(page, "cat.jpg")
    server.stop()
    try:
        type_label(page, "a dog,")
        page.locator("#problem", has_text="does not answer").wait_for()
        assert labels(page) == ["a cat", "a rocket", "a cup of coffee", "a dog"]
    finally:
        server.start()
    page.locator("#again").click()
    page.locator("#problem").wait_for(state="hidden")
    answered(page)
    assert "a dog" in bars(page)
    assert len(page.uploads) == 1


def test_a_token_is_asked_for_and_kept_for_the_tab_only(visit, server, monkeypatch):
    monkeypatch.setattr(server.service, "token", "the right token")
    page = visit(LABELS, expected="401")
    for text in ("a wrong one", "the right token"):
        page.locator("#token-text").fill(text)
        press(page, "Enter")
        if text == "a wrong one":
            page.locator("#token-problem", has_text="does not take this token").wait_for()
    page.locator("#token").wait_for(state="hidden")
    add(page, "cat.jpg")
    assert "a cat" in bars(page)
    page.reload()
    until(page, "document.getElementById('templates').options.length > 0")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.search]") == [
        0,
        1,
        "",
        "",
    ]


# For everyone


def test_all_of_it_is_done_with_the_keyboard(visit):
    page = visit()
    press(page, "l")
    page.keyboard.type("a cat,a rocket,a cup of coffee")
    press(page, "Enter")
    add(page, *PHOTOS, "temple.jpg")
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    for _ in range(40):
        if "cat.jpg" in page.evaluate(focused):
            break
        press(page, "Tab")
        outline = page.evaluate(
            "getComputedStyle(document.activeElement.closest('#labels') ?? document.activeElement).outlineStyle"
        )
        assert (page.evaluate(focused), outline) != (page.evaluate(focused), "none")
    press(page, "ArrowRight")
    assert page.evaluate(focused).startswith("rocket.jpg, a rocket")
    press(page, "Enter")
    assert page.locator("#detail-name").text_content() == "rocket.jpg"
    press(page, "ArrowRight")
    assert page.locator("#detail-name").text_content() == "coffee.jpg"
    press(page, "Escape")
    until(page, f"({focused}).startsWith('coffee.jpg')")
    press(page, "Delete")
    until(page, "document.querySelectorAll('.card').length === 3")
    assert page.evaluate(focused).startswith("temple.jpg")
    press(page, "?")
    assert page.locator("#keys").is_visible()


def test_what_happens_is_told_to_those_who_hear_it(visit):
    page = visit(LABELS)
    add(page, "cat.jpg")
    until(page, "/^cat.jpg, a cat \\d+ %$/.test(document.getElementById('said').textContent)")
    add(page, "rocket.jpg")
    until(page, "document.getElementById('said').textContent === '2 images classified'")
    type_label(page, "a dog,")
    until(page, "document.getElementById('said').textContent === 'a dog added, 4 labels'")


STATES = ("nothing", "one picture", "several", "large", "export", "keys", "no labels")


@pytest.mark.parametrize(("colours", "width"), [("light", 1200), ("dark", 360)])
def test_every_control_has_a_name_text_its_contrast_and_nothing_is_wider_than_the_screen(
    visit, tmp_path, colours, width
):
    (tmp_path / "torn.jpg").write_bytes(b"none")
    page = visit(
        LABELS + ",a+label+that+is+very+much+longer+than+all+others", color_scheme=colours,
        viewport={"width": width, "height": 740}, reduced_motion="reduce",
    )  # fmt: skip
    for state in STATES:
        if state == "one picture":
            add(page, "cat.jpg")
            page.locator(".score").first.click()
            page.locator(".heat:not([hidden])").wait_for(timeout=60_000)
        elif state == "several":
            add(page, "rocket.jpg", tmp_path / "torn.jpg")
        elif state == "large":
            page.locator(".pic").first.click()
        elif state == "export":
            press(page, "Escape")
            page.locator("#save").click()
        elif state == "keys":
            press(page, "Escape", "?")
        elif state == "no labels":
            press(page, "Escape", "l", *["Backspace"] * 4)
        page.wait_for_timeout(50)
        assert (state, nameless(page), low_contrast(page)) == (state, [], [])
        assert (state, page.evaluate("document.documentElement.scrollWidth")) == (state, width)
        inside = "[...document.querySelectorAll('dialog[open]')].every((one) => one.scrollWidth <= one.clientWidth)"
        assert (state, page.evaluate(inside)) == (state, True)


def test_on_a_phone_a_photo_can_be_taken(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.locator("#shoot").is_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    assert not page.locator("#mode").is_visible()
    page.locator("#options summary").click()
    assert page.locator("#mode").is_visible()
