"""From what a person types to a full description of a model, and what is known of families."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import models
import open_clip
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from clipzs import Classifier, catalogue, families
from clipzs.errors import ClipzsError, ModelError, UnknownModel, UsageProblem
from clipzs.lookalike import architectures_of
from clipzs.names import OPENAI
from clipzs.registry import tag_table
from clipzs.resolve import resolve, resolve_config, tiny

DESCRIBED = {"config", "weights", "preprocessing", "activation", "tokenizer", "context", "scores", "languages"}
PAIRS = [(name, tag) for name, tags in tag_table().items() for tag in tags]


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    """What a compiled model from another test keeps would hide what is tried here."""
    monkeypatch.setenv("CLIPZS_ENGINE", "torch")


@pytest.fixture
def architecture(tmp_path) -> Path:
    """An architecture of one's own, as open_clip's model_configs has them."""
    path = tmp_path / "own" / "my-vit.json"
    path.parent.mkdir()
    path.write_text(json.dumps(models.CONFIGS["vit"]))
    return path


@pytest.fixture
def weights(folder) -> Path:
    """Weights of that architecture."""
    return Path(folder("vit") / "open_clip_model.safetensors")


def scores(run, photo: Path, *options: object) -> Any:
    result = run("classify", photo, "--labels", "cat,dog,rocket", "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["scores"]


def refusal(run, *arguments: object) -> tuple[int, str, str]:
    """Exit code, error line and hint of a command that cannot work."""
    result = run(*arguments)
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    return result.exit_code, error.removeprefix("error: "), hint.removeprefix("hint: ")


def cached_repository(hub: Path, repo: str, files: dict[str, bytes]) -> Path:
    """A repository as the hub's client leaves it in its cache; the folder of its files."""
    place = hub / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(snapshot.name)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


# Families


def test_every_published_pair_has_a_family_with_languages_and_a_licence():
    for name, tag in PAIRS:
        family = families.of_weights(name, tag)
        assert family is not None, (name, tag)
        assert family.name
        assert family.languages
        assert family.licence is not None, (name, tag)
        assert family.licence.source


@pytest.mark.parametrize(
    ("name", "family", "languages", "licence", "commercial"),
    [
        ("RN50:openai", "OpenAI CLIP", "en", "MIT", True),
        ("RN50:cc12m", "OpenCLIP", "en", "MIT", True),
        ("ViT-B-32:laion400m_e32", "OpenCLIP", "en", "MIT", True),
        ("ViT-H-14:laion2b_s32b_b79k", "OpenCLIP", "en", "MIT", True),
        ("ViT-B-32-256:datacomp_s34b_b86k", "DataComp", "en", "MIT", True),
        ("ViT-L-14:commonpool_xl_clip_s13b_b90k", "DataComp", "en", "MIT", True),
        ("ViT-B-16-quickgelu:metaclip_fullcc", "MetaCLIP 1", "en", "CC-BY-NC-4.0", False),
        ("ViT-H-14:metaclip_altogether", "MetaCLIP 1", "en", "CC-BY-NC-4.0", False),
        ("ViT-H-14-worldwide:metaclip2_worldwide", "MetaCLIP 2", "*", "CC-BY-NC-4.0", False),
        ("ViT-B-16:dfn2b", "DFN", "en", "Apple AMLR, research only", False),
        ("ViT-H-14-378-quickgelu:dfn5b", "DFN", "en", "Apple AMLR, research only", False),
        ("MobileCLIP-S1:datacompdr", "MobileCLIP", "en", "Apple AMLR, research only", False),
        ("MobileCLIP2-S0:dfndr2b", "MobileCLIP2", "en", "Apple AMLR, research only", False),
        ("ViT-B-16-SigLIP:webli", "SigLIP", "en", "Apache-2.0", True),
        ("ViT-B-16-SigLIP-i18n-256:webli", "SigLIP i18n", "*", "Apache-2.0", True),
        ("ViT-B-16-SigLIP2:webli", "SigLIP2", "*", "Apache-2.0", True),
        ("nllb-clip-base-siglip:mrl", "NLLB-CLIP", "*", "CC-BY-NC-4.0", False),
        ("PE-Core-B-16:meta", "PE-Core", "en", "Apache-2.0", True),
        ("ViT-H-14-CLIPA-336:laion2b", "CLIPA", "en", "Apache-2.0", True),
        ("EVA01-g-14:laion400m_s11b_b41k", "EVA01", "en", "MIT", True),
        ("EVA02-L-14:merged2b_s4b_b131k", "EVA02", "en", "MIT", True),
        ("ViTamin-S:datacomp1b", "ViTamin", "en", "MIT", True),
        ("coca_ViT-B-32:mscoco_finetuned_laion2b_s13b_b90k", "CoCa", "en", "MIT", True),
        ("convnext_base_w:laion_aesthetic_s13b_b82k", "ConvNeXt", "en", "MIT", True),
        ("roberta-ViT-B-32:laion2b_s12b_b32k", "RoBERTa", "en", "MIT", True),
        ("xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k", "XLM-R", "*", "MIT", True),
    ],
)
def test_what_is_known_of_a_family_is_told_of_its_models(name, family, languages, licence, commercial):
    spec = resolve(name)
    assert spec.licence is not None
    assert (spec.family, spec.languages) == (family, (languages,))
    assert (spec.licence.name, spec.licence.commercial) == (licence, commercial)


