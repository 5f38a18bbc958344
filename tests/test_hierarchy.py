"""Groups of several levels: how files write them, what their labels have together, and answers that roll up to them."""

import csv
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from conftest import EXAMPLES
from hypothesis import given
from hypothesis import strategies as st

from clipzs import Classifier, Label, labelfiles, labels, score
from clipzs.answers import RollUp
from clipzs.errors import ClipzsError

TINY = ("--model", "tiny")
TREE = """\
- {name: cat, group: animal > pet}
- {name: dog, group: [animal, pet]}
- {name: horse, group: animal}
- {name: car, group: vehicle}
- {name: rocket, group: vehicle}
- a cup of coffee
"""
GROUPS = {
    "cat": ("animal", "pet"), "dog": ("animal", "pet"), "horse": ("animal",), "car": ("vehicle",),
    "rocket": ("vehicle",), "a cup of coffee": (),
}  # fmt: skip
PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket", "flower")]


@pytest.fixture
def tree(tmp_path):
    path = tmp_path / "tree.yaml"
    path.write_text(TREE, encoding="utf-8")
    return path


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def only_together(run, tree):
    """`only_together(*options)`: a sum that cat and dog reach for the photo of a cat, and no label alone."""

    def between(*options: str) -> float:
        plain = run("classify", PHOTOS[0], "--labels-file", tree, *TINY, "--json", "--decimals", 9, *options)
        (record,) = records(plain.stdout)
        row = {one["label"]: one["score"] for one in record["scores"]}
        return row["cat"] + row["dog"] / 2

    return between


# Trees drawn by chance, and the definition word by word


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """Of each of some labels the groups that it is in, in one tree."""
    above = draw(st.lists(st.integers(-1, 5), max_size=7))  # each group is in one that was drawn before it
    paths: list[tuple[str, ...]] = []
    for number, parent in enumerate(above):
        outer = paths[parent] if 0 <= parent < number else ()
        paths.append((*outer, f"group {number}"))
    return draw(st.lists(st.sampled_from([(), *paths]), min_size=2, max_size=9))


@st.composite
def exact(draw: st.DrawFn, count: int) -> list[float]:
    """Probabilities in 32nds, whose sums are exact, so that ties and sums at the limit occur."""
    cuts = sorted(draw(st.lists(st.integers(0, 32), min_size=count - 1, max_size=count - 1)))
    return [(high - low) / 32 for low, high in zip([0, *cuts], [*cuts, 32], strict=True)]


def sums(groups: list[tuple[str, ...]], row: list[float]) -> dict[tuple[str, ...], float]:
    """Of each group, under the names of those that it is in and its own."""
    found: dict[tuple[str, ...], float] = {}
    for chain, probability in zip(groups, row, strict=True):
        for level in range(len(chain)):
            found[chain[: level + 1]] = found.get(chain[: level + 1], 0.0) + probability
    return found


def by_definition(groups: list[tuple[str, ...]], row: list[float], least: float) -> tuple[str, ...] | None:
    """The answer with the groups above it; None for the unknown label."""
    best = row.index(max(row))
    if row[best] >= least:
        return (*groups[best], f"label {best}")
    enough = [(path, has) for path, has in sums(groups, row).items() if has >= least]
    finest = [(path, has) for path, has in enough if len(path) == max(len(one) for one, _ in enough)]
    return max(finest, key=lambda one: one[1])[0] if finest else None


def answers(groups: list[tuple[str, ...]], table: np.ndarray, least: float) -> list:
    names = [f"label {number}" for number in range(len(groups))]
    return [*RollUp(names, groups, least=least, unknown="?")(table.astype(np.float32))]


@given(groups=chains(), data=st.data(), least=st.sampled_from([0.5, 0.53125, 0.75, 0.875, 1.0]))
def test_the_answer_is_the_best_label_or_the_finest_group_that_has_enough(groups, data, least):
    rows = data.draw(st.lists(exact(len(groups)), min_size=1, max_size=5))
    for row, answer in zip(rows, answers(groups, np.array(rows), least), strict=True):
        expected = by_definition(groups, row, least)
        assert answer.label == (expected[-1] if expected else "?")
        has = {(*chain, f"label {number}"): one for number, (chain, one) in enumerate(zip(groups, row, strict=True))}
        assert answer.score == ({**has, **sums(groups, row)}[expected] if expected else None)


