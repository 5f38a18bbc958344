"""The page of a report in a browser: what is shown, filtered, reviewed and taken away."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import downloaded, low_contrast, nameless, press, until
from PIL import Image
from typer.testing import CliRunner

from clipzs import labelfiles, records, report, truth
from clipzs.cli import app
from clipzs.results import Result, Score
from clipzs.thumbnails import Thumbnails

LABELS = ("cat", "cup", "rocket")
# Of each image the truth, and the scores of the labels.
IMAGES = {
    "cat 1.jpg": ("cat", 0.90, 0.06, 0.04),
    "cat 2.jpg": ("cat", 0.80, 0.15, 0.05),
    "cat 3.jpg": ("cat", 0.30, 0.60, 0.10),
    "cat 4.jpg": ("cat", 0.45, 0.40, 0.15),
    "cup 1.jpg": ("cup", 0.10, 0.85, 0.05),
    "cup 2.jpg": ("cup", 0.05, 0.94, 0.01),
    "cup 3.jpg": ("cup", 0.50, 0.48, 0.02),
    "cup 4.jpg": ("cup", 0.20, 0.70, 0.10),
    "rocket 1.jpg": ("rocket", 0.02, 0.03, 0.95),
    "rocket 2.jpg": ("rocket", 0.11, 0.19, 0.70),
    "rocket 3.jpg": ("rocket", 0.55, 0.05, 0.40),
    "rocket 4.jpg": ("rocket", 0.31, 0.33, 0.36),
}
WRONG = ["cat 3.jpg", "cup 3.jpg", "rocket 3.jpg"]
# The margin between the best two grows in this order.
UNSURE = ["cup 3.jpg", "rocket 4.jpg", "cat 4.jpg", "rocket 3.jpg", "cat 3.jpg", "cup 4.jpg", "rocket 2.jpg",
          "cat 2.jpg", "cup 1.jpg", "cat 1.jpg", "cup 2.jpg", "rocket 1.jpg", "broken.jpg"]  # fmt: skip

Visit = Callable[..., Any]


@pytest.fixture
def visit(browser) -> Iterator[Visit]:
    """Open a page without a network; whatever it complains of or asks others for fails the test."""
    contexts, complaints = [], []

    def opened(file: Path, place: str = "", *, tile: bool = True, missing: str = "no file", **more: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | more)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said(message, missing))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: None if own(asked.url) else complaints.append(asked.url))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri() + place)
        if tile:
            page.wait_for_selector(".tile")
        return page

    def said(message: Any, missing: str) -> None:
        if message.type == "error" and not message.location["url"].endswith(missing):
            complaints.append(message.text)

    def own(url: str) -> bool:
        return url.startswith(("file://", "data:", "blob:"))

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of images, one of which cannot be read; their sides tell them apart."""
    folder = tmp_path_factory.mktemp("photos")
    for side, name in enumerate(IMAGES, 300):
        Image.effect_noise((side, 200), 60).convert("RGB").save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def page_file(photos, tmp_path_factory) -> Path:
    lines = [record(photos / name, dict(zip(LABELS, scores, strict=True)), right)
             for name, (right, *scores) in IMAGES.items()]  # fmt: skip
    lines.append(
        {"path": str(photos / "broken.jpg"), "label": None, "error": "not an image", "truth": "cat", "config": "c0ffee"}
    )
    return made(lines, tmp_path_factory.mktemp("page"))


def record(path: Path, scores: dict[str, float], right: str | None = None) -> dict[str, Any]:
    best = sorted(scores, key=lambda label: -scores[label])
    found = {"path": str(path), "label": best[0], "score": scores[best[0]], "model": "a model", "config": "c0ffee"}
    found["scores"] = [{"label": label, "score": scores[label]} for label in best]
    return found | ({"truth": right} if right else {})


def made(lines: list[dict[str, Any]], folder: Path) -> Path:
    """The page that `clipzs report` makes of records."""
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = CliRunner().invoke(app, ["report", str(folder / "results.jsonl"), "-o", str(folder / "page.html")])
    assert done.exit_code in (0, 3), done.output
    return folder / "page.html"


def names(page: Any) -> list[str]:
    """Of the tiles, in their order on the screen."""
    return page.eval_on_selector_all(
        ".tile:not([hidden])",
        "tiles => tiles.sort((a, b) => a.dataset.position - b.dataset.position)"
        ".map(tile => tile.querySelector('.name').textContent)",
    )