def test_openais_licence_comes_with_the_word_of_its_model_card():
    licence = resolve("ViT-B-32:openai").licence
    assert licence is not None
    assert "deployed use out of scope" in licence.source


def test_everything_of_one_publisher_who_forbids_commercial_use_says_so():
    for name, tag in PAIRS:
        owner = tag_table()[name][tag]["hf_hub"].split("/")[0]
        licence = resolve(f"{name}:{tag}").licence
        assert licence is not None
        if owner in ("apple", "visheratin") or "metaclip" in tag or "MobileCLIP" in name:
            assert not licence.commercial, (name, tag)
        if owner == "laion":
            assert licence.commercial, (name, tag)


@pytest.mark.parametrize("preset", catalogue.PRESETS, ids=lambda preset: preset.name)
def test_a_preset_names_the_licence_its_family_has(preset):
    licence = resolve(preset.model).licence
    assert licence is not None
    assert licence.name == preset.licence


def test_a_model_nobody_knows_has_no_licence_and_no_languages_but_what_its_tokenizer_tells(folder, tmp_path):
    assert resolve(f"local-dir:{folder('vit')}").licence is None
    assert resolve(f"local-dir:{folder('vit')}").languages == ("en",)  # CLIP's own vocabulary
    assert resolve(f"local-dir:{folder('transformers-tokenizer')}").languages == ()
    shutil.copytree(folder("vit"), tmp_path / "copy")
    for tokenizer, languages in (("xlm-roberta-base", ("*",)), ("bert-base-uncased", ("en",)), ("a/b", ())):
        config = models.altered(models.CONFIGS["vit"], text_cfg={"hf_tokenizer_name": tokenizer})
        models.write_config(tmp_path / "copy", config)
        spec = resolve(f"local-dir:{tmp_path / 'copy'}")
        assert (spec.licence, spec.languages) == (None, languages)


def test_a_repository_of_open_clips_table_is_known_and_another_is_not(tmp_path):
    content = json.dumps({"model_cfg": models.CONFIGS["vit"], "preprocess_cfg": {}}).encode()
    for repo in ("apple/DFN2B-CLIP-ViT-B-16", "someone/DFN2B-CLIP-ViT-B-16"):
        cached_repository(tmp_path / "hub", repo, {"open_clip_config.json": content})
    known, other = resolve("hf-hub:apple/DFN2B-CLIP-ViT-B-16"), resolve("hf-hub:someone/DFN2B-CLIP-ViT-B-16")
    assert (known.family, known.licence) == ("DFN", resolve("ViT-B-16:dfn2b").licence)
    assert (other.family, other.licence) == ("", None)


# Names