@given(groups=chains(), data=st.data())
def test_a_higher_limit_gives_the_same_answer_or_a_group_that_it_is_in(groups, data):
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    table = draw.dirichlet(np.full(len(groups), 0.3), size=4)
    paths = {path[-1]: path for path in sums(groups, table[0].tolist())}
    paths |= {f"label {number}": (*chain, f"label {number}") for number, chain in enumerate(groups)} | {"?": ()}
    limits = sorted(data.draw(st.lists(st.floats(0.51, 1.0), min_size=2, max_size=4)))
    for found in zip(*(answers(groups, table, least) for least in limits), strict=True):
        for lower, higher in itertools.pairwise(found):
            coarse, fine = paths[higher.label], paths[lower.label]
            assert fine[: len(coarse)] == coarse
            assert higher.score is None or higher.score >= lower.score


@given(groups=chains(), seed=st.integers(0, 999))
def test_a_group_has_what_its_labels_have_together_and_no_less_than_what_is_in_it(groups, seed):
    table = np.random.default_rng(seed).dirichlet(np.full(len(groups), 0.1), size=3).astype(np.float32)
    levels = score.Levels(groups)
    found = {
        name: column
        for names, together in zip(levels.names, levels(table), strict=True)
        for name, column in zip(names, together.T, strict=True)
    }
    rows = [sums(groups, row.tolist()) for row in table]
    for path in rows[0]:
        np.testing.assert_allclose(found[path[-1]], [row[path] for row in rows], rtol=1e-6)
        assert len(path) == 1 or (found[path[-2]] >= found[path[-1]]).all()
    assert set(found) == {path[-1] for path in rows[0]}


@given(groups=chains(), data=st.data())
def test_the_likeliest_group_of_each_level_comes_with_the_answer_finest_first(groups, data):
    row = data.draw(exact(len(groups)))
    ((_, _, _, told),) = answers(groups, np.array([row]), 0.75)
    found = sums(groups, row)
    depth = max(map(len, groups))
    assert len(told) == depth
    for level, one in zip(range(depth, 0, -1), told, strict=True):
        on_level = {path[-1]: has for path, has in found.items() if len(path) == level}
        assert (on_level[one.label], one.score) == (max(on_level.values()), max(on_level.values()))


