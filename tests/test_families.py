"""Every family of models gives the numbers open_clip gives; each is a row of `backbones.ROWS`."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import backbones
import models
import numpy as np
import open_clip
import pytest
from backbones import ROWS, Row
from fakehub import lay_out

TOLERANCE = 1e-5
ONE_OF_EACH_KIND = [  # native, timm with a bias, of transformers, CoCa
    next(row for row in ROWS if row.model == model)
    for model in ("ViT-B-32", "ViT-B-16-SigLIP2-256", "xlm-roberta-base-ViT-B-32", "coca_ViT-B-32")
]
OTHER_FORMATS = [
    replace(row, suffix=suffix)
    for row in ONE_OF_EACH_KIND
    for suffix in (".safetensors", ".bin", ".pt")
    if suffix != row.suffix
]
FULL_SIZE = [
    replace(row, suffix=".safetensors", half=True, full="text" if row.model.startswith("xlm") else "image")
    for row in ROWS
    if row.model in ("RN50", "MobileCLIP2-S0", "xlm-roberta-base-ViT-B-32")
]


def facts(config: dict[str, Any], at: str = "") -> set[str]:
    """What a config says besides sizes, as lines."""
    found = set()
    for key, value in config.items():
        if isinstance(value, dict):
            found |= facts(value, f"{at}{key}.")
        elif key not in backbones.SIZES:
            found.add(f"{at}{key} = {value}")
    return found


def kind(model: str, tag: str | None) -> frozenset[str]:
    """What tells a published model from others besides sizes, and numbers that grow with them."""
    config = open_clip.get_model_config(model)
    if tag and open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"):
        config["quick_gelu"] = True
    vision, text = config["vision_cfg"], config["text_cfg"]
    free = ("patch_size", "head_width", "mlp_ratio", "context_length", "timm_drop", "eos_id", "hf_tokenizer_name")
    described = {line for line in facts(config) if not any(word in line for word in free)}
    described.add(f"layers are of {type(vision.get('layers')).__name__}")
    if "timm_model_name" in vision:
        described.add(f"as {backbones.timm_kind(vision['timm_model_name'])}")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if key in text:
            described.add(f"{key} as {backbones.tokenizer_kind(text[key])}")
    return frozenset(described)


def assert_equal(row: Row) -> None:
    for what, difference in backbones.measured(row)._asdict().items():
        assert difference <= TOLERANCE, what


KINDS = {kind(row.model, row.tag): row for row in reversed(ROWS)}  # `python -m benchmarks.families` tries all


@pytest.mark.parametrize("row", KINDS.values(), ids=str)
def test_each_tower_alone_and_the_command_equal_open_clip(row):
    assert_equal(row)


@pytest.mark.parametrize("row", OTHER_FORMATS, ids=lambda row: f"{row.model}{row.suffix}")
def test_every_format_of_weights_gives_the_same(row):
    assert_equal(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", FULL_SIZE, ids=lambda row: f"{row.full} tower of {row.model}")
def test_a_full_size_tower_equals_open_clip(row):
    assert_equal(row)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_small_model_differs_from_the_real_one_in_sizes_only(row, tmp_path):
    real, small = open_clip.get_model_config(row.model), backbones.small_config(row, tmp_path)
    quick = row.tag and open_clip.get_pretrained_cfg(row.model, row.tag).get("quick_gelu")
    assert facts(small) - facts(real) <= ({"quick_gelu = True"} if quick else set())
    assert facts(real) <= facts(small)


def test_every_published_model_is_of_a_kind_that_has_a_row():
    published = open_clip.list_pretrained()
    assert len(published) > 150
    assert [(model, tag) for model, tag in published if kind(model, tag) not in KINDS] == []


# The language of labels


@pytest.fixture(scope="session")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small NLLB-CLIP."""
    folder = tmp_path_factory.mktemp("nllb")
    backbones.write_model(next(row for row in ROWS if row.model == "nllb-clip-base"), folder)
    return folder


def test_nllb_reads_labels_in_the_language_it_is_told(nllb):
    name = f"local-dir:{nllb}"
    french = backbones.command_scores("--model", name, "--language", "fra_Latn")
    model, preprocess, _ = models.reference(name)
    tokenizer = open_clip.get_tokenizer(name, src_lang="fra_Latn")  # its `language` changes nothing
    expected, _, _ = backbones.open_clip_answers(model, preprocess, tokenizer)
    np.testing.assert_allclose(french, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(french - backbones.command_scores("--model", name)).max() > 1e-3


def test_labels_of_one_language_are_not_taken_for_those_of_another(run, nllb, cat):
    """They are kept between runs, each language for itself."""
    asked = ["classify", cat, "--labels", "cat,dog", "--model", f"local-dir:{nllb}", "--json", "--engine", "torch"]
    first, french, again = (run(*asked, *more).stdout for more in ([], ["--language", "fra_Latn"], []))
    assert first == again
    assert json.loads(first)["config"] != json.loads(french)["config"]
    assert json.loads(first)["scores"] != json.loads(french)["scores"]


@pytest.mark.parametrize(
    ("model", "language", "said"),
    [
        ("nllb", "zh", "knows no language 'zh'; did you mean zho_Han"),
        ("roberta", "fra_Latn", "the tokenizer of local-dir:.* needs no --language"),
        ("tiny", "fra_Latn", "tiny needs no --language"),
    ],
)
def test_a_language_a_model_is_not_told_is_one_line(run, nllb, tmp_path, cat, model, language, said):
    if model == "roberta":
        backbones.write_model(next(row for row in ROWS if row.model == "roberta-ViT-B-32"), tmp_path)
    name = {"nllb": f"local-dir:{nllb}", "roberta": f"local-dir:{tmp_path}"}.get(model, model)
    result = run("classify", cat, "--labels", "cat,dog", "--model", name, "--language", language)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(f"error: .*{said}", " ".join(result.stderr.split()))


# Text towers of the transformers package


def test_a_text_towers_config_is_taken_from_the_hub_cache_by_its_name(run, tmp_path, cat):
    folder = tmp_path / "model"
    folder.mkdir()
    backbones.write_model(next(row for row in ROWS if row.model == "xlm-roberta-base-ViT-B-32"), folder)
    name = f"local-dir:{folder}"
    expected = backbones.command_scores("--model", name)
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace(json.dumps(str(folder)), '"someone/encoder"'))
    without = run("classify", cat, "--labels", "cat,dog", "--model", name, "--no-cache")
    assert (without.exit_code, without.stdout) == (1, "")
    assert "error: someone/encoder (config.json) is not in" in " ".join(without.stderr.split())
    lay_out(tmp_path / "hub", "someone/encoder", {"config.json": folder / "config.json"})
    assert (backbones.command_scores("--model", name) == expected).all()