@pytest.mark.parametrize("name", [*OPENAI, "vit-l/14@336PX", "rn50X4"])
def test_openais_own_names_are_openais_weights_with_their_activation(name):
    spec = resolve(name)
    assert spec.name.endswith(":openai")
    assert spec.config["quick_gelu"]
    assert spec == resolve(f"{next(ours for theirs, ours in OPENAI.items() if theirs.lower() == name.lower())}:openai")


def test_openais_names_are_its_own_models_sizes():
    assert resolve("ViT-L/14@336px").preprocess.size == (336, 336)
    assert {resolve(name).name for name in OPENAI} == {
        f"{name}:{tag}" for name, tag in PAIRS if tag == "openai" and not name.endswith("-quickgelu")
    }


def test_other_weights_may_be_named_after_openais_name(tmp_path):
    assert resolve("ViT-B/32:laion2b_s34b_b79k").name == "ViT-B-32:laion2b_s34b_b79k"
    assert resolve("RN50", "cc12m").name == "RN50:cc12m"
    (tmp_path / "mine.safetensors").touch()
    spec = resolve("ViT-L/14@336px", str(tmp_path / "mine.safetensors"))
    assert spec.name == "ViT-L-14-336:mine.safetensors"
    assert not spec.config.get("quick_gelu")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-B/32/laion2b-s34b-b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("vit-b-32:OPENAI", "ViT-B-32:openai"),
        ("vit-b-32-quickgelu/openai", "ViT-B-32-quickgelu:openai"),
        ("ViT-B/16-SigLIP2", "ViT-B-16-SigLIP2:webli"),
        ("vit-b-16-siglip2", "ViT-B-16-SigLIP2:webli"),
        ("PE-CORE-L-14-336", "PE-Core-L-14-336:meta"),
        ("Fast", "ViT-B-32-256:datacomp_s34b_b86k"),
        ("TINY", "tiny"),
        ("cn-clip:vit-b-16", "cn-clip:ViT-B-16"),
    ],
)
def test_names_are_understood_as_people_write_them(written, meant):
    assert resolve(written).name == meant


@pytest.mark.parametrize("name", [name for name, _ in PAIRS])
def test_any_case_will_do_for_every_architecture(name):
    tag = next(iter(tag_table()[name]))
    assert resolve(f"{name.upper()}:{tag.upper()}") == resolve(f"{name.lower()}:{tag}") == resolve(f"{name}:{tag}")


def test_weights_named_twice_are_refused_unless_they_are_the_same():
    assert resolve("ViT-B-32/openai", "openai").name == "ViT-B-32:openai"
    with pytest.raises(UsageProblem, match="two sets of weights"):
        resolve("ViT-B-32/openai", "laion2b_s34b_b79k")


WORDS = st.sampled_from(
    ["ViT-B-32", "vit", "-", "/", ":", "@336px", "openai", "siglip2", "hf-hub:", "local-dir:", "cn-clip:", "tiny", "~",
     "..", "\0", "\n", "webli", "-quickgelu", " ", "C:\\", "RN50", "\udcff", "[", "*"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.lists(WORDS, max_size=6).map("".join)), st.one_of(st.none(), st.text(), WORDS))
@example("local-dir:\0", None)
@example("hf-hub:", None)
@example("ViT-B-32:", None)
@example("ViT-B-32", "")
@example("~nobody", "~")
def test_whatever_is_written_ends_in_a_description_or_a_line_for_people(model, pretrained):
    spec = error = None
    try:
        spec = resolve(model, pretrained)
    except ClipzsError as problem:
        error = problem
    assert (spec is None) != (error is None)
    assert error is None or str(error)
    assert spec is None or set(spec.sources) >= {"preprocessing", "languages"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("siglip2", "did you mean ViT-B-32-SigLIP2-256:webli, "),
        ("MetaCLIP2", "did you mean ViT-H-14-worldwide:metaclip2_worldwide, "),
        ("chinese-clip", "did you mean cn-clip:ViT-B-16, "),
        ("RN50x65", "did you mean RN50x64, "),
        ("ViT-B-32-SigLIP2:webli", "did you mean ViT-B-32-SigLIP2-256:webli?"),
        ("ViT-B-32:laion2b_s34b_b79", "did you mean ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-B-32:xyz", "it has ViT-B-32:datacomp_xl_s13b_b90k, "),
        ("ViT-L-14", "such as ViT-L-14:dfn2b_s39b, ViT-L-14:dfn2b, ViT-L-14:datacomp_xl_s13b_b90k"),
    ],
)
def test_a_name_that_is_not_one_leads_to_the_nearest_and_to_no_long_list(run, typed, said):
    code, error, _ = refusal(run, "models", "show", typed)
    assert code == 2
    assert said in error
    assert error.count(",") <= 3
    assert len(error) < 250