def test_an_unknown_label_that_has_a_probability_is_in_no_group_and_answered_with_it():
    rolling = RollUp(["cat", "dog"], [("pet",), ("pet",)], least=0.7, unknown="?")
    found = rolling(np.array([[0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [0.1, 0.0, 0.9]], np.float32))
    assert [(one.label, pytest.approx(one.score)) for one in found] == [("pet", 0.75), ("?", 0.4), ("?", 0.9)]


# Files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.yaml", TREE),
        ("l.csv", "group,label\nanimal > pet,cat\nanimal > pet,dog\nanimal,horse\nvehicle,car\nvehicle,rocket\n"
                  ",a cup of coffee\n"),
        ("l.json", json.dumps([{"name": name, "group": [*chain]} for name, chain in GROUPS.items()])),
    ],
)  # fmt: skip
def test_every_kind_of_file_has_groups_of_several_levels(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert {label.name: label.groups for label in labelfiles.read(tmp_path / name)} == GROUPS


def test_a_sign_that_does_not_stand_alone_parts_nothing():
    assert labels.levels("a>b") == ("a>b",)
    assert labels.levels("  animal   >  big cat ") == ("animal", "big cat")


@given(st.lists(st.text("ab> ", min_size=1).map(str.strip).filter(bool), unique=True).map(tuple))
def test_what_is_written_is_read_back(groups):
    assert labels.levels(labels.written(groups)) == groups


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        ("l.yaml", "- cat\n- name: dog\n  group: animal > > pet\n", 3, "`group` has an empty level"),
        ("l.yaml", "- cat\n- name: dog\n  group: animal >\n", 3, "`group` has an empty level"),
        ("l.yaml", "- cat\n- name: dog\n  group: [animal, '']\n", 3, "`group` has an empty level"),
        ("l.yaml", "- cat\n- name: dog\n  group: ' '\n", 3, "`group` is empty"),
        ("l.yaml", "- cat\n- name: dog\n  group: [animal, [pet]]\n", 3,
         "`group` must be text or a list of texts, the coarsest first"),
        ("l.yaml", "- cat\n- name: dog\n  group: {a: b}\n", 3,
         "`group` must be text or a list of texts, the coarsest first"),
        ("l.yaml", "- cat\n- name: dog\n  group: pet > animal > pet\n", 3, "`group` has a level twice"),
        ("l.json", '["cat",\n{"name": "dog", "group": 7}]', 2,
         "`group` must be text or a list of texts, the coarsest first"),
        ("l.csv", "label,group\ncat,\ndog,> pet\n", 3, "`group` has an empty level"),
    ],
)  # fmt: skip
def test_groups_that_are_none_are_refused_with_file_and_line(run, tmp_path, cat, name, content, line, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    result = run("classify", cat, "--labels-file", tmp_path / name, *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    hint = "write animal, animal > dog, or in YAML and JSON [animal, dog]"
    assert result.stderr == f"error: {tmp_path / name}:{line}: {said}\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- {name: cat, group: animal > pet}\n- {name: pug, group: dog > pet}\n",
         "{}:2: group 'pet' is in 'dog' with label 'pug', and in 'animal' with 'cat'"),
        ("- {name: cat, group: animal > pet}\n- {name: pug, group: pet}\n",
         "{}:2: group 'pet' is in no other with label 'pug', and in 'animal' with 'cat'"),
        ("- {name: cat, group: animal > pet}\n- car\n- pet\n",
         "{}:3: 'pet' is a label and a group: an answer could be either"),
        ("- {name: cat, group: animal}\n- name: ufo\n  group: unknown\n",
         "{}:2: 'unknown' is a group, and what is answered where no label is"),
        ("- cat\n- car\n", "--roll-up needs labels with a group"),
    ],
)  # fmt: skip
def test_groups_that_nothing_can_be_rolled_up_to_are_refused(run, tmp_path, cat, content, said):
    path = tmp_path / "l.yaml"
    path.write_text(content, encoding="utf-8")
    result = run("classify", cat, "--labels-file", path, "--roll-up", 0.8, *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == f"error: {said.format(path)}"
    assert run("classify", cat, "--labels-file", path, *TINY).exit_code == 0


def test_the_check_of_labels_names_groups_that_roll_up_refuses(run, tmp_path):
    path = tmp_path / "l.csv"
    path.write_text(
        "label,group\ncat,animal > pet\ndog,animal > pet\npug,dog > pet\npet,\nrocket,vehicle > spacecraft\n"
    )
    result = run("labels", "check", "--labels-file", path, *TINY, "--json")
    found = {one["check"]: one for one in json.loads(result.stdout)["findings"]}
    assert result.exit_code == 1
    assert found["label-as-group"]["concerns"] == [
        {"labels": ["dog"], "what": ""},
        {"labels": ["pet"], "what": ""},
    ]
    assert found["group-in-two"]["concerns"] == [{"labels": ["cat", "pug"], "what": "pet, in animal and in dog"}]
    assert found["group-of-one"]["concerns"] == [
        {"labels": ["pug"], "what": "dog"},
        {"labels": ["rocket"], "what": "vehicle"},  # and not once more for `spacecraft`
    ]


# The command


def answer_of(scores: dict[str, float], least: float) -> str:
    """The answer by definition, among the labels of `GROUPS`."""
    found = by_definition([*GROUPS.values()], [scores[name] for name in GROUPS], least)
    if found is None:
        return "unknown"
    return [*GROUPS][int(found[-1].split()[1])] if found[-1].startswith("label ") else found[-1]


@pytest.mark.parametrize("least", [0.5, 0.75, 0.9, 0.985, 0.99, 1])
def test_answers_are_those_of_the_scores_without_roll_up(run, tree, least):
    plain = records(run("classify", *PHOTOS, "--labels-file", tree, *TINY, "--json").stdout)
    result = run("classify", *PHOTOS, "--labels-file", tree, *TINY, "--json", "--roll-up", least)
    assert (result.exit_code, result.stderr) == (0, "")
    for before, after in zip(plain, records(result.stdout), strict=True):
        assert before["scores"] == after["scores"]
        assert before["config"] != after["config"]
        row = {one["label"]: one["score"] for one in before["scores"]}
        assert after["label"] == answer_of(row, least)
        assert after["groups"][0]["label"] == "pet"  # the one group of its level
        together = sums([*GROUPS.values()], [row[name] for name in GROUPS])
        for one in after["groups"]:
            path = next(path for path in together if path[-1] == one["label"])
            assert one["score"] == pytest.approx(together[path], abs=1e-5)
            assert together[path] == max(has for other, has in together.items() if len(other) == len(path))


def test_an_answer_that_is_a_group_is_told_in_every_format(run, tree, cat, only_together):
    sure = only_together()

    def told(*options: str) -> str:
        result = run("classify", cat, "--labels-file", tree, *TINY, "--roll-up", sure, "--decimals", 4, *options)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    (record,) = records(told("--json"))
    assert list(record) == ["path", "label", "score", "groups", "scores", "error", "model", "config"]
    assert (record["label"], record["groups"][0]["label"], record["groups"][1]["label"]) == ("pet", "pet", "animal")
    assert record["score"] == record["groups"][0]["score"]
    assert json.loads(told("--format", "json"))["results"][0] == record
    first, second, *_ = record["scores"]
    assert told("--format", "tsv") == f"{cat}\tpet\t{record['score']}\n"
    assert (
        told("--format", "tsv", "--top-k", 2)
        == f"{cat}\tpet\t{record['score']}\n{cat}\t{first['label']}\t{first['score']}\n"
    )
    rows = [*csv.reader(io.StringIO(told("--format", "csv")))]
    assert rows == [["path", "label", "score", "error"], [str(cat), "pet", str(record["score"]), ""]]
    assert told("--format", "label") == "pet\n"
    name, answer, best, *_ = told("--format", "table").splitlines()
    assert name == str(cat)
    assert answer.startswith("  animal > pet  ")
    assert answer.endswith(f" {record['score']:.1%}")
    assert best.split()[0] == first["label"]
    assert second["label"] in told("--format", "table")


def test_the_table_ends_with_the_answers_and_their_mean_scores(run, tree, cat, coffee, only_together):
    options = ("--labels-file", tree, *TINY, "--roll-up", only_together())
    (record,) = records(run("classify", cat, *options, "--json").stdout)
    shown = run("classify", cat, cat, coffee, *options, "-f", "table").stdout
    assert re.search(rf"\npet +2   66\.7% +{record['score']:.1%}\n", shown)


def test_what_cannot_be_read_has_no_groups(run, tree, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no image")
    result = run("classify", tmp_path / "no.jpg", "--labels-file", tree, *TINY, "--roll-up", 0.9, "--json")
    (record,) = records(result.stdout)
    assert (result.exit_code, record["label"], record["groups"]) == (3, None, [])


def test_with_unknown_the_groups_share_what_is_left(run, tree, only_together):
    options = ("--labels-file", tree, *TINY, "--unknown", "--json")
    plain = records(run("classify", *PHOTOS, *options).stdout)
    sure = only_together("--unknown")
    rolled = records(run("classify", *PHOTOS, *options, "--roll-up", sure).stdout)
    for before, after in zip(plain, rolled, strict=True):
        row = {one["label"]: one["score"] for one in before["scores"]}
        assert after["label"] == answer_of(row, sure)
        assert after["label"] != "unknown" or after["score"] == row["unknown"]
        together = sum(row[name] for name, groups in GROUPS.items() if "animal" in groups)
        told = {one["label"]: one["score"] for one in after["groups"]}
        assert "animal" not in told or told["animal"] == pytest.approx(together, abs=1e-5)
    assert {record["label"] for record in rolled} >= {"pet", "unknown"}


def test_by_group_adds_up_the_finest_groups(run, tree, cat):
    (plain,) = records(run("classify", cat, "--labels-file", tree, *TINY, "--json").stdout)
    (grouped,) = records(run("classify", cat, "--labels-file", tree, *TINY, "--by-group", "--json").stdout)
    row = {one["label"]: one["score"] for one in plain["scores"]}
    assert {one["label"]: one["score"] for one in grouped["scores"]} == pytest.approx(
        {
            "pet": row["cat"] + row["dog"],
            "animal": row["horse"],
            "vehicle": row["car"] + row["rocket"],
            "a cup of coffee": row["a cup of coffee"],
        },
        abs=1e-5,
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--roll-up", "0.4"), "--roll-up must be from 0.5 to 1"),
        (("--roll-up", "1.1"), "--roll-up must be from 0.5 to 1"),
        (("--roll-up", "nan"), "--roll-up must be from 0.5 to 1"),
        (("--roll-up", "0.8", "--multi"), "--roll-up does not go with --multi"),
        (("--roll-up", "0.8", "--by-group"), "--roll-up does not go with --by-group"),
        (("--roll-up", "0.8", "--score", "cosine"), "--roll-up does not go with --score cosine"),
        (("--roll-up", "0.8", "--min-score", "0.5"), "--roll-up does not go with --min-score"),
        (("--roll-up", "0.8", "--min-margin", "0.5"), "--roll-up does not go with --min-margin"),
    ],
)
def test_what_makes_no_sense_with_roll_up_is_refused(run, tree, cat, options, error):
    result = run("classify", cat, "--labels-file", tree, *TINY, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == f"error: {error}"


def test_thresholds_of_labels_are_said_to_count_for_nothing(run, tmp_path, cat):
    path = tmp_path / "l.yaml"
    path.write_text("- {name: cat, group: pet, threshold: 1}\n- {name: dog, group: pet}\n- car\n")
    result = run("classify", cat, "--labels-file", path, *TINY, "--roll-up", 0.5, "--json")
    assert result.stderr == "warning: thresholds of labels count for nothing with --roll-up, which has one for all\n"
    (record,) = records(result.stdout)
    assert record["label"] != "unknown"


def test_a_run_goes_on_with_the_same_roll_up_only(run, tree, cat, coffee, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ("--labels-file", tree, *TINY, "-o", out, "--resume")
    assert run("classify", cat, *options, "--roll-up", 0.8).exit_code == 0
    assert run("classify", cat, coffee, *options, "--roll-up", "0.80").exit_code == 0
    assert [record["path"] for record in records(out.read_text())] == [str(cat), str(coffee)]
    for more, why in (
        (("--roll-up", "0.85"), "--roll-up was 0.8, now 0.85"),
        ((), "--roll-up was 0.8, now not set"),
        (("--by-group",), "--by-group was off, now on; --roll-up was 0.8, now not set"),
    ):
        result = run("classify", cat, coffee, *options, *more)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == f"error: {out}:1: made with other settings: {why}"
    out.unlink()
    assert run("classify", cat, *options).exit_code == 0
    result = run("classify", cat, *options, "--roll-up", 0.8)
    assert result.stderr.splitlines()[0] == f"error: {out}:1: made with other settings: --roll-up was not set, now 0.8"


def test_a_head_rolls_up_too(run, tmp_path, cat):
    for name in ("cat", "coffee", "rocket"):
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{name}.jpg", tmp_path / "few" / name)
    file, head = tmp_path / "l.csv", tmp_path / "head.safetensors"
    file.write_text("label,group\ncat,nature > animal\ncoffee,thing\nrocket,thing\n")
    assert run("fit", tmp_path / "few", "-o", head, "--labels-file", file, *TINY).exit_code == 0
    options = ("--head", head, "--json")
    (plain,) = records(run("classify", cat, *options).stdout)
    (rolled,) = records(run("classify", cat, *options, "--roll-up", 0.5).stdout)
    assert [one["label"] for one in rolled["groups"]] == ["animal", "nature"]
    assert rolled["groups"][1]["score"] == {one["label"]: one["score"] for one in plain["scores"]}["cat"]
    (unsure,) = records(run("classify", cat, *options, "--roll-up", 1).stdout)
    assert unsure["label"] == "unknown"


def test_the_log_names_the_groups_and_the_limit(run, tree, cat, tmp_path):
    log = tmp_path / "log.json"
    assert run("classify", cat, "--labels-file", tree, *TINY, "--roll-up", 0.8, "--log", log).exit_code == 0
    said = json.loads(log.read_text())
    assert said["settings"] == {"--roll-up": "0.8"}
    assert [one["group"] for one in said["labels"]][1:] == [["animal", "pet"], "animal", "vehicle", "vehicle", None]


# From Python


def test_groups_and_roll_up_in_python(cat, only_together):
    known = [Label(name, groups=groups) for name, groups in GROUPS.items()]
    (result,) = Classifier(known, model="tiny", roll_up=only_together()).classify(cat)
    assert (result.label, result.answers) == ("pet", ("pet",))
    assert result.score == result.groups[0].score
    assert [group.label for group in result.groups] == ["pet", "animal"]
    assert next(Classifier(known, model="tiny").classify(cat)).groups is None


def test_one_level_is_the_same_however_it_is_written_and_several_are_not(cat):
    def config(*groups: tuple[str, ...]) -> str:
        given = [Label(str(number), groups=chain) for number, chain in enumerate(groups)]
        return Classifier(given, model="tiny").config

    assert config(("a",), ()) != config((), ())
    assert len({config(*chains) for chains in ((("a",), ()), (("b", "a"), ()), (("a", "b"), ()))}) == 3


@pytest.mark.parametrize("groups", ["pet", ["pet"], ("animal", ""), ("pet", "pet"), ("animal", 3)])
def test_groups_of_another_shape_are_refused_in_python(groups):
    with pytest.raises(ClipzsError) as caught:
        Classifier([Label("cat", groups=groups), Label("dog")])
    assert str(caught.value) == "the groups of label 'cat' must be a tuple of different texts, the coarsest first"