def told(page: Any) -> str:
    return page.locator("#count").text_content()


def check(page: Any, facet: str, value: str) -> None:
    box = page.locator("details.facet", has=page.locator("summary", has_text=facet)).first
    box.locator("label.check", has=page.get_by_text(value, exact=True)).locator("input").click()


def tile(page: Any, name: str) -> Any:
    return page.locator(".tile", has=page.locator(".name", has_text=name))


# What is shown


def test_it_opens_from_disk_and_shows_all_images(visit, page_file):
    page = visit(page_file)
    assert told(page) == "13 of 13 images"
    assert page.title() == "results.jsonl · clipzs report"
    assert "13 images · 1 unreadable · a model" in page.locator("#made").text_content()
    until(page, "document.querySelectorAll('.tile img.there').length === 12")
    assert tile(page, "cat 1.jpg").locator(".answer").text_content() == "cat"
    assert tile(page, "cat 1.jpg").locator(".num").text_content() == "90 %"
    assert tile(page, "cat 3.jpg").locator(".wrong").text_content() == "✕ truth: cat"
    assert tile(page, "cat 1.jpg").locator(".wrong").text_content() == ""
    assert "not an image" in tile(page, "broken.jpg").text_content()


def test_without_scripts_it_says_what_is_needed(visit, page_file):
    page = visit(page_file, tile=False, java_script_enabled=False)
    assert "drawn by the script inside it" in page.locator("noscript").inner_text()


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("unsure", UNSURE),
        ("high", ["rocket 1.jpg", "cup 2.jpg", "cat 1.jpg"]),
        ("low", ["rocket 4.jpg", "cat 4.jpg", "cup 3.jpg"]),
        ("path", ["broken.jpg", "cat 1.jpg", "cat 2.jpg"]),
        ("label", ["cat 1.jpg", "cat 2.jpg", "cat 4.jpg", "cup 3.jpg", "rocket 3.jpg", "cat 3.jpg"]),
        ("file", ["cat 1.jpg", "cat 2.jpg", "cat 3.jpg"]),
    ],
)
def test_they_are_sorted(visit, page_file, sort, first):
    page = visit(page_file)
    page.locator("#sort").select_option(sort)
    assert names(page)[: len(first)] == first


def test_filters_join_and_the_counts_follow(visit, page_file):
    page = visit(page_file, "#sort=file")
    check(page, "Answer", "cat")
    assert names(page) == ["cat 1.jpg", "cat 2.jpg", "cat 4.jpg", "cup 3.jpg", "rocket 3.jpg"]
    check(page, "Outcome", "Wrong")
    assert (names(page), told(page)) == (["cup 3.jpg", "rocket 3.jpg"], "2 of 13 images")
    facet = page.locator("details.facet", has=page.locator("summary", has_text="Answer"))
    counts = dict(zip(facet.locator(".what").all_text_contents(), facet.locator(".num").all_text_contents(),
                      strict=True))  # fmt: skip
    assert counts == {"cat": "2", "cup": "1", "rocket": "0"}  # of the wrong ones
    page.locator("#text").fill("ROCKET")
    until(page, "document.getElementById('count').textContent === '1 of 13 images'")
    page.locator("#clear").click()
    assert told(page) == "13 of 13 images"


def test_nothing_found_is_said_and_can_be_cleared(visit, page_file):
    page = visit(page_file)
    page.locator("#text").fill("no such name")
    page.locator("#clear-empty").click()
    assert told(page) == "13 of 13 images"


@pytest.mark.parametrize(
    ("slider", "keys", "shown"),
    [
        ("Score, least", ["End", *["ArrowLeft"] * 10], ["cat 1.jpg", "cup 2.jpg", "rocket 1.jpg"]),
        ("Score, most", ["Home", *["ArrowRight"] * 45], ["cat 4.jpg", "rocket 4.jpg"]),
        ("Margin, most", ["Home", *["ArrowRight"] * 3], ["cup 3.jpg", "rocket 4.jpg"]),
    ],
)
def test_ranges_of_score_and_margin(visit, page_file, slider, keys, shown):
    page = visit(page_file, "#sort=file")
    page.get_by_label(slider).focus()
    press(page, *keys)
    assert names(page) == shown