def test_what_is_no_name_at_all_is_told_what_to_write(run, folder, weights, tmp_path):
    for typed, hinted in (
        ("someone/some-model", "hf-hub:someone/some-model"),
        (str(folder("vit")), f"--model local-dir:{folder('vit')}"),
        (str(weights), f"--pretrained {weights}"),
    ):
        code, error, hint = refusal(run, "models", "show", typed)
        assert (code, error.startswith(f"unknown model '{typed}'")) == (2, True)
        assert hinted in hint


# The architecture of a weights file


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [("ViT-B-32", ""), ("ViT-L-14-336", "module."), ("ViT-S-32-alt", "_orig_mod.module."), ("ViT-bigG-14", "")],
)
def test_weights_show_by_their_shapes_what_they_may_be(run, cat, tmp_path, name, wrapped):
    with torch.device("meta"):
        state = open_clip.create_model(name, device="meta").state_dict()
    header = {wrapped + key: {"dtype": "F32", "shape": list(value.shape)} for key, value in state.items()}
    content = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file = tmp_path / "mine.safetensors"
    file.write_bytes(len(content).to_bytes(8, "little") + content)
    assert architectures_of(file) == [name]
    code, error, hint = refusal(run, "classify", cat, "--labels", "a,b", "--pretrained", file)
    assert (code, error) == (2, "--pretrained needs the architecture")
    assert f"its tensors look like {name}" in hint


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\2\0\0\0\0\0\0\0[]", b'\x0b\0\0\0\0\0\0\0{"a": null}'])
def test_nothing_is_guessed_of_what_is_no_weights_file(tmp_path, content):
    file = tmp_path / "mine.safetensors"
    assert architectures_of(file) == []
    file.write_bytes(content)
    assert architectures_of(file) == []


# A model config of one's own


def test_a_model_config_with_weights_scores_as_the_same_model_in_a_folder(run, cat, folder, architecture, weights):
    ours = scores(run, cat, "--model-config", architecture, "--pretrained", weights)
    assert ours == scores(run, cat, "--model", f"local-dir:{folder('vit')}")
    (result,) = Classifier(["cat", "dog", "rocket"], model_config=architecture, pretrained=str(weights)).classify(cat)
    assert [(score.label, round(score.score, 6)) for score in result.scores] == [
        (one["label"], one["score"]) for one in ours
    ]
    assert result.model == f"my-vit:{weights.name}"


def test_an_open_clip_config_brings_its_own_preprocessing_and_tokenizer(run, cat, folder, tmp_path):
    place = folder("transformers-tokenizer")
    shutil.copytree(place, tmp_path / "copy")
    models.write_config(tmp_path / "copy", models.CONFIGS["transformers-tokenizer"], models.SQUASHED)
    config = tmp_path / "copy" / "open_clip_config.json"
    spec = resolve_config(config, str(place / "open_clip_model.safetensors"))
    assert spec.preprocess.resize_mode == "squash"
    assert spec.tokenizer == str(tmp_path / "copy")
    ours = scores(run, cat, "--model-config", config, "--pretrained", place / "open_clip_model.safetensors")
    assert ours == scores(run, cat, "--model", f"local-dir:{tmp_path / 'copy'}")


