"""`clipzs explain`: the numbers of classify taken apart, and heat maps that lie on what they are of."""

import json
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES
from PIL import Image

from clipzs import Classifier
from clipzs.explaining import CONTENDERS, OWN_PROMPTS, explain
from clipzs.images import read_image, upright_size
from clipzs.overlay import laid_on
from clipzs.preprocess import Preprocess

LABELS = ("a cup of coffee", "a cat", "a rocket", "a flower")
TEMPLATES = ("a photo of a <>.", "<>", "a drawing of a <>.")


def options(*labels: str, templates: tuple[str, ...] = TEMPLATES) -> list[str]:
    return [
        *(word for label in labels for word in ("--label", label)),
        *(word for template in templates for word in ("--template", template)),
        "--model",
        "tiny",
    ]


def explained(run, image, *more: object) -> dict:
    result = run("explain", image, *options(*LABELS), "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def classified(run, image, *more: object, labels=LABELS, templates=TEMPLATES) -> dict:
    result = run("classify", image, *options(*labels, templates=templates), "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# Scores, templates, crops, neighbours


def test_an_explanation_holds_the_record_of_classify_to_the_digit(run, cat):
    record = classified(run, cat, "--decimals", "6")
    found = explained(run, cat, "--decimals", "6")
    assert {key: found[key] for key in record} == record
    scores = [one["score"] for one in record["scores"]]
    assert found["margin"] == pytest.approx(scores[0] - scores[1], abs=2e-6)
    assert [found["answer"], found["runner_up"]] == [one["label"] for one in record["scores"][:2]]


def test_a_template_alone_gives_what_classify_gives_with_it_alone(run, coffee):
    found = explained(run, coffee)
    assert [one["template"] for one in found["templates"]] == list(TEMPLATES)
    for one in found["templates"]:
        record = classified(run, coffee, templates=(one["template"],))
        assert one["alone"] == pytest.approx(record["scores"][0], abs=1e-4)
        by_label = {score["label"]: score["score"] for score in record["scores"]}
        mine = by_label.pop(found["answer"])
        assert one["margin"] == pytest.approx(mine - max(by_label.values()), abs=2e-4)


def test_without_a_template_the_answer_is_that_of_the_others(run, coffee):
    for one in explained(run, coffee)["templates"]:
        others = tuple(template for template in TEMPLATES if template != one["template"])
        assert one["without"] == classified(run, coffee, templates=others)["label"]


def test_the_parts_of_the_templates_in_the_lead_add_up_to_all_of_it(run, tmp_path, cat):
    labels = tmp_path / "labels.yaml"
    labels.write_text(
        "labels:\n- {name: cat, aliases: [kitten, house cat]}\n- rocket\n"
        "- {name: coffee, prompts: ['a cup of <>', 'black <> in a cup'], weights: [3, 1]}\n"
    )
    result = run("explain", cat, "--labels-file", labels, "--template", "<>", "--template", "a <>", "--model", "tiny",
                 "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {one["template"] for one in found["templates"]} == {"<>", "a <>", OWN_PROMPTS}
    assert sum(one["share"] for one in found["templates"]) == pytest.approx(1, abs=5e-4)


def test_the_lead_is_the_logit_between_answer_and_runner_up(cat):
    classifier = Classifier(LABELS, model="tiny", score="cosine")
    found = explain(classifier, str(cat))
    assert found.lead == pytest.approx(found.answer.score - found.runner_up.score, abs=1e-6)


def test_with_many_labels_only_the_best_are_looked_at_prompt_by_prompt(cat):
    classifier = Classifier([*LABELS, *(f"thing number {n}" for n in range(40))], model="tiny", template="a <>.")
    found = explain(classifier, str(cat))
    assert found.left_out == len(classifier.labels) - CONTENDERS
    assert found.templates[0].alone.label == found.answer.label
    assert found.templates[0].alone.score == pytest.approx(found.answer.score, abs=1e-5)  # it is the only template


def wide(tmp_path: Path) -> Path:
    """A cup at the left end and a cat at the right, of which the middle shows neither whole."""
    picture = Image.new("RGB", (900, 300), (90, 110, 90))
    for name, left in (("coffee", 0), ("cat", 600)):
        photo = Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")
        side = min(photo.size)
        box = ((photo.width - side) // 2, (photo.height - side) // 2)
        picture.paste(photo.crop((*box, box[0] + side, box[1] + side)).resize((300, 300)), (left, 0))
    picture.save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_crops_at_both_ends_see_what_lies_there(run, tmp_path):
    crops = {one["crop"]: one for one in explained(run, wide(tmp_path))["crops"]}
    assert set(crops) == {"model", "longest", "squash", "left", "right", "zoom"}
    assert crops["left"]["best"]["label"] == "a cup of coffee"
    assert crops["right"]["best"]["label"] == "a cat"
    assert crops["left"]["seen"] == pytest.approx([0, 0, 1 / 3, 1], abs=0.01)
    assert crops["model"]["seen"] == pytest.approx([1 / 3, 0, 2 / 3, 1], abs=0.01)
    assert crops["longest"]["seen"] == pytest.approx([0, -1, 1, 2], abs=0.01)


def test_crops_that_see_the_same_are_told_once(run, tmp_path, cat):
    Image.open(cat).resize((200, 200)).save(tmp_path / "square.png")
    assert [one["crop"] for one in explained(run, tmp_path / "square.png")["crops"]] == ["model", "zoom"]


def test_a_picture_on_its_side_is_explained_upright(run, tmp_path):
    upright = Image.open(wide(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to be seen
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert upright_size(str(tmp_path / "side.png")) == (900, 300)
    straight, turned = (explained(run, tmp_path / name)["crops"] for name in ("wide.png", "side.png"))
    assert turned == straight


def test_the_nearest_labels_are_near_by_their_embeddings(run, cat):
    result = run("explain", cat, *options("a cat", "a kitten", "a rocket", "a temple"), "--json")
    near = json.loads(result.stdout)["nearest"]
    assert near[0]["label"] == "a kitten"
    assert [one["cosine"] for one in near] == sorted((one["cosine"] for one in near), reverse=True)


def test_in_a_pipe_every_line_says_what_it_is(run, cat):
    lines = [line.split("\t") for line in run("explain", cat, *options(*LABELS)).stdout.splitlines()]
    assert [line[1] for line in lines if line[0] == "score"] == [one["label"] for one in classified(run, cat)["scores"]]
    assert {line[0] for line in lines} == {"score", "margin", "template", "crop", "near"}
    assert {len(line) for line in lines if line[0] == "template"} == {7}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("missing.jpg",), 1, "missing.jpg: no such file"),
        ((EXAMPLES / "cat.jpg", "--map-of", "a cat"), 2, "nothing is drawn"),
        ((EXAMPLES / "cat.jpg", "-o", "map.txt"), 2, "a heat map is a picture"),
        ((EXAMPLES / "cat.jpg", "-o", "map.png", "--map-of", "a dog"), 2, "--map-of a dog: no such label"),
        ((EXAMPLES / "cat.jpg", "-o", "nowhere/map.png"), 1, "nowhere"),
    ],
)
def test_what_cannot_be_explained_is_one_line(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = run("explain", *arguments, *options(*LABELS))
    assert result.exit_code == code
    assert result.stdout == ""
    first, *hints = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert words in first
    assert all(hint.startswith("hint: ") for hint in hints)
    assert not (tmp_path / "map.png").exists()


def test_a_damaged_picture_is_one_line(run, tmp_path, cat):
    (tmp_path / "half.jpg").write_bytes(cat.read_bytes()[:2000])
    result = run("explain", tmp_path / "half.jpg", *options(*LABELS))
    assert result.exit_code == 1
    assert "half.jpg: damaged or truncated" in result.stderr


def test_a_map_does_not_overwrite_the_picture(run, tmp_path, cat):
    (tmp_path / "cat.jpg").write_bytes(cat.read_bytes())
    result = run("explain", tmp_path / "cat.jpg", *options(*LABELS), "-o", tmp_path / "cat.jpg")
    assert result.exit_code == 2
    assert (tmp_path / "cat.jpg").read_bytes() == cat.read_bytes()


# Heat maps


@cache
def heat_maps(model: str):
    from clipzs.heatmap import HeatMaps
    from clipzs.resolve import resolve

    return HeatMaps(resolve(model), device="cpu")


def mass(grid: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """The share of the heat in (left, top, right, bottom), which are shares of the frame."""
    rows, columns = grid.shape
    fine = np.kron(grid, np.ones((24, 24)))
    left, right = (round(side * 24 * columns) for side in box[::2])
    top, bottom = (round(side * 24 * rows) for side in box[1::2])
    return float(fine[top:bottom, left:right].sum() / fine.sum())


CORNERS = ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))


def test_the_heat_of_the_embedded_model_lies_on_the_photo_and_not_on_the_noise_around_it():
    classifier = Classifier(LABELS, model="tiny")
    spec = classifier.model
    height, width = spec.preprocess.size
    shares = []
    for name in ("cat", "coffee", "flower"):
        row = next(row for row, label in enumerate(LABELS) if name in label)
        photo = replace(spec.preprocess, size=(height // 2, width // 2))(read_image(str(EXAMPLES / f"{name}.jpg")))
        for x, y in CORNERS:
            picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            top, left = round(y * height), round(x * width)
            picture[top : top + height // 2, left : left + width // 2] = photo
            heat = heat_maps("tiny")(picture, classifier.label_vectors[row])
            assert heat.grid.min() >= 0
            assert heat.grid.max() == 1
            shares.append(mass(heat.grid, (x, y, x + 0.5, y + 0.5)))
    assert np.mean(shares) > 0.4, "a quarter of the area; by chance it would be 0.25"


@pytest.mark.parametrize("kind", ["resnet", "timm-custom-text"])
def test_the_heat_of_a_cell_is_what_its_features_bring_to_the_similarity(folder, kind):
    """A cell's features made a bit stronger change the similarity by as much as the heat says."""
    from copy import deepcopy

    import torch

    from clipzs import heatmap
    from clipzs.towers import normalise

    maps = heat_maps(f"local-dir:{folder(kind)}")
    height, width = maps._spec.preprocess.size
    numbers = np.random.default_rng(1)
    pixels = numbers.integers(0, 256, (height, width, 3), np.uint8)
    tower = maps._encoder.tower("image")
    image = normalise(torch.from_numpy(pixels[None]), maps._spec.preprocess)
    with torch.no_grad():
        near = torch.nn.functional.normalize(tower(image)[0], dim=0).numpy()
    label = near + numbers.standard_normal(len(near)).astype(np.float32) / len(near) ** 0.5
    label /= np.linalg.norm(label)
    grid = maps(pixels, label).grid
    tower, image, label = deepcopy(tower).double(), image.double(), label.astype(np.float64)
    stages = heatmap._stages(getattr(tower, "trunk", tower))
    hottest = np.unravel_index(grid.argmax(), grid.shape)
    cells = [hottest, *map(tuple, numbers.integers(0, grid.shape, (12, 2)))]
    changed = []
    for cell in cells:
        ends = []
        for step in (-1e-6, 1e-6):

            def stronger(_, __, output, cell=cell, step=step):
                if output.shape[-2:] != grid.shape:
                    return None
                output = output.clone()
                output[:, :, cell[0], cell[1]] *= 1 + step
                return output

            with ExitStack() as hooks, torch.no_grad():
                for stage in stages:
                    hooks.callback(stage.register_forward_hook(stronger).remove)
                features = torch.nn.functional.normalize(tower(image)[0], dim=0)
                ends.append(float(features @ torch.from_numpy(label)))
        changed.append(ends[1] - ends[0])
    expected = np.clip(changed, 0, None) / changed[0]
    assert np.count_nonzero(expected) > 2
    np.testing.assert_allclose([grid[cell] for cell in cells], expected, atol=1e-3)


def colour_reader(folder: Path, source: Path) -> str:
    """A vision transformer whose first feature is how red its patches are, and whose second how green.

    Queries and keys are 0, so that every token attends to all alike; values pass as they are; nothing else is done.
    """
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "open_clip_config.json").write_text((source / "open_clip_config.json").read_text())
    state = load_file(source / "open_clip_model.safetensors")
    for key, value in state.items():
        if key.startswith("visual."):
            norm = ".ln_" in key and key.endswith("weight")
            value.fill_(1.0 if norm else 0.0)
    width = state["visual.conv1.weight"].shape[0]
    red, green = torch.tensor([1.0, -0.5, -0.5]), torch.tensor([-0.5, 1.0, -0.5])
    state["visual.conv1.weight"][0] = red[:, None, None]
    state["visual.conv1.weight"][1] = green[:, None, None]
    for layer in range(2):
        name = f"visual.transformer.resblocks.{layer}.attn."
        state[f"{name}in_proj_weight"][2 * width :] = torch.eye(width)
        state[f"{name}out_proj.weight"].copy_(torch.eye(width))
    state["visual.proj"][0, 0] = state["visual.proj"][1, 1] = 1.0
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_the_heat_of_a_vision_transformer_lies_on_the_patches_that_make_the_answer(folder, tmp_path):
    maps = heat_maps(colour_reader(tmp_path / "colours", folder("vit")))
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[0:16, 32:48] = 255, 0, 0  # in the first of four rows, the third of four columns
    pixels[48:64, 0:16] = 0, 255, 0
    red, green = np.eye(32, dtype=np.float32)[:2]
    assert np.unravel_index(maps(pixels, red).grid.argmax(), (4, 4)) == (0, 2)
    assert np.unravel_index(maps(pixels, green).grid.argmax(), (4, 4)) == (3, 0)
    assert mass(maps(pixels, red).grid, (0.5, 0, 0.75, 0.25)) > 0.5
    assert mass(maps(pixels, red).grid, (0, 0.75, 0.25, 1)) < 0.01


@pytest.mark.parametrize(
    ("kind", "cells", "method"),
    [
        ("vit", 4, "LeGrad"),
        ("siglip", 10, "LeGrad"),  # timm's, averaged
        ("rotary", 16, "LeGrad"),  # timm's EVA
        ("coca", 4, "LeGrad"),  # attention pooling
        ("resnet", 8, "HiResCAM"),
        ("fastvit", 8, "HiResCAM"),
    ],
)
def test_every_kind_of_tower_has_a_heat_map_that_depends_on_picture_and_label(folder, kind, cells, method):
    import torch

    maps = heat_maps(f"local-dir:{folder(kind)}")
    height, width = maps._spec.preprocess.size
    numbers = np.random.default_rng(0)
    one, other = numbers.integers(0, 256, (2, height, width, 3), np.uint8)
    first, second = numbers.standard_normal((2, maps._spec.config["embed_dim"])).astype(np.float32)
    attention = torch.nn.functional.scaled_dot_product_attention
    heat = maps(one, first)
    assert heat.grid.shape == (cells, cells)
    assert heat.method.startswith(method)
    assert np.isfinite(heat.grid).all()
    np.testing.assert_array_equal(maps(one, first).grid, heat.grid)
    assert not np.array_equal(maps(other, first).grid, heat.grid) or not heat.grid.any()
    assert not np.array_equal(maps(one, second).grid, maps(one, -second).grid)
    assert torch.nn.functional.scaled_dot_product_attention is attention, "torch is left as it was"


def test_a_heat_map_and_a_model_on_another_thread_leave_each_other_alone(folder):
    import torch

    maps, functional = heat_maps(f"local-dir:{folder('vit')}"), torch.nn.functional
    picture = np.random.default_rng(0).integers(0, 256, (*maps._spec.preprocess.size, 3), np.uint8)
    label = np.random.default_rng(1).standard_normal(maps._spec.config["embed_dim"]).astype(np.float32)
    alone, tokens = maps(picture, label).grid, torch.randn(1, 2, 5, 16)
    attended = functional.scaled_dot_product_attention(tokens, tokens, tokens)
    ended, different = threading.Event(), []

    def other() -> None:
        while not ended.is_set():
            now = functional.scaled_dot_product_attention(tokens, tokens, tokens)
            different.extend([] if torch.equal(now, attended) else [now])

    thread = threading.Thread(target=other)
    thread.start()
    try:
        for _ in range(5):
            np.testing.assert_array_equal(maps(picture, label).grid, alone)
    finally:
        ended.set()
        thread.join()
    assert different == []


def test_a_map_is_the_upright_picture_with_its_heat_and_darker_where_the_model_does_not_look(run, tmp_path):
    heat = explained(run, wide(tmp_path), "-o", tmp_path / "map.png", "--map-of", "a cat")["heat"]
    assert heat["label"] == "a cat"
    assert np.shape(heat["grid"]) == (6, 6)
    drawn, picture = (np.asarray(Image.open(tmp_path / name), float) for name in ("map.png", "wide.png"))
    assert drawn.shape == picture.shape
    for unseen in (slice(0, 295), slice(605, 900)):
        assert drawn[:, unseen].mean() < 0.5 * picture[:, unseen].mean()
    assert drawn[:, 305:595].mean() > 0.7 * picture[:, 305:595].mean()


def test_heat_is_drawn_where_it_is():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    drawn = np.asarray(laid_on(Image.new("RGB", (300, 100), (128, 128, 128)), heat, (100, 0, 200, 100)), float)
    yellow = drawn[..., 0] - drawn[..., 2]
    y, x = np.unravel_index(yellow.argmax(), yellow.shape)
    assert 175 <= x < 200
    assert y < 25
    assert np.ptp(drawn[:, :99]) == 0
    assert drawn[50, 50, 0] < drawn[50, 110, 0]


def test_a_tower_of_another_kind_is_one_line(run, cat, folder, monkeypatch):
    from clipzs import heatmap

    monkeypatch.setattr(heatmap, "_stages", lambda trunk: [])
    result = run("explain", cat, *options(*LABELS), "-o", "map.png")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == (
        "error: heat maps are for vision transformers and convolutional towers; that of tiny is neither"
    )


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (97, 96), (20, 20), (5000, 3), (640, 641)])
@pytest.mark.parametrize("frame", [(96, 96), (64, 96)])
def test_what_a_model_sees_of_a_picture_is_where_it_looks(mode, size, frame):
    """A ramp tells for each pixel of the frame where it comes from."""
    preprocess = Preprocess(size=frame, resize_mode=mode, interpolation="bilinear")
    width, height = size
    left, top, right, bottom = preprocess.view(width, height)
    for axis, (length, begin, end) in enumerate(((width, left, right), (height, top, bottom))):
        ramp = np.linspace(40, 250, length)
        image = Image.fromarray(np.broadcast_to(ramp if axis == 0 else ramp[:, None], (height, width)).astype(np.uint8))
        seen = preprocess(image)[..., 0].max(axis=axis).astype(float)  # padding is black
        places = begin + (np.arange(len(seen)) + 0.5) * (end - begin) / len(seen)
        np.testing.assert_array_equal(seen[(places < 0) | (places > length)], 0)
        inside = (places > 2) & (places < length - 2)
        expected = np.interp(places, np.arange(length) + 0.5, ramp)
        if inside.any():
            slack = 4 + 210 / length * (end - begin) / len(seen)
            np.testing.assert_allclose(seen[inside], expected[inside], atol=slack)
