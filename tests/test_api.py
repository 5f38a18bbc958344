"""The Python API: what `Classifier` takes, and that it gives what the command gives."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipzs
from clipzs import Classifier, ClipzsError, Label, Options, Result, Score
from clipzs.errors import LabelsError, ModelError, TemplatesError, UsageProblem

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = Path(clipzs.__file__).parent / "tiny"
PHOTOS = [EXAMPLES / name for name in ("cat.jpg", "coffee.jpg", "rocket.jpg")]
WORDS = ["cat", "a cup of coffee", "rocket"]


@pytest.fixture(scope="module")
def words() -> Classifier:
    """Three labels and the embedded model, loaded once."""
    return Classifier(WORDS, model="tiny", cache=False)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_results_are_those_of_the_command(run):
    command = run("classify", *PHOTOS, "--labels", ",".join(WORDS), "--model", "tiny", "--json", "--decimals", 6)
    assert command.exit_code == 0, command.stderr
    results = list(Classifier(WORDS, model="tiny").classify(PHOTOS))
    assert [result.as_json(6) for result in results] == [json.loads(line) for line in command.stdout.splitlines()]
    assert [result.label for result in results] == WORDS


def test_a_result_holds_every_label_best_first(words):
    (result,) = words.classify(PHOTOS[:1])
    assert isinstance(result, Result)
    assert (result.path, result.error, result.model) == (str(PHOTOS[0]), None, "tiny")
    assert all(isinstance(score, Score) for score in result.scores)
    values = [score.score for score in result.scores]
    assert sorted(values, reverse=True) == values
    assert sum(values) == pytest.approx(1, abs=1e-6)
    assert (result.label, result.score) == (result.scores[0].label, values[0])


def test_paths_pil_images_and_arrays_of_one_photo_agree():
    words = Classifier(WORDS, model="tiny", cache=False, exact_decode=True)
    path = PHOTOS[1]
    with Image.open(path) as image:
        given = [
            path,
            str(path),
            image,
            pixels(path),
            pixels(path) / 255,
            (pixels(path) / np.float32(255)).astype(np.float32),
            np.dstack([pixels(path), np.full(image.size[::-1], 255, np.uint8)]),
            np.ascontiguousarray(pixels(path)[::-1])[::-1],
        ]
        results = list(words.classify(given))
    assert [result.path for result in results] == [str(path)] * 2 + [f"image-{n}" for n in range(2, len(given))]
    for result in results:
        assert result.error is None
        assert result.label == WORDS[1]
        assert result.score == pytest.approx(results[0].score, abs=1e-6)


def test_grey_arrays_and_images_agree(words):
    with Image.open(PHOTOS[0]) as image:
        grey = image.convert("L")
    sixteen_bit = np.asarray(grey).astype(np.uint16) * 257
    given = [grey, np.asarray(grey), np.asarray(grey) / 255, sixteen_bit, grey.convert("RGB")]
    scores = [result.score for result in words.classify(given)]
    assert scores == pytest.approx([scores[0]] * len(given), abs=1e-5)


def test_transparent_pixels_of_an_array_are_white(words):
    clear = np.zeros((50, 50, 4), np.uint8)
    white = np.full((50, 50, 3), 255, np.uint8)
    first, second = words.classify([clear, white])
    assert first.scores == second.scores


@pytest.mark.parametrize("one", [PHOTOS[0], str(PHOTOS[0]), Image.new("RGB", (40, 30)), np.zeros((8, 9, 3), np.uint8)])
def test_a_single_image_needs_no_list(words, one):
    (result,) = words.classify(one)
    assert result.error is None
    assert len(result.scores) == 3


def test_images_may_come_from_a_generator_longer_than_a_batch():
    classifier = Classifier(WORDS, model="tiny", batch_size=2)
    results = classifier.classify(PHOTOS[n % 3] for n in range(7))
    assert [result.label for result in results] == [WORDS[n % 3] for n in range(7)]


def test_one_lazily_opened_image_may_be_passed_many_times(words):
    for _ in range(3):
        with Image.open(PHOTOS[0]) as image:
            results = list(words.classify([image] * 16))
        assert {(result.label, result.error) for result in results} == {("cat", None)}


def test_nothing_in_means_nothing_out(words):
    assert list(words.classify([])) == []


def test_an_image_that_cannot_be_read_is_a_result_with_an_error(words, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(PHOTOS[0].read_bytes()[:3000])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    with Image.open(broken) as lazy:
        given = [tmp_path / "absent.png", PHOTOS[0], broken, text, lazy, Image.new("RGB", (0, 5))]
        results = list(words.classify(given))
    assert [result.path for result in results] == [*map(str, given[:4]), "image-4", "image-5"]
    assert [result.label for result in results] == [None, "cat", None, None, None, None]
    errors = [result.error or "" for result in results]
    assert errors[0] == "no such file"
    assert errors[1] == ""
    assert errors[2].startswith("damaged or truncated: ")
    assert errors[3] == "a text file, not an image"
    assert errors[4].startswith("damaged or truncated: ")
    assert errors[5] == "the image has no pixels"
    assert results[0].as_json() == {
        "path": str(given[0]), "label": None, "score": None, "scores": [], "error": "no such file", "model": "tiny",
        "config": results[1].config,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((3, 20, 30), np.uint8), "an array of shape (3, 20, 30) and type uint8 is not an image"),
        (np.zeros((2, 3, 4, 3), np.uint8), "an array of shape (2, 3, 4, 3) and type uint8 is not an image"),
        (np.zeros((4, 4, 3), np.int64), "an array of shape (4, 4, 3) and type int64 is not an image"),
        (np.zeros(9, np.uint8), "an array of shape (9,) and type uint8 is not an image"),
        (np.zeros((0, 4, 3), np.uint8), "an array of shape (0, 4, 3) and type uint8 is not an image"),
        (np.full((4, 4, 3), 128.0), "an array of floats must lie in [0, 1], this one in [128, 128]"),
        (np.linspace(-1, 1, 48).reshape(4, 4, 3), "an array of floats must lie in [0, 1], this one in [-1, 1]"),
        (np.full((4, 4), np.nan), "an array of floats must lie in [0, 1], this one in [nan, nan]"),
    ],
)
def test_an_array_that_is_not_an_image_is_a_result_with_an_error(words, array, error):
    (result,) = words.classify(array)
    assert (result.error, result.scores) == (error, ())


def test_what_is_no_image_at_all_is_a_type_error(words):
    with pytest.raises(TypeError, match="NoneType"):
        list(words.classify([None]))


# Labels and templates


def test_labels_are_words_labels_or_a_file(tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_text("- name: cat\n  aliases: [kitten]\n- dog\n", encoding="utf-8")
    rich = (Label("cat", aliases=("kitten",)), Label("dog"))
    assert Classifier(path).labels == rich
    assert Classifier(["dog", rich[0]]).labels == (rich[1], rich[0])
    assert Classifier(name for name in ("cat", " dog ")).labels == (Label("cat"), Label("dog"))
    assert Classifier('"salt, pepper",dog').labels == (Label("salt, pepper"), Label("dog"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels given"),
        (["cat"], "only one label given: cat"),
        (["cat", ""], "label 2 of 2 is empty"),
        (["cat", Label("cat")], "given twice: cat"),
        (["cat", "\ud800"], "label '\\ud800' is not Unicode text"),
        ([Label("cat", aliases=("\udcff",)), "dog"], "label '\\udcff' is not Unicode text"),
        (
            ["cat", Label("dog", prompts=("a <>",), weights=(0.0,))],
            "label 'dog' needs a weight for each of its 1 prompts, from 1e-6 to 1e6",
        ),
        (Path("absent.yaml"), "absent.yaml: cannot be read: No such file or directory"),
    ],
)
def test_wrong_labels_are_refused_at_once(labels, message):
    with pytest.raises(LabelsError) as caught:
        Classifier(labels)
    assert str(caught.value) == message


def test_a_label_of_another_type_is_a_type_error():
    with pytest.raises(TypeError, match="a label is text or a Label, not 1"):
        Classifier(["cat", 1])


def test_templates_may_mix_sets_files_and_templates(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("templates: ['my <>']\n", encoding="utf-8")
    mixed = Classifier(["cat", "dog"], templates=["a {}", path, "name"], template="the <>")
    assert mixed.prompts == [("my cat", "cat", "a cat", "the cat"), ("my dog", "dog", "a dog", "the dog")]
    assert Classifier(["cat", "dog"], templates="a <>", context="indoors").prompts[0] == ("a cat, indoors",)
    assert Classifier(["cat", "dog"], templates="mine", prompts_dir=str(tmp_path)).prompts[0] == ("my cat",)


def test_settings_and_options_mean_the_same_and_exclude_each_other():
    options = Options(model="tiny", templates=["pets"], top_k=1)
    assert Classifier(["cat", "dog"], options=options).options.top_k == 1
    by_settings = Classifier(["cat", "dog"], model="tiny", templates="pets", top_k=1)
    assert by_settings.options == Classifier(["cat", "dog"], options=options).options
    assert Classifier(["cat", "dog"], options=Options(templates="pets")).prompts == by_settings.prompts
    with pytest.raises(TypeError, match="options are given, and apart from them: top_k, model"):
        Classifier(["cat", "dog"], options=options, top_k=2, model="tiny")
    with pytest.raises(TypeError, match="modell"):
        Classifier(["cat", "dog"], modell="tiny")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "softmin"}, "unknown score 'softmin'"),
        ({"by_group": True, "score": "cosine"}, "--by-group adds up probabilities"),
        ({"by_group": True}, "--by-group needs labels with a group"),
        ({"pretrained": "openai"}, "--pretrained needs the architecture"),
        ({"top_k": 0}, "--top-k must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"image_timeout": -1}, "--image-timeout must be at least 0"),
        ({"image_timeout": float("nan")}, "--image-timeout must be at least 0"),
    ],
)
def test_contradicting_settings_are_refused_at_once(settings, message):
    with pytest.raises(UsageProblem) as caught:
        Classifier(["cat", "dog"], **settings)
    assert str(caught.value) == message
    assert caught.value.hint or settings.keys() & {"top_k", "batch_size"}


def test_an_unknown_template_set_is_refused_at_once():
    with pytest.raises(TemplatesError, match="unknown template set 'zzz'"):
        Classifier(["cat", "dog"], templates="zzz")


def test_aliases_and_own_prompts_change_the_numbers_and_the_config():
    plain = Classifier(["cat", "dog"], model="tiny")
    rich = Classifier([Label("cat", aliases=("kitten",)), "dog"], model="tiny")
    (one,), (other,) = plain.classify(PHOTOS[0]), rich.classify(PHOTOS[0])
    assert one.score != other.score
    assert one.config != other.config
    assert len(one.config) == 12


def test_groups_add_up_the_probabilities_of_their_labels():
    labels = [Label("cat", groups=("animal",)), Label("dog", groups=("animal",)), Label("coffee")]
    (alone,) = Classifier(labels, model="tiny").classify(PHOTOS[0])
    (grouped,) = Classifier(labels, model="tiny", by_group=True).classify(PHOTOS[0])
    by_label = {score.label: score.score for score in alone.scores}
    by_group = {score.label: score.score for score in grouped.scores}
    assert by_group == pytest.approx({"animal": by_label["cat"] + by_label["dog"], "coffee": by_label["coffee"]})


def test_one_group_of_all_labels_is_refused_because_its_probability_is_always_1():
    with pytest.raises(UsageProblem) as caught:
        Classifier([Label("cat", groups=("pet",)), Label("dog", groups=("pet",))], by_group=True)
    assert str(caught.value) == "all labels are in one group: pet"
    assert caught.value.hint == "its probability is always 1: leave --by-group out"


def test_label_vectors_have_length_1_and_the_models_width(words):
    vectors = words.label_vectors
    assert (vectors.shape, vectors.dtype) == ((3, words.model.config["embed_dim"]), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert words.prompts_encoded == sum(len(prompts) for prompts in words.prompts)


def test_labels_of_one_text_are_named_in_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("clipzs"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("clipzs"), "propagate", False)
    with caplog.at_level(logging.WARNING, "clipzs"):
        list(Classifier(["Dog", "dog", "cat"], model="tiny").classify(PHOTOS[0]))
    assert caplog.messages == ["the model reads these labels as the same text: Dog, dog; their score is split"]


# Broken models


def broken_copy(folder: Path, start: str) -> str:
    """The embedded model with NaN in the first weight so named, as a folder `local-dir:` takes."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir()
    state = load_file(TINY / "clipzs-tiny.safetensors")
    tensor = next(key for key in sorted(state) if key.startswith(start) and not key.endswith("num_batches_tracked"))
    state[tensor] = np.full_like(state[tensor], np.nan)
    save_file(state, folder / "open_clip_model.safetensors")
    config = json.loads((TINY / "clipzs-tiny.json").read_text(encoding="utf-8"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return f"local-dir:{folder}"


@pytest.mark.parametrize("part", ["text_projection", "visual.", "logit_scale"])
def test_weights_that_are_not_finite_are_one_clear_error(run, tmp_path, part):
    model = broken_copy(tmp_path / "model", part)
    with pytest.raises(ModelError) as caught:
        list(Classifier(["cat", "dog"], model=model).classify(PHOTOS[0]))
    assert str(caught.value) == f"{model} gives numbers that are not finite"
    for _ in range(2):  # the second time the labels come from the cache
        result = run("classify", PHOTOS[0], "--labels", "cat,dog", "--model", model)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            f"error: {model} gives numbers that are not finite\nhint: try --precision fp32, or other weights\n"
        )


# The package


def test_the_example_of_the_docstring_works(monkeypatch, capsys):
    import doctest

    monkeypatch.chdir(EXAMPLES.parent)
    (test,) = [test for test in doctest.DocTestFinder(recurse=False).find(Classifier, "Classifier") if test.examples]
    for example in test.examples:
        exec(example.source, test.globs)
    path, label, score = capsys.readouterr().out.split()
    assert (path, label) == ("examples/cat.jpg", "cat")
    assert 0.5 < float(score) <= 1


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, clipzs; "
        "heavy = {'torch', 'numpy', 'PIL', 'open_clip', 'huggingface_hub'} & set(sys.modules); "
        "print(clipzs.__version__, sorted(heavy)); "
        "from clipzs import Classifier, Label; c = Classifier(['cat', 'dog']); "
        "print('torch' in sys.modules, c.labels[0].name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{clipzs.__version__} []\nFalse cat\n"


def test_the_package_exports_what_it_says():
    assert {name for name in clipzs.__all__ if getattr(clipzs, name) is None} == set()
    assert issubclass(LabelsError, ClipzsError)
    with pytest.raises(AttributeError, match="module 'clipzs' has no attribute 'Klassifier'"):
        _ = clipzs.Klassifier
    assert (Path(clipzs.__file__).parent / "py.typed").is_file()


def test_a_copied_model_scores_as_the_original(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    config = json.loads((TINY / "clipzs-tiny.json").read_text(encoding="utf-8"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    shutil.copy(TINY / "clipzs-tiny.safetensors", folder / "open_clip_model.safetensors")
    (copied,) = Classifier(WORDS, model=f"local-dir:{folder}", engine="torch").classify(PHOTOS[0])
    (original,) = Classifier(WORDS, model="tiny", engine="torch").classify(PHOTOS[0])
    assert copied.scores == original.scores