def test_an_architecture_alone_is_prepared_as_the_published_one_with_its_image_tower(tmp_path, weights):
    for name in ("ViT-B-16-SigLIP2-256", "PE-Core-B-16", "ViT-B-32"):
        config = tmp_path / "mine.json"
        config.write_text(json.dumps(open_clip.get_model_config(name)))
        spec = resolve_config(config, str(weights))
        assert spec.preprocess == resolve(name, str(weights)).preprocess
        assert spec.sources["preprocessing"].startswith("what most published weights of ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a model config"),
        ('{"embed_dim": 32}', "is not a model config"),
        ('{"model_cfg": {"embed_dim": 32}}', "is not a model config"),
        ('{"embed_dim": "x", "vision_cfg": {}, "text_cfg": {}}', "makes no sense"),
        ('{"embed_dim": 3, "vision_cfg": {"image_size": 1e999}, "text_cfg": {}}', "makes no sense"),
        ('{"preprocess_cfg": 3, "model_cfg": {"embed_dim": 3, "vision_cfg": {}, "text_cfg": {}}}', "makes no sense"),
    ],
)
def test_a_model_config_that_is_none_is_one_line(run, cat, architecture, weights, content, said):
    architecture.write_text(content)
    more = ("--model-config", architecture, "--pretrained", weights)
    code, error, _ = (*refusal_of(run, "classify", cat, "--labels", "a,b", *more), "")
    assert code == 1
    assert said in error
    assert str(architecture) in error


def refusal_of(run, *arguments: object) -> tuple[int, str]:
    result = run(*arguments)
    assert result.stdout == ""
    return result.exit_code, result.stderr.splitlines()[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("options", "said", "hinted"),
    [
        (["--model-config", "CONFIG"], "--model-config needs the weights too", "--pretrained FILE"),
        (["--model-config", "CONFIG", "--pretrained", "openai"], "no such weights file: openai", "from a file"),
        (["--model-config", "gone.json", "--pretrained", "WEIGHTS"], "no such model config: gone.json", "JSON"),
        (["--model-config", "CONFIG", "--model", "tiny"], "both name the architecture", "name one"),
    ],
)
def test_options_that_do_not_go_with_a_model_config_are_refused(run, cat, architecture, weights, options, said, hinted):
    names = {"CONFIG": str(architecture), "WEIGHTS": str(weights)}
    code, error, hint = refusal(run, "classify", cat, "--labels", "a,b", *(names.get(one, one) for one in options))
    assert (code, said in error, hinted in hint) == (2, True, True), (error, hint)


def test_a_model_config_on_the_command_line_wins_over_a_model_in_the_environment(run, cat, architecture, weights):
    options = ("--model-config", architecture, "--pretrained", weights)
    result = run("classify", cat, "--labels", "a,b", "--json", *options, env={"CLIPZS_MODEL": "tiny"})
    assert json.loads(result.stdout)["model"] == f"my-vit:{weights.name}"
    env = {"CLIPZS_MODEL_CONFIG": str(architecture), "CLIPZS_ENGINE": "torch"}
    result = run("classify", cat, "--labels", "a,b", "--json", "--model", "tiny", env=env)
    assert json.loads(result.stdout)["model"] == "tiny"


# Checkpoints of open_clip's trainer


def trained(state: dict[str, torch.Tensor], path: Path, *, distributed: bool) -> None:
    """A checkpoint with all that open_clip's trainer saves beside the weights."""
    parameters = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    parameters[0].sum().backward()
    optimizer.step()
    prefix = "module." if distributed else ""
    content = {
        "epoch": 3,
        "name": "a run",
        "state_dict": {f"{prefix}{key}": value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 0},
    }
    torch.save(content, path)


@pytest.mark.parametrize("distributed", [False, True])
def test_a_checkpoint_of_open_clips_trainer_scores_as_its_weights(
    run, cat, architecture, weights, tmp_path, distributed
):
    file = tmp_path / "epoch_3.pt"
    trained(load_file(weights), file, distributed=distributed)
    expected = scores(run, cat, "--model-config", architecture, "--pretrained", weights)
    assert scores(run, cat, "--model-config", architecture, "--pretrained", file) == expected


