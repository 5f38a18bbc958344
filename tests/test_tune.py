"""`clipzs tune`: what is fitted, what is reported, and the labels file that `classify` takes as it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score, log_loss, precision_score

from clipzs import tuning
from clipzs.score import average, normalise
from clipzs.tuning import Examples

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = {"cat": "cat", "cup_of_coffee": "coffee", "man": "photographer", "rocket": "rocket"}
MODEL_SCALE = 20.0


# The maths, on data whose best answer is known


class World:
    """Classes with a direction each, images near it, and templates that hide it in noise of their own."""

    def __init__(self, seed: int, noise: list[float], *, classes: int = 4, width: int = 32, blur: float = 1.0) -> None:
        self.draw = np.random.default_rng(seed)
        self.blur = blur
        self.centres = normalise(self.draw.normal(size=(classes, width)))
        shifted = [self.centres + level * self.draw.normal(size=(classes, width)) / np.sqrt(width) for level in noise]
        self.texts = np.stack([normalise(one) for one in shifted], axis=1)

    def examples(self, per_class: int | list[int], *, shuffled: bool = False) -> Examples:
        classes, width = self.centres.shape
        support = [per_class] * classes if isinstance(per_class, int) else per_class
        answers = np.repeat(np.arange(classes), support)
        around = self.blur * self.draw.normal(size=(len(answers), width)) / np.sqrt(width)
        images = normalise(self.centres[answers] + around).astype(np.float32)
        return Examples.of(images, self.texts, self.draw.permutation(answers) if shuffled else answers)


def first(count: int, of: int) -> np.ndarray:
    """Equal weights of the first templates."""
    return np.where(np.arange(of) < count, 1 / count, 0.0)


def test_similarities_are_those_to_the_average_that_classify_makes():
    world = World(0, [0.5, 1.0, 2.0])
    examples, weights = world.examples(3), np.array([0.5, 0.0, 1.5])
    for label, texts in enumerate(world.texts):
        image = examples.dots[:, label, :]
        vector = average(texts[[0, 2]].astype(np.float32), (0.5, 1.5))
        coordinates, *_ = np.linalg.lstsq(texts.T, vector, rcond=None)  # the average, as a mix of the texts
        assert examples.cosines(weights)[:, label] == pytest.approx(image @ coordinates, abs=1e-6)


def test_weights_that_are_equal_make_the_plain_average():
    prompts = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    assert average(prompts, (2.0,) * 5) == pytest.approx(average(prompts), abs=1e-6)


def test_the_scale_is_the_one_that_answers_were_drawn_with():
    draw = np.random.default_rng(0)
    cosines = draw.uniform(-0.3, 0.3, size=(4000, 5))
    drawn = [draw.choice(5, p=row) for row in tuning.probabilities(cosines, 12.0)]
    found = tuning.fitted_scale(cosines, np.array(drawn), MODEL_SCALE)
    reference = minimize_scalar(lambda scale: log_loss(drawn, tuning.probabilities(cosines, scale)), bounds=(1, 100))
    assert found == pytest.approx(12.0, rel=0.1)
    assert found == pytest.approx(reference.x, rel=0.01)


def test_images_that_are_all_right_leave_the_scale_near_the_models():
    cosines = np.eye(3)[[0, 1, 2, 0]]
    assert 1 < tuning.fitted_scale(cosines, np.array([0, 1, 2, 0]), MODEL_SCALE) / MODEL_SCALE < 3


def test_losses_are_those_of_scikit_learn():
    draw = np.random.default_rng(1)
    cosines, answers = draw.uniform(-1, 1, size=(50, 4)), draw.integers(0, 4, 50)
    losses = tuning.losses(cosines, answers, 9.0)
    assert losses.mean() == pytest.approx(log_loss(answers, tuning.probabilities(cosines, 9.0), labels=range(4)))


def test_templates_that_carry_the_answer_are_found_among_those_that_do_not():
    world = World(0, [0.1 if t in (3, 7) else 4.0 for t in range(12)])
    examples = world.examples(30)
    for find in (tuning.chosen_templates, tuning.weighted_templates):
        weights = find(examples, MODEL_SCALE)
        assert weights.sum() == pytest.approx(1)
        assert weights[[3, 7]].sum() > 0.6


def test_each_template_chosen_is_the_best_one_to_add():
    examples = World(1, [1.0] * 8).examples(10)

    def loss(chosen: list[int]) -> float:
        weights = np.isin(np.arange(8), chosen).astype(float)
        return float(tuning.losses(examples.cosines(weights), examples.answers, MODEL_SCALE).mean())

    chosen: list[int] = []
    while len(chosen) < 8:
        best = min(set(range(8)) - set(chosen), key=lambda t: loss([*chosen, t]))
        if chosen and loss([*chosen, best]) >= loss(chosen):
            break
        chosen.append(best)
    found = tuning.chosen_templates(examples, MODEL_SCALE)
    assert set(np.flatnonzero(found)) == set(chosen[: tuning.MOST_TEMPLATES])


def test_no_shift_of_weight_to_any_template_is_better_than_the_weights_found():
    examples = World(2, [1.0] * 5).examples(20)
    found = tuning.weighted_templates(examples, MODEL_SCALE)

    def loss(weights: np.ndarray) -> float:
        return float(tuning.losses(examples.cosines(weights), examples.answers, MODEL_SCALE).mean())

    for t in range(5):
        assert loss(0.98 * found + 0.02 * np.eye(5)[t]) > loss(found) - 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_the_best_of_all_for_f1(seed):
    draw = np.random.default_rng(seed)
    scores, answers = draw.dirichlet(np.ones(3), 60), draw.integers(0, 3, 60)
    thresholds, unreached = tuning.fitted_thresholds(scores, answers, None)

    def f1(label: int, threshold: float) -> float:
        called = (scores.argmax(axis=1) == label) & (scores[:, label] >= threshold)
        return float(f1_score(answers == label, called, zero_division=0))

    assert unreached == []
    for label in range(3):
        assert f1(label, thresholds[label]) == pytest.approx(max(f1(label, cut) for cut in scores[:, label]))


def test_thresholds_for_a_precision_are_the_lowest_that_have_it():
    draw = np.random.default_rng(3)
    scores = draw.dirichlet(np.ones(3) / 2, 200)
    answers = np.array([draw.choice(3, p=row) for row in scores])
    thresholds, unreached = tuning.fitted_thresholds(scores, answers, 0.9)

    def precision(label: int, threshold: float) -> float:
        called = (scores.argmax(axis=1) == label) & (scores[:, label] >= threshold)
        return float(precision_score(answers == label, called))

    assert unreached == []
    for label, threshold in enumerate(thresholds):
        below = [cut for cut in scores[scores.argmax(axis=1) == label, label] if cut < threshold]
        assert precision(label, threshold) >= 0.9
        assert all(precision(label, cut) < 0.9 for cut in below)


def test_a_label_that_is_never_right_is_never_an_answer_for_a_wanted_precision():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    thresholds, unreached = tuning.fitted_thresholds(scores, np.array([1, 1, 1]), 0.5)
    assert unreached == [0]
    assert thresholds[0] > 0.9
    assert thresholds[1] == 0


def test_folds_have_as_many_images_of_each_class_as_they_can():
    answers = np.repeat([0, 1, 2, 3], [10, 7, 1, 23])
    fold = tuning.stratified(answers, 5, seed=0)
    for label in range(4):
        counts = np.bincount(fold[answers == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(fold, minlength=5)) <= 1
    assert (fold == tuning.stratified(answers, 5, seed=0)).all()
    assert (fold != tuning.stratified(answers, 5, seed=1)).any()


def test_figures_of_images_left_out_are_those_of_new_images():
    world = World(4, [2.0] * 5 + [0.3] * 5 + [4.0] * 20, blur=2.0)
    found = tuning.tune(world.examples(25), first(5, 30), MODEL_SCALE)
    new = world.examples(500)
    right = (new.cosines(found.weights).argmax(axis=1) == new.answers).mean()
    assert found.method in ("chosen", "weighted")
    assert found.evidence.gain["top1"].low > 0
    assert found.evidence.after["top1"].low - 0.03 < right < found.evidence.after["top1"].high + 0.03


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_mean_nothing_are_not_learned(seed):
    """Among 80 templates some fit 20 random answers: only images left out can tell that it is chance."""
    examples = World(seed, [4.0] * 80, blur=3.0).examples(5, shuffled=True)
    inside = tuning.chosen_templates(examples, MODEL_SCALE)
    assert (examples.cosines(inside).argmax(axis=1) == examples.answers).mean() > 0.4
    found = tuning.tune(examples, first(7, 80), MODEL_SCALE)
    assert found.evidence.templates.high >= 0
    assert found.evidence.after["top1"].low < 0.25
    assert (found.method, found.thresholds) == ("unchanged", None)


def test_templates_that_are_all_alike_stay_as_they_were():
    changed = [
        tuning.tune(World(seed, [1.0] * 8).examples(5), first(8, 8), MODEL_SCALE).method != "unchanged"
        for seed in range(6)
    ]
    assert sum(changed) <= 2


@pytest.mark.parametrize("support", [[1, 1, 1, 1], [2, 2, 2, 2], [1, 9, 2, 30]])
def test_small_and_uneven_folders_are_tuned_too(support):
    found = tuning.tune(World(5, [0.5, 1.0, 3.0]).examples(support), first(2, 3), MODEL_SCALE)
    assert found.evidence.images == sum(support)
    assert 2 <= found.evidence.folds <= min(5, max(2, *support))
    assert np.isfinite([figure.value for figure in found.evidence.after.values()]).all()
    if sum(support) < tuning.LEAST_IMAGES:
        assert (found.method, found.scale, found.thresholds) == ("unchanged", None, None)


# The command, and what classify makes of its file


def turned(folder: Path, angles: tuple[int, ...]) -> Path:
    """Four classes of photos, turned by angles and cut so that the embedded model errs."""
    for label, name in PHOTOS.items():
        (folder / label).mkdir()
        photo = ImageOps.contain(Image.open(EXAMPLES / f"{name}.jpg"), (160, 160))
        width, height = photo.size
        for angle in angles:
            photo.rotate(angle, fillcolor="white").save(folder / label / f"{angle}.jpg")
        photo.crop((0, 0, width // 2, height // 2)).save(folder / label / "cut.jpg")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of each class; not to be changed."""
    return turned(tmp_path_factory.mktemp("tuned"), (0, 45, 90, 150))