def test_back_undoes_a_filter_and_the_address_holds_it(visit, page_file):
    page = visit(page_file, "#sort=file&label=1")
    assert names(page) == ["cat 3.jpg", "cup 1.jpg", "cup 2.jpg", "cup 4.jpg"]
    check(page, "Outcome", "Wrong")
    assert names(page) == ["cat 3.jpg"]
    page.go_back()
    until(page, "document.getElementById('count').textContent === '4 of 13 images'")


def test_an_address_of_another_report_is_no_error(visit, page_file):
    page = visit(page_file, "#label=99&run=7&sort=toString&bin=-3&score=x_y&top=0.5&text=cat")
    assert told(page) == "4 of 13 images"


def test_the_larger_view_shows_the_file_itself_and_all_scores(visit, page_file, photos):
    page = visit(page_file)
    tile(page, "cat 3.jpg").click()
    width = list(IMAGES).index("cat 3.jpg") + 300
    until(page, f"document.getElementById('large-image').naturalWidth === {width}")
    assert page.locator("#large-path").text_content() == str(photos / "cat 3.jpg")
    shown = page.locator("#large .scores li").all_inner_texts()
    assert [text.split() for text in shown] == [["cup", "0.6000"], ["cat", "0.3000"], ["rocket", "0.1000"]]
    assert "wrong" in page.locator("#large-facts").inner_text()
    press(page, "ArrowRight")
    assert page.locator("#large-name").text_content() == UNSURE[UNSURE.index("cat 3.jpg") + 1]
    press(page, "Escape")
    until(page, "document.activeElement.querySelector('.name')?.textContent === 'cup 4.jpg'")


def test_where_the_file_is_gone_its_thumbnail_is_shown(visit, tmp_path):
    image = tmp_path / "gone.jpg"
    Image.new("RGB", (640, 480), "green").save(image)
    file = made([record(image, {"a": 0.7, "b": 0.3})], tmp_path)
    image.unlink()
    page = visit(file, missing="gone.jpg")
    page.locator(".tile").first.click()
    page.locator("#large-note", has_text="thumbnail").wait_for()
    assert 0 < page.evaluate("document.getElementById('large-image').naturalWidth") < 640


# The review


def test_it_is_done_with_the_keyboard(visit, page_file):
    page = visit(page_file, "#sort=file")
    page.locator(".tile").first.focus()
    press(page, "a", "x", "r")
    page.keyboard.type("rock")
    press(page, "Enter", "r")
    page.keyboard.type("a mug")
    press(page, "Enter")
    assert page.locator("#reviewed").text_content() == "4 of 13 reviewed"
    labels = [tile(page, name).get_attribute("aria-label") for name in list(IMAGES)[:4]]
    assert [label.rsplit(", ", 1)[1] for label in labels] == [
        "accepted", "rejected", "relabelled to rocket", "relabelled to a mug",
    ]  # fmt: skip
    press(page, "u", "u")
    assert page.locator("#reviewed").text_content() == "2 of 13 reviewed"
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "cat 3.jpg"


def test_what_was_accepted_stays_accepted_where_another_model_says_otherwise(visit, photos, tmp_path):
    lines = [record(photos / "cat 1.jpg", {"cat": 0.9, "cup": 0.1})]
    lines += [record(photos / "cat 1.jpg", {"cat": 0.2, "cup": 0.8}) | {"config": "other", "model": "second"}]
    page = visit(made(lines, tmp_path))
    page.locator(".tile").first.focus()
    press(page, "a")
    page.locator("#run").select_option(index=1)
    assert tile(page, "cat 1.jpg").locator(".answer").text_content() == "cup cat"
    page.locator("#save").click()
    (found,) = records.read(downloaded(page, "#save-jsonl", tmp_path))
    assert found.label == "cat"


def test_relabelling_to_the_answer_accepts_it(visit, page_file):
    page = visit(page_file, "#sort=file")
    page.locator(".tile").first.focus()
    press(page, "r")
    page.keyboard.type("cat")
    press(page, "Enter")
    assert tile(page, "cat 1.jpg").get_attribute("aria-label").endswith("accepted")


