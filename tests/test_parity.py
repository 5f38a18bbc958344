"""clipzs gives the numbers open_clip gives: the reference is its documented snippet, run here on the same weights."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import models
import numpy as np
import open_clip
import pytest
import torch
from conftest import EXAMPLES
from PIL import Image
from safetensors.torch import load_file, save_file

from clipzs.embed import label_embeddings
from clipzs.registry import tag_table
from clipzs.resolve import resolve
from clipzs.store import LabelStore
from clipzs.templates import chosen
from clipzs.towers import OpenClipEncoder, normalise

PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket", "temple")]
LABELS = ("cat", "a cup of coffee", "rocket", "Greek temple on a hill")
TEMPLATE = "a photo of a {}."
TOLERANCE = 1e-5


def open_clip_scores(
    name: str,
    pretrained: str | None = None,
    *,
    score: str = "softmax",
    templates: Sequence[str] = (TEMPLATE,),
    **more: object,
) -> np.ndarray:
    """float [images, labels], as open_clip's README computes them."""
    model, preprocess, tokenizer = models.reference(name, pretrained, **more)
    images = torch.stack([preprocess(Image.open(path)) for path in PHOTOS])
    with torch.no_grad():
        image_features = model.encode_image(images)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        if len(templates) > 1:
            text_features = open_clip.build_zero_shot_classifier(model, tokenizer, LABELS, templates).T
        else:
            text_features = model.encode_text(tokenizer([templates[0].format(label) for label in LABELS]))
            text_features /= text_features.norm(dim=-1, keepdim=True)
        cosine = image_features @ text_features.T
        logits = model.logit_scale.exp() * cosine
        if score == "sigmoid":
            return torch.sigmoid(logits + model.logit_bias).numpy()
        return (cosine if score == "cosine" else logits.softmax(dim=-1)).numpy()


def clipzs_scores(run, *options: object, templates: Sequence[str] = (TEMPLATE,), labels: object = None) -> np.ndarray:
    """The same from the JSON lines of `clipzs classify`."""
    words = ["--labels-file", labels] if labels else [part for label in LABELS for part in ("--label", label)]
    texts = [part for template in templates for part in ("--template", template)]
    result = run("classify", *PHOTOS, *words, *texts, "--json", "--exact-decode", *options)
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["path"] for record in records] == [str(path) for path in PHOTOS]
    return np.array([[dict(map(dict.values, record["scores"]))[label] for label in LABELS] for record in records])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.ptp(theirs, axis=1).max() > 0.02, "the labels score alike: nothing is compared"
    assert np.ptp(theirs, axis=0).max() > 50 * TOLERANCE, "the images score alike: nothing is compared"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_scores_equal_open_clips(run, folder, kind):
    name = f"local-dir:{folder(kind)}"
    assert_same(clipzs_scores(run, "--model", name, "--engine", "torch"), open_clip_scores(name))


@pytest.mark.parametrize("kind", ["vit", "siglip", "coca"])
def test_cosine_scores_equal_open_clips(run, folder, kind):
    name = f"local-dir:{folder(kind)}"
    assert_same(clipzs_scores(run, "--model", name, "--score", "cosine"), open_clip_scores(name, score="cosine"))


def test_sigmoid_scores_equal_open_clips_with_its_bias(run, folder):
    name = f"local-dir:{folder('siglip')}"
    assert_same(clipzs_scores(run, "--model", name, "--score", "sigmoid"), open_clip_scores(name, score="sigmoid"))


@pytest.mark.parametrize("kind", ["vit", "siglip", "timm-custom-text", "coca"])
def test_an_ensemble_equals_open_clips_zero_shot_classifier(run, folder, kind):
    name = f"local-dir:{folder(kind)}"
    templates = ["a photo of a {}.", "{}", "a bad photo of the {}.", "itap of a {} that is rather long for its purpose"]
    assert_same(clipzs_scores(run, "--model", name, templates=templates), open_clip_scores(name, templates=templates))


def test_the_shipped_imagenet_set_equals_open_clips_own_ensemble(run, folder):
    name = f"local-dir:{folder('vit')}"
    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    ours = clipzs_scores(run, "--model", name, "--templates", "imagenet80", templates=())
    assert_same(ours, open_clip_scores(name, templates=theirs))
    assert sorted(chosen(["imagenet80"])) == sorted(template.replace("{}", "<>") for template in theirs)