@pytest.fixture
def tuned(run, photos, tmp_path):
    """`tuned(...)`: the file that the command has written, as it is and as its values."""

    def tune(*args: object, folder: Path = photos) -> tuple[Path, dict]:
        path = tmp_path / "tuned.yaml"
        few = () if {"--template", "--templates"} & set(map(str, args)) else ("--templates", "simple")
        result = run("tune", folder, "--model", "tiny", "-o", path, *few, *args)
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))

    return tune


@pytest.fixture
def classified(run):
    """`classified(labels_file, image, ...)`: the record, and what was said."""

    def classify(file: Path, image: Path, *args: object) -> tuple[dict, str]:
        result = run("classify", image, "--labels-file", file, "--model", "tiny", "--json", *args)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    return classify


def scores(record: dict) -> dict[str, float]:
    return {score["label"]: score["score"] for score in record["scores"]}


def rewritten(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def test_the_file_says_what_it_holds_for_and_why(tuned):
    _, values = tuned("--seed", 3, "--folds", 4, "--templates", "default", "--template", "<>")
    block, evidence = values["tuned"], values["tuned"]["evidence"]
    assert block["model"] == "tiny"
    assert len(block["digest"]) == 64
    assert (evidence["images"], evidence["folds"], evidence["seed"]) == (20, 4, 3)
    assert evidence["templates_tried"] == 8
    for figures in (evidence["before"], evidence["after"]):
        for name in ("top1", "mean_class_recall", "nll"):
            assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert [label["name"] for label in values["labels"]] == ["cat", "cup of coffee", "man", "rocket"]


def test_the_same_command_writes_the_same_file(run, photos, tmp_path):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        assert run("tune", photos, "--model", "tiny", "-t", "simple", "-o", file).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_classify_takes_the_file_as_it_is(tuned, classified, photos):
    path, values = tuned("--template", "a photo of a <>.", "--template", "<>")
    record, said = classified(path, photos / "cat" / "0.jpg")
    assert record["label"] == "cat"
    assert set(scores(record)) == {label["name"] for label in values["labels"]}
    assert said == ""


def test_the_prompts_written_are_those_that_were_measured(run, tuned, classified, photos, tmp_path):
    """Aliases and prompts of one's own give the very embeddings that they give without tuning."""
    mine = rewritten(
        tmp_path / "mine.yaml",
        {
            "labels": [
                {"name": "cat", "aliases": ["kitten", "tabby"], "group": "animals > pets"},
                {"name": "cup of coffee", "prompts": ["a hot drink", "a <> on a table"], "aliases": ["espresso"]},
                {"name": "man", "prompts": ["a man with a camera"]},
                "rocket",
            ]
        },
    )
    templates = ("--template", "a photo of a <>.")  # nothing to choose, so nothing can change
    path, values = tuned("--labels-file", mine, *templates)
    image = photos / "cat" / "45.jpg"
    plain, _ = classified(mine, image, "--score", "cosine", "--decimals", 6, *templates)
    after, _ = classified(path, image, "--score", "cosine", "--decimals", 6, "--template", "something else: <>")
    assert scores(after) == pytest.approx(scores(plain), abs=1e-6)
    assert values["labels"][0]["group"] == ["animals", "pets"]
    assert values["labels"][0]["prompts"] == ["a photo of a <>.", "a photo of a kitten.", "a photo of a tabby."]
    assert values["tuned"]["templates"] == "unchanged"


def test_templates_that_mislead_are_dropped(tuned, tmp_path):
    words = ("red", "green", "blue", "white", "black", "old", "new", "big")
    bad = [f"a cat, a {word} cat and a rocket with <>" for word in words]
    (tmp_path / "more").mkdir()
    folder = turned(tmp_path / "more", (0, 30, 60, 90, 120, 150, 180, 210, 270))
    options = [part for text in ("a photo of a <>.", *bad) for part in ("--template", text)]
    _, values = tuned(*options, folder=folder)
    evidence = values["tuned"]["evidence"]
    assert evidence["templates"]["high"] < 0
    assert evidence["gain"]["nll"]["high"] < 0
    assert evidence["after"]["top1"]["value"] > evidence["before"]["top1"]["value"]
    kept = values["labels"][0]["prompts"]
    assert "a photo of a <>." in kept
    assert len(kept) < 6


def test_a_temperature_scales_the_differences_of_log_scores(tuned, classified, photos, tmp_path):
    path, values = tuned("--template", "<>", "--thresholds", "none")
    values["tuned"].pop("logit_scale", None)
    image = photos / "cat" / "45.jpg"
    before, _ = classified(rewritten(path, values), image, "--decimals", 9)
    model_scale = values["tuned"]["evidence"]["model_logit_scale"]
    values["tuned"]["logit_scale"] = model_scale / 2
    after, said = classified(rewritten(path, values), image, "--decimals", 9)
    old, new = (np.log([scores(record)[name] for name in ("cat", "man", "rocket")]) for record in (before, after))
    assert said == ""
    assert np.diff(new) == pytest.approx(np.diff(old) / 2, rel=1e-3)
    assert before["config"] != after["config"]


def test_weights_pull_a_label_towards_its_heavier_prompts(classified, photos, tmp_path):
    image = photos / "rocket" / "45.jpg"
    prompts = ["a photo of a <>.", "something else entirely"]

    def cosine(**details: object) -> float:
        labels = [{"name": "rocket", **details}, "cat"]
        record, _ = classified(
            rewritten(tmp_path / "w.yaml", {"labels": labels}), image, "--score", "cosine", "--decimals", 6
        )
        return scores(record)["rocket"]

    one, other = (cosine(prompts=[prompt]) for prompt in prompts)
    plain, light, heavy = (cosine(prompts=prompts, weights=weights) for weights in ([2, 2], [1, 9], [9, 1]))
    assert plain == pytest.approx(cosine(prompts=prompts), abs=2e-6)
    assert cosine(prompts=prompts, weights=[1e6, 1e-6]) == pytest.approx(one, abs=2e-6)
    assert heavy - light == pytest.approx(one - other, abs=abs(one - other))
    assert (heavy > plain > light) == (one > other)


def test_a_threshold_for_a_precision_makes_classify_abstain(tuned, classified, photos):
    path, values = tuned("--thresholds", "1.0")
    abstaining = values["tuned"]["evidence"]["abstaining"]
    assert abstaining["answered"]["value"] < 1
    assert abstaining["precision"]["value"] > values["tuned"]["evidence"]["after"]["top1"]["value"]
    unsure = [
        record
        for image in sorted(photos.glob("*/*.jpg"))
        for record, _ in [classified(path, image)]
        if record["label"] == "unknown"
    ]
    floors = {label["name"]: label.get("threshold", 0) for label in values["labels"]}
    assert unsure
    assert all(record["scores"][0]["score"] < floors[record["scores"][0]["label"]] for record in unsure)


@pytest.fixture
def edited(tuned):
    """`edited(**block)`: a tuned file whose thresholds let nothing pass, with other entries in its `tuned` block."""

    def edit(**block: object) -> Path:
        path, values = tuned("--template", "<>")
        values["tuned"] |= {"logit_scale": 5.0, **block}
        for label in values["labels"]:
            label["threshold"] = 1.0
        return rewritten(path, values)

    return edit


def test_a_file_that_fits_is_used_with_thresholds_and_temperature(edited, classified, photos):
    record, said = classified(edited(), photos / "cat" / "0.jpg")
    assert (record["label"], said) == ("unknown", "")


@pytest.mark.parametrize(
    ("block", "options", "reason"),
    [
        ({"digest": "0" * 64, "model": "ViT-B-32:openai"}, [], "tuned for ViT-B-32:openai, and this is tiny"),
        ({"digest": "0" * 64}, [], "tuned for tiny, whose weights or settings were others"),
        ({}, ["--labels", "teapot"], "4 labels were tuned together, and there are others than these now"),
        ({}, ["--score", "cosine"], "tuned for softmax scores, not for --score cosine"),
        ({}, ["--multi"], "tuned for softmax scores, not for --multi"),
        ({}, ["--unknown"], "tuned for softmax scores, not for --unknown"),
    ],
)
def test_where_it_does_not_fit_it_says_so_once_and_only_the_prompts_are_used(
    edited, classified, photos, tmp_path, block, options, reason
):
    path, image = edited(**block), photos / "cat" / "0.jpg"
    record, said = classified(path, image, *options)
    assert said.count("warning:") == 1
    assert f"{reason}: their thresholds and temperature are not used" in said
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    labels = [{"name": label["name"], "prompts": label["prompts"]} for label in values["labels"]]
    plain, _ = classified(rewritten(tmp_path / "plain.yaml", {"labels": labels}), image, *options)
    assert scores(record) == pytest.approx(scores(plain), abs=1e-6)
    assert record["label"] == plain["label"]


def test_map_and_truth_say_which_label_a_photo_has(run, photos, tmp_path):
    names = rewritten(tmp_path / "map.yaml", {"man": "photographer", "cup of coffee": "coffee"})
    result = run("tune", photos, "--map", names, "--model", "tiny", "-t", "simple", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["evidence"]["images"] == 20
    table = tmp_path / "truth.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted(photos.glob("[cr]*/*.jpg"))]
    table.write_text("\n".join(["path,label", *rows]))
    result = run("tune", "--truth", table, "--model", "tiny", "-t", "simple")
    assert result.exit_code == 0, result.stderr
    assert [label["name"] for label in yaml.safe_load(result.stdout)["labels"]] == ["cat", "cup_of_coffee", "rocket"]


def test_the_report_is_for_people_and_apart_from_the_result(run, photos):
    result = run("tune", photos, "--model", "tiny", "-t", "simple")
    assert "top-1 accuracy" in result.stderr
    for part in ("templates", "temperature", "thresholds"):
        assert f"note: {part}: " in result.stderr
    assert "tuned" in yaml.safe_load(result.stdout)
    assert run("tune", photos, "--model", "tiny", "-t", "simple", "--quiet").stderr == ""


def test_unless_templates_are_named_it_chooses_among_many_and_compares_with_the_default_ones(run, photos):
    result = run("tune", photos, "--model", "tiny", "--labels", "cat,cup of coffee,man,rocket", "--json")
    assert json.loads(result.stdout)["evidence"]["templates_tried"] == 82
    before = json.loads(result.stdout)["evidence"]["before"]
    measured = json.loads(run("eval", photos, "--model", "tiny", "--json").stdout)["cells"][0]["figures"]
    assert before["top1"]["value"] == pytest.approx(measured["top1"]["value"], abs=1e-6)
    assert before["nll"]["value"] == pytest.approx(measured["nll"]["value"], abs=1e-4)


def test_a_photo_that_cannot_be_read_is_left_out(run, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "own")
    (folder / "cat" / "broken.jpg").write_bytes(b"nothing")
    result = run("tune", folder, "--model", "tiny", "-t", "simple", "--json")
    assert result.exit_code == 3
    assert "broken.jpg" in result.stderr
    evidence = json.loads(result.stdout)["evidence"]
    assert (evidence["images"], evidence["unreadable"]) == (20, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "out.txt"], "error: -o out.txt: a tuned labels file is YAML"),
        (["--thresholds", "2"], "error: --thresholds 2: neither f1 nor none"),
        (["--labels", "cat,dog"], "error: the images are of classes that are no labels"),
        (["--truth", "x.csv"], "error: both DIR and --truth say"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, photos, options, said):
    result = run("tune", photos, "--model", "tiny", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)


def test_the_labels_that_it_reads_are_not_written_over(run, photos, tmp_path):
    mine = rewritten(tmp_path / "mine.yaml", {"labels": ["cat", "cup of coffee", "man", "rocket"]})
    before = mine.read_bytes()
    result = run("tune", photos, "--model", "tiny", "--labels-file", mine, "-o", mine)
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert mine.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("tuned: {model: a}\nlabels: [x, y]\n", "1: `tuned` needs a `digest`"),
        ("labels: [x, y]\ntuned:\n  model: a\n  digest: b\n  scale: 3\n", "5: unknown key 'scale'"),
        (
            "tuned: {model: a, digest: b, logit_scale: -1}\nlabels: [x, y]\n",
            "1: `logit_scale` must be a number above 0",
        ),
        (
            "- y\n- name: x\n  prompts: [a, b]\n  weights: [1]\n",
            "4: `weights` must be a list of numbers from 1e-6 to 1e6",
        ),
        *(
            (
                f"- y\n- name: x\n  prompts: [a, b]\n  weights: [1, {wrong}]\n",
                "4: `weights` must be a list of numbers from 1e-6 to 1e6",
            )
            for wrong in ("nan", "0", "5e-324", "1e300")
        ),
        ("- y\n- name: x\n  weights: [1]\n", "3: `weights` must be a list of numbers from 1e-6 to 1e6"),
    ],
)
def test_a_file_that_was_spoilt_is_refused_with_its_line(run, cat, tmp_path, content, said):
    path = tmp_path / "l.yaml"
    path.write_text(content)
    result = run("classify", cat, "--labels-file", path, "--model", "tiny")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {path}:{said}")