def test_arrows_go_from_tile_to_tile_and_one_is_a_tab_stop(visit, page_file):
    page = visit(page_file, "#sort=file", viewport={"width": 1200, "height": 500})
    page.locator(".tile").first.focus()
    columns = int(page.locator("#grid").get_attribute("aria-colcount"))
    press(page, "ArrowRight", "ArrowDown")
    focused = "document.activeElement.querySelector('.name').textContent"
    assert page.evaluate(focused) == list(IMAGES)[1 + columns]
    press(page, "End")
    assert page.evaluate(focused) == "broken.jpg"
    assert page.locator(".tile[tabindex='0']").count() == 1


def test_several_are_selected_and_reviewed_at_once(visit, page_file):
    page = visit(page_file, "#sort=file")
    page.locator(".tile").first.focus()
    press(page, "Shift+ArrowRight", "Shift+ArrowRight")
    tile(page, "cup 2.jpg").click(modifiers=["Control"])
    assert page.locator("#selected").text_content() == "4 selected"
    page.locator("#selection [data-act=reject]").click()
    assert page.locator("#reviewed").text_content() == "4 of 13 reviewed"
    page.locator("#select-all").click()
    press(page, "u")  # the step before, all of it
    assert page.locator("#reviewed").text_content() == "0 of 13 reviewed"
    page.locator("#selection [data-act=accept]").click()
    assert page.locator("#reviewed").text_content() == "12 of 13 reviewed"  # what has no answer cannot be accepted


def test_mouse_and_larger_view_review_too(visit, page_file):
    page = visit(page_file, "#sort=file")
    tile(page, "cat 2.jpg").hover()
    tile(page, "cat 2.jpg").locator(".quick [data-act=accept]").click()
    tile(page, "cup 1.jpg").click()
    page.locator("#large [data-act=reject]").click()
    assert page.locator("#large-name").text_content() == "cup 2.jpg"
    press(page, "a", "Escape")
    assert page.locator("#reviewed").text_content() == "3 of 13 reviewed"


def test_it_survives_a_reload_until_it_is_started_over(visit, page_file):
    page = visit(page_file, "#sort=file")
    page.locator(".tile").first.focus()
    press(page, "a", "r")
    page.keyboard.type("a mug")
    press(page, "Enter")
    until(page, "Object.keys(localStorage).some((key) => key.startsWith('clipzs-review:'))")
    page.reload()
    page.wait_for_selector(".tile")
    assert page.locator("#reviewed").text_content() == "2 of 13 reviewed"
    assert tile(page, "cat 2.jpg").locator(".answer").text_content() == "cat a mug"
    page.locator("#save").click()
    page.locator("#start-over").click()
    page.locator("#sure-yes").click()
    page.reload()
    assert page.locator("#reviewed").text_content() == "0 of 13 reviewed"


def test_a_browser_that_keeps_nothing_is_said_and_reviews_all_the_same(visit, page_file):
    page = visit(page_file, tile=False)
    page.context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})")
    page.reload()
    page.locator(".tile").first.focus()
    press(page, "a")
    page.get_by_text("This browser keeps nothing").wait_for()
    assert page.locator("#reviewed").text_content() == "1 of 13 reviewed"


def test_a_filter_by_review_moves_nothing_under_the_hand(visit, page_file):
    page = visit(page_file, "#sort=file&review=0")
    page.locator(".tile").first.focus()
    press(page, "a", "x")
    assert told(page) == "13 of 13 images"
    page.locator("#refresh").click()
    assert (told(page), names(page)[0]) == ("11 of 13 images", "cat 3.jpg")


# What is taken away


@pytest.fixture
def reviewed(visit, page_file) -> Any:
    """Two accepted, one relabelled, one given a new label, one rejected."""
    page = visit(page_file, "#sort=file")
    page.locator(".tile").first.focus()
    press(page, "a", "a", "r")
    page.keyboard.type("cat")
    press(page, "Enter", "x", "r")
    page.keyboard.type("=a mug, blue")
    press(page, "Enter")
    page.locator("#save").click()
    return page


CORRECTED = {"cat 1.jpg": "cat", "cat 2.jpg": "cat", "cat 3.jpg": "cat", "cup 1.jpg": "=a mug, blue"}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_corrections_are_read_by_all_that_reads_labels(reviewed, photos, tmp_path, form):
    file = downloaded(reviewed, f"#save-{form}", tmp_path)
    assert file.name == f"corrections.{form}"
    whole = {str(photos / name): label for name, label in CORRECTED.items()}
    assert {one.path: one.label for one in records.read(file)} == whole
    found = truth.from_file(file)
    assert dict(zip(found.paths, (found.classes[one] for one in found.answers), strict=True)) == whole
    assert [label.name for label in labelfiles.read(file)] == ["cat", "=a mug, blue"]


