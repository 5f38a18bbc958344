"""The score of an image is its own: whatever else is in the run, and however the work is shared out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipzs import Classifier, decoders, filehashes
from clipzs.decoders import DECODERS
from clipzs.results import printed

LABELS = ["cat", "a cup of coffee", "rocket", "temple", "flower"]
TOLERANCE = 1e-5

Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real ones of several sizes and formats, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    found = sorted(EXAMPLES.glob("*.jpg"))
    for number, path in enumerate(sorted(EXAMPLES.glob("*.jpg"))):
        with Image.open(path) as image:
            found.append(folder / f"{number}.{('png', 'webp', 'tiff')[number % 3]}")
            image.resize((90 + 70 * number, 300 - 30 * number)).save(found[-1])
    (folder / "text.jpg").write_text("no picture")
    return [*found, folder / "text.jpg", folder / "none.jpg"]


def scores(classifier: Classifier, images: list[Path]) -> list[dict[str, float] | None]:
    found = list(classifier.classify(images))
    assert [one.path for one in found] == [*map(str, images)]
    return [None if one.error else {score.label: score.score for score in one.scores} for one in found]


@pytest.fixture
def workers() -> Iterator[pytest.MonkeyPatch]:
    """Sets how many there may be, and ends them."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    DECODERS.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_scores_do_not_depend_on_batch_size_order_workers_engine_or_caches(photos, workers, known, data):
    classifiers, expected = known
    classifier = classifiers[data.draw(st.sampled_from(sorted(classifiers)), "engine and cache")]
    places = data.draw(st.lists(st.integers(0, len(photos) - 1), min_size=1, max_size=40), "images")
    classifier.options = replace(classifier.options, batch_size=data.draw(st.integers(1, 40), "batch size"))
    number = data.draw(st.integers(1, 4), "workers")
    workers.setattr(decoders, "_most", lambda: number)
    if data.draw(st.booleans(), "fresh workers"):
        DECODERS.close()
    for place, found in zip(places, scores(classifier, [photos[place] for place in places]), strict=True):
        if expected[place] is None:
            assert found is None
        else:
            assert found == pytest.approx(expected[place], abs=TOLERANCE)


@pytest.fixture
def known(photos, monkeypatch):
    """Classifiers that share one cache, and the scores of each photo alone by torch without any cache."""
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)
    alone = Classifier(LABELS, model="tiny", engine="torch", batch_size=1, cache=False)
    expected = [scores(alone, [photo])[0] for photo in photos]
    made = {
        f"{engine} {cached}": Classifier(LABELS, model="tiny", engine=engine, image_cache=cached)
        for engine in ("torch", "auto")
        for cached in (True, False)
    }
    return made, expected


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_what_the_command_prints_is_within_the_tolerance_for_any_batch_size(run: Run, photos, engine):
    """With all six decimals."""
    printed = []
    for size in (1, 3, 32):
        command = ("classify", *photos, "--labels", ",".join(LABELS), "--model", "tiny", "--engine", engine)
        result = run(*command, "-b", size, "--no-image-cache", "--decimals", 6, "-f", "tsv", "-k", 5)
        rows = sorted(line.split("\t") for line in result.stdout.splitlines())
        printed.append(np.array([float(row[2]) for row in rows if row[2]]))
        assert len(printed[-1]) == len(LABELS) * (len(photos) - 2)
    assert max(np.abs(one - printed[0]).max() for one in printed) <= TOLERANCE


@pytest.mark.parametrize("kind", ["softmax", "cosine"])
def test_the_digits_that_are_printed_are_those_that_hold_for_any_batch_size(run: Run, photos, kind, monkeypatch):
    """But for scores on the edge between two: four decimals, or three digits of small scores."""
    monkeypatch.delenv("CLIPZS_DECIMALS")
    numbers: dict[str, list[list[str]]] = {"tsv": [], "json": []}
    for size in (1, 3, 32):
        for form, found in numbers.items():
            command = ("classify", *photos, "--labels", ",".join(LABELS), "--model", "tiny", "--engine", "torch")
            result = run(*command, "--score", kind, "-b", size, "--no-image-cache", "-f", form, "-k", len(LABELS))
            if form == "tsv":
                found.append([score for line in result.stdout.splitlines() if (score := line.split("\t")[2])])
            else:
                records = json.loads(result.stdout)["results"]
                found.append([str(one["score"]) for record in records for one in record["scores"]])
    for tsv, as_json in zip(*numbers.values(), strict=True):
        assert [*map(float, tsv)] == [*map(float, as_json)]
        assert len(tsv) == len(LABELS) * (len(photos) - 2)
        for number in tsv:
            decimals = len(number.split(".")[1])
            assert decimals == 4 if abs(float(number)) > 0.01 else 4 <= decimals <= 9
    for other in numbers["tsv"][1:]:
        changed = [pair for pair in zip(numbers["tsv"][0], other, strict=True) if len(set(pair)) > 1]
        assert len(changed) <= len(other) / 50
        for one, another in changed:
            assert abs(float(one) - float(another)) <= 1.01e-4


def test_scores_keep_their_order_and_three_digits_when_they_are_printed():
    @settings(deadline=None)
    @given(st.lists(st.floats(-1, 1) | st.floats(-18, 0).map(lambda power: 10**power), min_size=2), st.integers(2, 9))
    def check(given_scores, decimals):
        ordered = sorted(given_scores)
        read = [float(printed(score, decimals)) for score in ordered]
        assert read == sorted(read)
        for score, number in zip(ordered, read, strict=True):
            least = 10.0 ** -(decimals + 5)
            assert abs(score - number) <= 0.501 * max(least, min(1.0, abs(score) / 0.01) * 10.0**-decimals)

    check()


def test_a_compiled_model_prints_the_same_digits_for_any_batch_size_and_order(run: Run, photos):
    """Its towers take each image by itself."""
    from clipzs.compiled import available

    if not available():
        pytest.skip("OpenVINO has no wheels for this platform")
    lines = set()
    for size, order in ((1, 1), (5, -1), (32, 1)):
        command = ("classify", *photos[::order], "--labels", ",".join(LABELS), "--model", "tiny")
        result = run(*command, "-b", size, "--no-image-cache", "--json")
        lines.add(tuple(sorted(result.stdout.splitlines())))
    assert len(lines) == 1