def test_aliases_equal_the_average_over_all_their_prompts(run, folder, tmp_path):
    name = f"local-dir:{folder('vit')}"
    file = tmp_path / "labels.yaml"
    file.write_text(
        "- {name: cat, aliases: [kitten, tabby]}\n- a cup of coffee\n"
        "- {name: rocket, prompts: [a space rocket on its pad]}\n- Greek temple on a hill\n"
    )
    texts = {
        "cat": [TEMPLATE.format(word) for word in ("cat", "kitten", "tabby")],
        "rocket": ["a space rocket on its pad"],
    }
    model, preprocess, tokenizer = models.reference(name)
    with torch.no_grad():
        image = model.encode_image(torch.stack([preprocess(Image.open(path)) for path in PHOTOS]), normalize=True)
        rows = []
        for label in LABELS:
            prompts = model.encode_text(tokenizer(texts.get(label, [TEMPLATE.format(label)])), normalize=True)
            rows.append(torch.nn.functional.normalize(prompts.mean(dim=0), dim=-1))
        theirs = (model.logit_scale.exp() * image @ torch.stack(rows).T).softmax(dim=-1).numpy()
    assert_same(clipzs_scores(run, "--model", name, labels=file), theirs)


@pytest.fixture(scope="session")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A checkpoint file of the smallest built-in architecture, and open_clip's scores with it."""
    file = tmp_path_factory.mktemp("built-in") / "weights.safetensors"
    save_file(models.random_state("ViT-S-32-alt"), file)
    return file, open_clip_scores("ViT-S-32-alt", str(file))


def test_a_file_for_a_built_in_architecture_is_scored_as_by_open_clip(run, built_in):
    file, theirs = built_in
    assert_same(clipzs_scores(run, "--model", "ViT-S-32-alt", "--pretrained", file), theirs)