def test_corrections_say_what_was_and_what_was_done(reviewed, photos, tmp_path):
    lines = downloaded(reviewed, "#save-jsonl", tmp_path).read_text().splitlines()
    assert json.loads(lines[2]) == {
        "path": str(photos / "cat 3.jpg"), "label": "cat", "was": "cup", "review": "relabelled",
    }  # fmt: skip
    table = downloaded(reviewed, "#save-csv", tmp_path).read_text().splitlines()
    assert table[0] == "path,label,was,review"
    assert table[4] == f'{photos / "cup 1.jpg"},"\'=a mug, blue",cup,relabelled'


def test_all_images_come_as_corrected_without_the_rejected(reviewed, photos, tmp_path):
    reviewed.get_by_label("All images, reviewed ones as corrected").check()
    found = {Path(one.path).name: one.label for one in records.read(downloaded(reviewed, "#save-csv", tmp_path))}
    answers = {name: LABELS[scores.index(max(scores))] for name, (_, *scores) in IMAGES.items()}
    del answers["cat 4.jpg"]
    assert found == answers | CORRECTED


def test_rejected_paths_come_one_a_line(reviewed, photos, tmp_path):
    assert downloaded(reviewed, "#save-rejected", tmp_path).read_text() == f"{photos / 'cat 4.jpg'}\n"


# The evaluation


def test_a_cell_of_the_confusion_matrix_opens_its_pictures(visit, page_file):
    page = visit(page_file)
    page.locator("#to-evaluation").click()
    table = page.locator("table.matrix")
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert rows == [["cat", "3", "1", "", "4"], ["cup", "1", "3", "", "4"], ["rocket", "1", "", "3", "4"]]
    assert "75.0 %" in page.locator(".card").first.inner_text()
    assert re.search(r"[\d.]+ to [\d.]+ %", page.locator(".card").first.inner_text())
    page.get_by_role("button", name="1 image of rocket answered with cat").click()
    assert names(page) == ["rocket 3.jpg"]
    page.go_back()
    page.locator("table.matrix").wait_for()


def test_arrows_go_through_the_confusion_matrix(visit, page_file):
    page = visit(page_file, "#view=evaluation", tile=False)
    page.locator("table.matrix button").first.focus()
    press(page, "ArrowDown", "ArrowDown", "ArrowRight", "Enter")
    assert sorted(names(page)) == [f"rocket {number}.jpg" for number in (1, 2, 4)]


def test_a_bin_of_the_reliability_curve_opens_its_pictures(visit, page_file):
    page = visit(page_file, "#view=evaluation", tile=False)
    marks = page.locator("svg.reliability g")
    assert sum(int(mark.get_attribute("aria-label").split(": ")[1].split()[0]) for mark in marks.all()) == 12
    marks.last.focus()
    press(page, "Enter")
    assert sorted(names(page)) == ["cup 2.jpg", "rocket 1.jpg"]
    page.go_back()
    page.get_by_text("As a table").click()
    page.get_by_role("button", name="confidence 93 % to 100 %: 2 images").last.click()
    assert sorted(names(page)) == ["cup 2.jpg", "rocket 1.jpg"]


def test_every_number_of_the_evaluation_opens_as_many_pictures(visit, photos, tmp_path):
    for name in IMAGES:
        (tmp_path / "truth" / name.split()[0]).mkdir(parents=True, exist_ok=True)
        os.link(photos / name, tmp_path / "truth" / name.split()[0] / name)
    how = ["--model", "tiny", "--labels", "cat,cup,rocket,dog,bird,car", "--unknown", "--min-score", "0.3"]
    target = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "truth"), *how, "--report", str(target)])
    assert done.exit_code == 0, done.output
    page = visit(target, "#view=evaluation", tile=False)
    page.get_by_text("As a table").click()
    for numbers in ("table.matrix button", "#evaluation details button"):
        texts = page.locator(numbers).all_inner_texts()
        assert sum(map(int, texts)) == 12
        for place, text in enumerate(texts):
            page.locator(numbers).nth(place).click()
            assert told(page) == f"{text} of 12 images"
            page.go_back()