def test_a_checkpoint_of_open_clips_trainer_loads_with_a_built_in_architecture(run, cat, tmp_path):
    trained(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "epoch_3.pt", distributed=True)
    found = scores(run, cat, "--model", "ViT-S-32-alt", "--pretrained", tmp_path / "epoch_3.pt")
    assert sum(one["score"] for one in found) == pytest.approx(1, abs=1e-5)


def test_a_file_of_an_architecture_in_use_with_two_activations_asks_for_one(run, tmp_path):
    file = tmp_path / "mine.safetensors"
    file.touch()

    def shown(name: str, *options: str) -> tuple[str, str]:
        result = run("models", "show", name, "--pretrained", file, "--json", *options)
        return result.stderr, json.loads(result.stdout)["activation"]

    warning, activation = shown("ViT-B-32")
    assert "say --quick-gelu" in warning
    assert activation == "GELU"
    assert shown("ViT-B-32", "--quick-gelu") == ("", "QuickGELU")
    assert shown("ViT-B-32", "--no-quick-gelu") == ("", "GELU")
    assert shown("ViT-B-32-quickgelu") == ("", "QuickGELU")
    assert shown("ViT-B-16-SigLIP2") == ("", "GELU")


# Where each value came from


def test_every_value_of_every_published_pair_has_a_source():
    for name, tag in PAIRS:
        spec = resolve(f"{name}:{tag}")
        assert set(spec.sources) == {*DESCRIBED, "licence"}
        quick = spec.config.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu")
        assert (spec.sources["activation"] == "open_clip's table of weights") == bool(quick)


def test_values_of_other_models_have_sources_too(folder, architecture, weights):
    for spec in (
        tiny(),
        resolve("ViT-B-32", str(weights)),
        resolve(f"local-dir:{folder('vit')}"),
        resolve_config(architecture, str(weights), quick_gelu=True),
    ):
        assert set(spec.sources) >= DESCRIBED
        assert ("licence" in spec.sources) == (spec.licence is not None)
        assert all(spec.sources.values())
    assert spec.sources["activation"] == "--quick-gelu"
    assert spec.sources["weights"] == "--pretrained"
    assert spec.sources["context"] == str(architecture)
    assert resolve(f"local-dir:{folder('siglip')}").sources["preprocessing"] == "the folder's open_clip_config.json"
    assert resolve(f"local-dir:{folder('vit')}").sources["preprocessing"] == "open_clip's defaults"


# The commands


def facts(run, *arguments: object) -> dict[str, str]:
    result = run("models", "show", *arguments)
    assert result.exit_code == 0, result.stderr
    pairs = [line.split("  ", 1) for line in result.stdout.splitlines()]
    return {key: value.strip() for key, value in reversed(pairs)}


def test_show_says_plainly_what_may_not_be_used_commercially(run):
    assert facts(run, "MobileCLIP2-S0")["licence"] == "Apple AMLR, research only (not for commercial use)"
    assert "commercial" not in facts(run, "PE-Core-B-16")["licence"]


def test_show_names_what_to_pull(run):
    assert "`clipzs models pull ViT-B/32`" in facts(run, "ViT-B/32")["weights"]
    assert "`clipzs models pull ViT-B-32:openai`" in facts(run, "ViT-B-32", "--pretrained", "openai")["weights"]


def test_show_says_what_is_unknown(run, folder):
    shown = facts(run, f"local-dir:{folder('transformers-tokenizer')}")
    assert (shown["family"], shown["languages"]) == ("unknown", "unknown")
    assert shown["licence"].startswith("unknown")


def test_show_names_the_source_of_every_value(run):
    lines = run("models", "show", "ViT-B-32:openai").stdout.splitlines()
    told = dict(line.removeprefix("from").strip().rsplit(": ", 1) for line in lines if line.startswith("from "))
    assert told["open_clip's table of weights"] == "activation, weights, preprocessing"
    named = [value for values in told.values() for value in values.split(", ")]
    assert sorted(named) == sorted({*DESCRIBED, "licence"})