@pytest.mark.parametrize(
    ("suffix", "wrapped", "zipped"),
    [(".bin", False, True), (".pt", True, True), (".pth", False, False)],
    ids=["a plain pickle", "as saved in distributed training", "as torch wrote before 1.6"],
)
def test_pickled_weights_give_the_same_scores(run, built_in, tmp_path, suffix, wrapped, zipped):
    state, file = load_file(built_in[0]), tmp_path / f"epoch_3{suffix}"
    if wrapped:
        state = {"epoch": 3, "name": "x", "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    assert_same(clipzs_scores(run, "--model", "ViT-S-32-alt", "--pretrained", file), built_in[1])


def test_quick_gelu_can_be_asked_for_and_changes_the_scores(run, built_in):
    file, plain = built_in
    quick = clipzs_scores(run, "--model", "ViT-S-32-alt", "--pretrained", file, "--quick-gelu")
    assert_same(quick, open_clip_scores("ViT-S-32-alt", str(file), force_quick_gelu=True))
    assert np.abs(quick - plain).max() > 1e-3


@pytest.mark.slow
def test_a_full_size_model_is_scored_as_by_open_clip(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("full")
    try:
        file = place / "vit-b-32.safetensors"
        save_file(models.random_state("ViT-B-32"), file)
        assert file.stat().st_size > 600e6
        ours = clipzs_scores(run, "--model", "ViT-B-32", "--pretrained", file)
        assert_same(ours, open_clip_scores("ViT-B-32", str(file)))
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm-custom-text", "rotary", "siglip", "coca"])
def test_a_tower_alone_equals_the_same_tower_of_the_whole_model(folder, kind):
    spec = resolve(f"local-dir:{folder(kind)}")
    alone, whole = OpenClipEncoder(spec), OpenClipEncoder(spec)
    model = whole._whole_model(RuntimeError("not tried")).eval()
    pixels = np.stack([spec.preprocess(Image.open(path)) for path in PHOTOS])
    tokens = alone.tokenize(LABELS)
    with torch.no_grad():
        images = model.encode_image(normalise(torch.from_numpy(pixels), spec.preprocess), normalize=True).numpy()
        texts = model.encode_text(torch.from_numpy(tokens.ids), normalize=True).numpy()
    np.testing.assert_allclose(alone.encode_images(pixels), images, rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone.encode_texts(tokens), texts, rtol=0, atol=1e-6)


def _whole_models_built(monkeypatch) -> list[str]:
    """Names of the models open_clip builds from here on."""
    built, create = [], open_clip.create_model

    def counted(name, *args, **more):
        built.append(name)
        return create(name, *args, **more)

    monkeypatch.setattr(open_clip, "create_model", counted)
    return built


def test_a_model_that_fits_is_never_built_whole(run, folder, monkeypatch):
    built = _whole_models_built(monkeypatch)
    clipzs_scores(run, "--model", f"local-dir:{folder('rotary')}", "--no-cache")
    clipzs_scores(run, "--model", f"local-dir:{folder('rotary')}", "--engine", "openvino")
    assert built == []


def test_weights_of_another_image_size_go_through_the_whole_model(run, folder, tmp_path, monkeypatch):
    larger = tmp_path / "larger"
    larger.mkdir()
    shutil.copy(folder("vit") / "open_clip_model.safetensors", larger)
    models.write_config(larger, models.altered(models.CONFIGS["vit"], vision_cfg={"image_size": 96}))
    theirs = open_clip_scores(f"local-dir:{larger}")
    before = open_clip.list_models()
    built = _whole_models_built(monkeypatch)
    assert_same(clipzs_scores(run, "--model", f"local-dir:{larger}", "--engine", "torch"), theirs)
    assert len(built) == 1  # the text tower fits by itself
    assert open_clip.list_models() == before


def test_text_weights_of_another_context_length_go_through_the_whole_model(run, folder, tmp_path, monkeypatch):
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    shutil.copy(folder("vit") / "open_clip_model.safetensors", shorter)
    models.write_config(shorter, models.altered(models.CONFIGS["vit"], text_cfg={"context_length": 40}))
    theirs = open_clip_scores(f"local-dir:{shorter}")
    built = _whole_models_built(monkeypatch)
    assert_same(clipzs_scores(run, "--model", f"local-dir:{shorter}", "--engine", "torch"), theirs)
    assert len(built) == 1


def test_the_old_layout_of_text_weights_loads_into_a_model_with_a_text_tower_of_its_own(run, folder, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(folder("vit") / "open_clip_model.safetensors", old)
    models.write_config(old, {**models.CONFIGS["vit"], "custom_text": True})
    assert_same(clipzs_scores(run, "--model", f"local-dir:{old}"), open_clip_scores(f"local-dir:{old}"))


def test_half_precision_weights_are_computed_in_fp32_as_by_open_clip(run, folder, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    state = load_file(folder("vit") / "open_clip_model.safetensors")
    save_file({key: value.half() for key, value in state.items()}, half / "open_clip_model.safetensors")
    models.write_config(half, models.CONFIGS["vit"])
    assert_same(clipzs_scores(run, "--model", f"local-dir:{half}"), open_clip_scores(f"local-dir:{half}"))


def test_a_sigmoid_model_whose_file_lacks_the_bias_has_none_to_add_as_in_open_clip(run, folder, tmp_path):
    unbiased = tmp_path / "unbiased"
    unbiased.mkdir()
    state = load_file(folder("siglip") / "open_clip_model.safetensors")
    del state["logit_bias"]
    save_file(state, unbiased / "open_clip_model.safetensors")
    models.write_config(unbiased, models.CONFIGS["siglip"], models.SQUASHED)
    name = f"local-dir:{unbiased}"
    assert_same(clipzs_scores(run, "--model", name, "--score", "sigmoid"), open_clip_scores(name, score="sigmoid"))


def test_sigmoid_is_refused_where_the_model_has_no_bias(run, folder):
    result = run(
        "classify", PHOTOS[0], "--labels", "a,b", "--model", f"local-dir:{folder('vit')}", "--score", "sigmoid"
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no logit bias" in result.stderr


@pytest.mark.parametrize("kind", ["vit", "timm-custom-text", "resnet"])
def test_bf16_agrees_with_fp32(folder, kind):
    spec = resolve(f"local-dir:{folder(kind)}")
    pixels = np.stack([spec.preprocess(Image.open(path)) for path in PHOTOS])
    exact, fast = OpenClipEncoder(spec), OpenClipEncoder(spec, precision="bf16")
    tokens = exact.tokenize(LABELS)
    for ours, theirs in (
        (fast.encode_images(pixels), exact.encode_images(pixels)),
        (fast.encode_texts(tokens), exact.encode_texts(tokens)),
    ):
        assert ours.dtype == np.float32
        cosine = (ours * theirs).sum(axis=1)
        assert cosine.min() >= 0.999
        assert not np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_cutting_the_text_short_changes_nothing(folder, kind):
    encoder = OpenClipEncoder(resolve(f"local-dir:{folder(kind)}"))
    tokens = encoder.tokenize(["cat", "a photo of a dog", "a rather longer description, with a comma"])
    with torch.inference_mode():
        full = encoder._text(torch.from_numpy(tokens.ids))
    full = torch.nn.functional.normalize(full[0] if isinstance(full, tuple) else full, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_texts(tokens), full, rtol=0, atol=1e-6)


def test_a_causal_text_tower_is_given_no_more_tokens_than_needed(folder):
    encoder = OpenClipEncoder(resolve(f"local-dir:{folder('vit')}"))
    seen = []
    encoder._text.token_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    tokens = encoder.tokenize(["cat", "two dogs"])
    encoder.encode_texts(tokens)
    assert tokens.ids.shape == (2, 77)
    assert seen == [(2, max(tokens.lengths))]
    assert tuple(encoder._text.attn_mask.shape) == (77, 77)


def test_token_ids_are_those_of_open_clip_and_their_number_is_counted_before_any_cut(folder):
    name = f"local-dir:{folder('timm-custom-text')}"
    texts = ["cat", "Ünïcode & <tags> “quotes”", "word " * 60]
    tokens = OpenClipEncoder(resolve(name)).tokenize(texts)
    assert tokens.ids.dtype == np.int64
    np.testing.assert_array_equal(tokens.ids, open_clip.get_tokenizer(name)(texts).numpy())
    assert tokens.lengths[0] == 3  # start, cat, end
    assert tokens.lengths[2] == 62


def test_token_ids_of_a_transformers_tokenizer_are_those_of_open_clip(folder):
    name = f"local-dir:{folder('transformers-tokenizer')}"
    texts = ["A photo of a CAT!", "dog", "rocket " * 30]
    tokens = OpenClipEncoder(resolve(name)).tokenize(texts)
    np.testing.assert_array_equal(tokens.ids, open_clip.get_tokenizer(name)(texts).numpy())
    assert tokens.ids.shape == (3, 16)
    assert tokens.lengths == (7, 3, 32)


def test_embeddings_are_float32_rows_of_length_one(folder):
    spec = resolve(f"local-dir:{folder('resnet')}")
    encoder = OpenClipEncoder(spec)
    images = encoder.encode_images(np.stack([spec.preprocess(Image.open(path)) for path in PHOTOS]))
    labels, encoded = label_embeddings(
        [("a cat", "the cat"), ("a dog", "the cat")], encoder, LabelStore(None, "x", "y"), digest="z"
    )
    assert encoded == 3  # "the cat" is shared
    for rows in (images, np.stack([label.vector for label in labels])):
        assert rows.dtype == np.float32
        assert rows.shape[1] == spec.config["embed_dim"]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_every_tag_trained_with_quick_gelu_has_it_switched_on():
    tagged = [
        (name, tag)
        for name, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")
    ]
    mismatched = [(n, t) for n, t in tagged if not open_clip.get_model_config(n).get("quick_gelu")]
    assert len(mismatched) >= 27  # those open_clip itself would build wrongly, with no more than a warning
    assert all(resolve(f"{name}:{tag}").config["quick_gelu"] for name, tag in tagged)


def test_every_other_tag_keeps_the_activation_of_its_architecture():
    for name, tags in tag_table().items():
        theirs = bool(open_clip.get_model_config(name).get("quick_gelu", False))
        for tag, facts in tags.items():
            if not facts.get("quick_gelu"):
                assert bool(resolve(f"{name}:{tag}").config.get("quick_gelu", False)) == theirs