@pytest.mark.parametrize(
    ("root", "address"),
    [
        ("C:\\my pics\\", "file:///C:/my%20pics/a%23b.jpg"),
        ("\\\\server\\share\\", "file://server/share/a%23b.jpg"),
        ("/100%/", "file:///100%25/a%23b.jpg"),
    ],
)
def test_addresses_of_files_on_any_system(visit, page_file, tmp_path, root, address):
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page_file.read_text(), re.S)
    data = json.loads(found[1])
    data["images"]["path"][0] = "a#b.jpg"
    (tmp_path / "page.html").write_bytes(report.page(data | {"root": root}))
    page = visit(tmp_path / "page.html", "#sort=file", missing="a%23b.jpg")
    page.locator(".tile").first.click()
    assert page.locator("#original").get_attribute("href") == address


def test_of_two_models_each_has_its_answers(visit, photos, tmp_path):
    lines = [record(photos / "cat 1.jpg", {"cat": 0.9, "cup": 0.1}, "cat")]
    lines += [record(photos / "cat 1.jpg", {"cat": 0.2, "cup": 0.8}, "cat") | {"config": "other", "model": "second"}]
    page = visit(made(lines, tmp_path))
    assert (told(page), tile(page, "cat 1.jpg").locator(".wrong").text_content()) == ("1 of 1 image", "")
    page.locator("#run").select_option(index=1)
    assert tile(page, "cat 1.jpg").locator(".answer").text_content() == "cup"
    assert tile(page, "cat 1.jpg").locator(".wrong").text_content() == "✕ truth: cat"


def test_several_answers_groups_and_cosines(visit, photos, tmp_path):
    lines = [record(photos / "cat 1.jpg", {"cat": 0.9, "cup": 0.6, "rocket": 0.1}) | {"labels": ["cat", "cup"]}]
    lines += [record(photos / "cat 2.jpg", {"cat": 0.4, "cup": 0.3}) | {
        "label": "thing", "score": 0.9, "groups": [{"label": "thing", "score": 0.9}], "truth": "cat"}]  # fmt: skip
    page = visit(made(lines, tmp_path), "#sort=file")
    assert page.locator(".tile:not([hidden]) .answer").all_text_contents() == ["cat, cup", "thing"]
    check(page, "Answer", "cup")
    assert names(page) == ["cat 1.jpg"]
    page.locator("#clear").click()
    check(page, "Group", "thing")
    assert names(page) == ["cat 2.jpg"]
    assert "no answer" not in page.locator(".tile").first.text_content()
    page.locator("#clear").click()
    check(page, "Outcome", "No label given")
    assert names(page) == ["cat 2.jpg"]
    (tmp_path / "cosines").mkdir()
    page = visit(made([record(photos / "cat 1.jpg", {"cat": 0.31, "cup": 0.22})], tmp_path / "cosines"))
    assert tile(page, "cat 1.jpg").locator(".num").text_content() == "0.310"


# Whatever names there are

NAMES = [
    b"</script><img src=x onerror=alert(1)>.jpg",
    b"quote ' \" & <b> #1 100% ?.jpg",
    b"line\nend\ttab.jpg",
    "right\u202egpj.jpg".encode(),
    b"not utf-8 \xff\xe9.jpg",
    "-=１＋1.jpg".encode(),
]
HOSTILE = ["</script><script>alert(1)</script>", "<!--", "=1+1", 'a "b", c', "two\nlines", "שלום\u202e", "{{data}}"]