def test_the_json_of_a_model_says_the_same_for_programs(run, folder):
    place = folder("siglip")
    result = run("models", "show", f"local-dir:{place}", "--json")
    shown = json.loads(result.stdout)
    file = place / "open_clip_model.safetensors"
    assert shown["config"] == models.CONFIGS["siglip"]
    assert shown["weights"] == {"path": str(file), "source": str(file), "sha256": None, "bytes": file.stat().st_size}
    assert shown["preprocessing"]["resize_mode"] == "squash"
    assert (shown["context_length"], shown["scores"]) == (64, ["softmax", "sigmoid", "cosine"])
    assert (shown["licence"], shown["languages"]) == (None, ["en"])
    other = json.loads(run("models", "show", "MobileCLIP2-S0", "--json").stdout)
    assert other["licence"]["commercial"] is False
    assert other["weights"]["path"] is None


def test_show_takes_a_model_config_or_a_name_and_not_both(run, architecture, weights):
    assert facts(run, "--model-config", architecture, "--pretrained", weights)["name"] == f"my-vit:{weights.name}"
    assert facts(run, "tiny")["name"] == "tiny"
    for arguments in ((), ("tiny", "--model-config", architecture)):
        code, error, _ = refusal(run, "models", "show", *arguments)
        assert (code, error) == (2, "name one model")


def listed(run, *arguments: object) -> dict[str, list[str]]:
    result = run("models", "list", *arguments)
    assert result.exit_code == 0, result.stderr
    return {row[0]: row[1:] for row in (line.split("\t") for line in result.stdout.splitlines())}


def test_the_list_can_be_narrowed_to_a_name(run):
    assert list(listed(run, "vit-b/32")) == [f"ViT-B-32:{tag}" for tag in tag_table()["ViT-B-32"]]
    assert set(listed(run, "siglip*512")) == {
        f"{name}:{tag}" for name, tag in PAIRS if "SigLIP" in name and "512" in name
    }
    assert list(listed(run, "fast")) == ["ViT-B-32-256:datacomp_s34b_b86k"]
    assert listed(run, "MobileCLIP2-S0") == {
        "MobileCLIP2-S0:dfndr2b": ["MobileCLIP2", "English", "Apple AMLR, research only (not for commercial use)", "no"]
    }
    code, error, _ = refusal(run, "models", "list", "zzz")
    assert (code, error) == (2, "no published model has 'zzz' in its name")


def test_the_list_says_how_much_of_a_model_is_here(run, tmp_path):
    cached_repository(tmp_path / "hub", "timm/ViT-B-16-SigLIP2-256", {"open_clip_model.safetensors": bytes(7_000_000)})
    assert listed(run, "multilingual") == {
        "ViT-B-16-SigLIP2-256:webli": ["SigLIP2", "about 100 languages or more", "Apache-2.0", "7.0 MB, no tokenizer"]
    }
    for name, size in (("tokenizer.json", 3_000_000), ("tokenizer_config.json", 2), ("README.md", 5_000_000)):
        next((tmp_path / "hub").glob("*/snapshots/*")).joinpath(name).write_bytes(b" " * size)
    assert listed(run, "multilingual")["ViT-B-16-SigLIP2-256:webli"][-1] == "10.0 MB"
    assert listed(run)["multilingual"][4] == "10.0 MB"
    assert facts(run, "multilingual")["size"] == "10.0 MB"


def test_describing_and_listing_load_no_torch():
    code = (
        "import sys; from clipzs.cli import app\n"
        "for arguments in (['models', 'list', '--all'], ['models', 'show', 'xlm-roberta-base-ViT-B-32', '--json']):\n"
        "    try: app(arguments)\n"
        "    except SystemExit: pass\n"
        "print('loaded:', sorted({'torch', 'open_clip', 'torchvision', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_failures_are_of_the_kinds_python_code_can_tell_apart(architecture, weights):
    with pytest.raises(UnknownModel):
        resolve_config(architecture.with_name("gone.json"), str(weights))
    with pytest.raises(UsageProblem):
        resolve_config(architecture, None)
    architecture.write_text("{}")
    with pytest.raises(ModelError):
        resolve_config(architecture, str(weights))