def test_hostile_names_and_labels_stay_text(visit, tmp_path):
    folder = os.fsencode(tmp_path)
    lines = []
    for number, (name, label) in enumerate(zip(NAMES, HOSTILE, strict=False)):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            Image.new("RGB", (310 + number, 200), "teal").save(file, "JPEG")
        scores = dict.fromkeys(HOSTILE, 0.05) | {label: 0.7}
        lines.append(record(os.fsdecode(path), scores, HOSTILE[0]))
    page = visit(made(lines, tmp_path), "#sort=file")
    assert page.locator("img[src=x]").count() == 0
    until(page, f"document.querySelectorAll('.tile img.there').length === {len(NAMES)}")
    assert names(page)[1:] == [
        "quote ' \" & <b> #1 100% ?.jpg", "line\\x0aend\\x09tab.jpg", "right\\u202egpj.jpg", "not utf-8 \\xff\\xe9.jpg",
        "-=１＋1.jpg",
    ]  # fmt: skip
    assert page.locator(".answer").all_text_contents()[:2] == HOSTILE[:2]
    page.locator(".tile").first.click()
    for number in range(len(NAMES)):  # each address leads to its file
        until(page, f"document.getElementById('large-image').naturalWidth === {310 + number}")
        press(page, "a")
    press(page, "Escape")
    page.locator("#save").click()
    for form in ("csv", "jsonl"):
        found = list(records.read(downloaded(page, f"#save-{form}", tmp_path)))
        assert [os.fsencode(one.path) for one in found] == [os.path.join(folder, name) for name in NAMES]
        assert [one.label for one in found] == HOSTILE[: len(NAMES)]
    press(page, "Escape")
    page.locator("#to-evaluation").click()
    page.locator("table.matrix").wait_for()


# For everyone


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_control_has_a_name_and_text_its_contrast(visit, page_file, colours):
    page = visit(page_file, "#sort=file&label=0", color_scheme=colours)
    page.locator(".tile").first.focus()
    press(page, "a", "x", "Space")
    views = {"grid": None, "large view": "Enter", "relabelling": "r", "keys": "?"}
    for view, key in views.items():
        if key:
            press(page, key)
        assert (view, nameless(page), low_contrast(page)) == (view, [], [])
        if key and view != "large view":
            press(page, "Escape")
        if view == "relabelling":
            press(page, "Escape")
    page.locator("#save").click()
    assert (nameless(page), low_contrast(page)) == ([], [])
    press(page, "Escape")
    page.locator("#to-evaluation").click()
    assert (nameless(page), low_contrast(page)) == ([], [])


def test_colours_follow_the_system_or_the_choice_which_is_kept(visit, page_file):
    page = visit(page_file, color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


@pytest.mark.parametrize("width", [360, 640, 1200])
@pytest.mark.parametrize("view", ["", "evaluation"])
def test_nothing_is_wider_than_the_screen(visit, page_file, width, view):
    page = visit(page_file, f"#view={view}", tile=not view, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if not view:
        page.locator(".tile").first.click()
        assert page.evaluate("document.getElementById('large').scrollWidth") <= width
        press(page, "Escape")


def test_on_a_phone_the_filters_are_a_screen_of_their_own(visit, page_file):
    page = visit(page_file, "#sort=file", viewport={"width": 360, "height": 740})
    assert not page.locator("#filters").is_visible()
    page.locator("#open-filters").click()
    check(page, "Outcome", "Wrong")
    assert page.locator("#show").text_content() == "Show 3 images"
    page.locator("#show").click()
    assert not page.locator("#filters").is_visible()
    assert names(page) == WRONG


def test_of_fifty_thousand_only_those_on_the_screen_exist(visit, tmp_path):
    page_file = tmp_path / "many.html"
    sink = report.Report(page_file, Thumbnails(page_file), labels=LABELS)
    for start in range(0, 50_000, 10_000):
        sink.write([
            Result(f"/nowhere/{number:05d}.jpg", LABELS[number % 3], 0.5 + number / 200_000,
                   (Score(LABELS[number % 3], 0.5 + number / 200_000), Score(LABELS[(number + 1) % 3], 0.2)))
            for number in range(start, start + 10_000)
        ])  # fmt: skip
    sink.close({"clipzs": "0"})
    page = visit(page_file)
    assert told(page) == "50,000 of 50,000 images"
    assert page.evaluate("document.querySelectorAll('*').length") < 3000
    page.locator(".tile").first.focus()
    press(page, "End")
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "49999.jpg"
    assert page.evaluate("document.querySelectorAll('*').length") < 3000
    check(page, "Answer", "cup")
    assert told(page) == "16,667 of 50,000 images"
    assert names(page)[0] == "00001.jpg"
    page.locator(".tile").first.focus()
    press(page, "Control+a")
    assert page.locator("#selected").text_content() == "16,667 selected"
    press(page, "a")
    assert page.locator("#reviewed").text_content() == "16,667 of 50,000 reviewed"
