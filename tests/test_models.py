"""What may be written after --model, and what is said when it cannot be used. Names are compared with open_clip's."""

import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import models
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipzs import catalogue, defaults
from clipzs.errors import ClipzsError, ModelError, UnknownModel, UsageProblem
from clipzs.registry import model_names
from clipzs.resolve import ModelSpec, resolve, tiny
from clipzs.towers import OpenClipEncoder


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    """What a compiled model from another test keeps would hide what is tried here."""
    monkeypatch.setenv("CLIPZS_ENGINE", "torch")


@pytest.fixture
def model_copy(folder, tmp_path) -> Path:
    """A model folder of one's own, to be damaged."""
    return Path(shutil.copytree(folder("vit"), tmp_path / "vit"))


def refusal(run, photo: Path, *options: object) -> tuple[int, str, str]:
    """Exit code, error line and hint of a `classify` that cannot work; nothing else may have been printed."""
    result = run("classify", photo, "--labels", "cat,dog", *options)
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] in (["error"], ["error", "hint"]), result.stderr
    assert all(len(line) < 600 for line in lines)
    return result.exit_code, lines[0].removeprefix("error: "), lines[-1].removeprefix("hint: ")


# Names and tags


def test_the_names_and_tags_are_open_clips_own(run):
    assert sorted(model_names()) == sorted(open_clip.list_models())
    listed = [line.split("\t")[0] for line in run("models", "list", "--all").stdout.splitlines()]
    ours = [name for name in listed if not name.startswith("cn-clip:")]
    assert ours == [f"{name}:{tag}" for name, tag in open_clip.list_pretrained()]
    assert len(listed) - len(ours) == 5


def test_every_pretrained_pair_resolves_to_open_clips_config_and_preprocessing():
    for name, tag in open_clip.list_pretrained():
        spec, facts = resolve(f"{name}:{tag}"), open_clip.get_pretrained_cfg(name, tag)
        theirs = open_clip.get_model_config(name)
        assert {**spec.config, "quick_gelu": None} == {**theirs, "quick_gelu": None}
        expected = open_clip.transform.merge_preprocess_dict(vars(open_clip.transform.PreprocessCfg()), facts)
        size = theirs["vision_cfg"].get("image_size", 224)
        assert spec.preprocess.size == ((size, size) if isinstance(size, int) else tuple(size))
        for key in ("mean", "std", "interpolation", "resize_mode"):
            theirs_now = expected[key]
            assert getattr(spec.preprocess, key) == (tuple(theirs_now) if isinstance(theirs_now, list) else theirs_now)
        assert spec.sigmoid == (theirs.get("init_logit_bias") is not None)


def test_a_weights_file_inherits_the_preprocessing_of_its_architectures_tags(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.touch()
    for name in ("ViT-B-16-SigLIP2-256", "PE-Core-B-16", "ViT-B-32", "MobileCLIP2-S0"):
        tag = open_clip.list_pretrained_tags_by_model(name)[0]
        assert resolve(name, str(file)).preprocess == resolve(f"{name}:{tag}").preprocess
    assert resolve("ViT-B-16-SigLIP2-256", str(file)).preprocess.resize_mode == "squash"


@pytest.mark.parametrize(
    "written", ["ViT-B-32:openai", "ViT-B/32:openai", "ViT-B-32:OpenAI", "ViT-B/32:laion2b-s34b-b79k"]
)
def test_names_may_have_a_slash_and_tags_any_case(written):
    name, tag = written.split(":")
    assert resolve(written).name == f"ViT-B-32:{tag.lower().replace('-', '_')}"
    assert resolve(name, tag) == resolve(written)


@pytest.mark.parametrize("preset", catalogue.PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_a_pair_open_clip_has_or_the_built_in_model(preset):
    spec = resolve(preset.name)
    if preset.name == catalogue.TINY:
        assert spec == tiny()
    else:
        assert tuple(preset.model.split(":")) in open_clip.list_pretrained()
        assert spec.name == preset.model


def test_the_only_tag_of_a_model_need_not_be_written():
    assert resolve("MobileCLIP2-S0").name == "MobileCLIP2-S0:dfndr2b"


def test_the_tag_of_a_preset_need_not_be_written():
    assert resolve("ViT-B-32-256").name == defaults.MODEL


@pytest.mark.parametrize(
    ("options", "said", "hinted"),
    [
        (["--model", "ViT-B-23:openai"], "did you mean ViT-B-32:openai", "models list"),
        (["--model", "balance"], "did you mean balanced", "models list"),
        (["--model", "zzzzzzzzz"], "unknown model 'zzzzzzzzz'", "models list"),
        (["--model", ""], "unknown model ''", "models list"),
        (["--model", "../../etc/passwd"], "unknown model", "models list"),
        (["--model", "ViT-B-32"], "22 sets of weights; name one, such as ViT-B-32:", "models list ViT-B-32"),
        (["--model", "ViT-B-32:opena"], "no weights 'opena'; did you mean ViT-B-32:openai", "models list ViT-B-32"),
        (["--model", "ViT-B-32:webli"], "did you mean ViT-B-32-SigLIP2-256:webli", "models list ViT-B-32"),
        (["--model", "ViT-B-32:" + "x" * 300], "no weights 'xxx", "models list ViT-B-32"),
        (["--model", "ViT-S-32-alt"], "no published weights", "--pretrained FILE"),
        (
            ["--model", "ViT-B-32", "--pretrained", "no/such.pt"],
            "no such weights file: no/such.pt",
            "a tag of ViT-B-32",
        ),
        (["--model", "ViT-B-32", "--pretrained", "gone.pt"], "no such weights file: gone.pt", "a tag of ViT-B-32"),
        (["--model", "ViT-B-32:openai", "--pretrained", "laion400m_e32"], "two sets of weights", "name one"),
        (["--model", "tiny", "--pretrained", "openai"], "--pretrained does not go with the built-in", "architecture"),
        (["--model", "hf-hub:a/b", "--pretrained", "openai"], "--pretrained does not go with hf-hub:", "name one"),
        (["--pretrained", "openai"], "--pretrained needs the architecture", "--model"),
        (["--model", "local-dir:no/such"], "no such folder: no/such", "open_clip_config.json"),
        (["--model", "local-dir:"], "no such folder", "open_clip_config.json"),
        (["--model", "tiny", "--device", "nonsense"], "unknown device 'nonsense'", "auto, cpu, cuda"),
        (["--model", "tiny", "--device", "cpu:1"], "unknown device 'cpu:1'", "auto, cpu, cuda"),
        (["--model", "tiny", "--device", "cuda:"], "unknown device 'cuda:'", "auto, cpu, cuda"),
        (["--model", "tiny", "--device", "cuda:99"], "device cuda:99 is not available", "--device cpu"),
        (["--model", "tiny", "--device", "cpu", "--precision", "fp16"], "fp16 needs a GPU", "bf16"),
        (["--model", "tiny", "--precision", "fp8"], "fp8", "--help"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_served_is_one_line_and_a_hint(run, cat, options, said, hinted):
    code, line, hint = refusal(run, cat, *options)
    assert code == 2
    assert said in line
    assert hinted in hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused(run, cat):
    code, line, hint = refusal(run, cat, "--model", "tiny", "--device", "cuda")
    assert (code, line) == (2, "device cuda is not available: torch sees no GPUs")
    assert "--device cpu" in hint


# Folders


def test_a_folder_of_several_weights_uses_the_file_open_clip_would(model_copy):
    weights = model_copy / "open_clip_model.safetensors"
    for name in ("a.safetensors", "model.safetensors", "pytorch_model.bin"):
        shutil.copy(weights, model_copy / name)
        theirs = open_clip.factory._find_checkpoint_in_dir(model_copy)
        assert str(resolve(f"local-dir:{model_copy}").weights) == theirs
    weights.unlink()
    assert resolve(f"local-dir:{model_copy}").weights.name == "model.safetensors"
    assert open_clip.factory._find_checkpoint_in_dir(model_copy).endswith("/model.safetensors")


def test_pickled_weights_in_a_folder_are_taken_only_when_allowed(run, cat, model_copy):
    weights = model_copy / "open_clip_model.safetensors"
    torch.save(load_file(weights), model_copy / "open_clip_pytorch_model.bin")
    weights.unlink()
    code, line, hint = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert code == 1
    assert "no weights as safetensors" in line
    assert "--allow-pickle takes open_clip_pytorch_model.bin" in hint
    result = run("classify", cat, "--labels", "cat,dog", "--model", f"local-dir:{model_copy}", "--allow-pickle")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no open_clip_config.json"),
        ("{", "is not valid JSON"),
        ("[]", "lacks model_cfg"),
        ('{"model_cfg": {"embed_dim": 3}}', "lacks model_cfg"),
        ('{"model_cfg": {"embed_dim": 32, "vision_cfg": [], "text_cfg": {}}}', "makes no sense"),
        ('{"model_cfg": {"embed_dim": null, "vision_cfg": {}, "text_cfg": {}}}', "makes no sense"),
        ('{"model_cfg": {"embed_dim": 32, "vision_cfg": {"image_size": "big"}, "text_cfg": {}}}', "makes no sense"),
        ('{"model_cfg": {"embed_dim": 32, "vision_cfg": {"image_size": [1]}, "text_cfg": {}}}', "makes no sense"),
        ('{"preprocess_cfg": {"mean": [1]}, "model_cfg": {"embed_dim": 3, "vision_cfg": {}, "text_cfg": {}}}', "sense"),
        (
            '{"preprocess_cfg": {"interpolation": "cubic"}, "model_cfg": {"embed_dim": 3, "vision_cfg": {}, '
            '"text_cfg": {}}}',
            "unknown preprocessing: cubic",
        ),
    ],
)
def test_a_folder_whose_config_is_no_use_is_refused(run, cat, model_copy, content, said):
    config = model_copy / "open_clip_config.json"
    config.unlink()
    if content is not None:
        config.write_text(content)
    code, line, _ = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert code == 1
    assert said in line


def test_preprocessing_given_as_single_numbers_means_every_channel(model_copy):
    models.write_config(model_copy, models.CONFIGS["vit"], {"mean": 0.5, "std": 0.25, "interpolation": "random"})
    ours = resolve(f"local-dir:{model_copy}").preprocess
    theirs = open_clip.create_model(f"local-dir:{model_copy}").visual.preprocess_cfg
    assert (ours.mean, ours.std, ours.interpolation) == ((0.5,) * 3, (0.25,) * 3, "bicubic")
    assert (theirs["mean"], theirs["std"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg": {"timm_model_name": "no_such_model"}},
        {"vision_cfg": {"no_such_option": 1}},
        {"text_cfg": {"heads": 5}},
        {"text_cfg": {"tokenizer_kwargs": {"no_such_option": 1}}},
        {"text_cfg": {"tokenizer_kwargs": {"clean": "no_such_way"}}},
    ],
    ids=str,
)
def test_an_architecture_that_cannot_be_built_is_one_line(run, cat, model_copy, changes):
    models.write_config(model_copy, models.altered(models.CONFIGS["vit"], **changes))
    code, _, _ = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert code == 1


# Weights


class _Code:
    def __reduce__(self):
        return os.system, ("touch clipzs-was-here",)


def _torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


DAMAGED = {
    "an empty pickle": (lambda path: path.write_bytes(b""), "damaged, or not a checkpoint"),
    "text": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "damaged, or not a checkpoint",
    ),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "damaged, or not a checkpoint"),
    "code": (lambda path: torch.save({"logit_scale": _Code()}, path), "holds code or other objects"),
    "old-style code": (lambda path: path.write_bytes(pickle.dumps({"a": _Code()}, protocol=2)), "holds code or other"),
    "a whole model": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "holds code or other objects"),
    "TorchScript": (_torchscript, "TorchScript archive"),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), "not of weights by name"),
    "numbers": (lambda path: torch.save({"epoch": 3}, path), "not of weights by name"),
    "no tensors": (lambda path: torch.save({}, path), "do not fit ViT-S-32-alt"),
    "other tensors": (lambda path: torch.save({"a": torch.zeros(2)}, path), "do not fit ViT-S-32-alt"),
    "a zip of something else": (lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"), "damaged, or not a"),
}


@pytest.mark.filterwarnings("ignore")  # torch.jit says that it is deprecated
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_pickle_that_cannot_be_used_is_one_line_and_never_run(run, cat, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pt"
    make, said = DAMAGED[kind]
    make(file)
    code, line, hint = refusal(run, cat, "--model", "ViT-S-32-alt", "--pretrained", file)
    assert code == 1
    assert said in line
    assert str(file) in line
    assert "weights_only" not in line + hint  # torch's advice to switch the safety off is not passed on
    assert not Path("clipzs-was-here").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.3, 0.99], ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_truncated_weights_are_one_line(run, cat, model_copy, suffix, keep):
    weights = model_copy / "open_clip_model.safetensors"
    if suffix == ".bin":
        torch.save(load_file(weights), model_copy / "weights.bin")
        weights.unlink()
        weights = model_copy / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    code, line, _ = refusal(run, cat, "--model", f"local-dir:{model_copy}", "--allow-pickle")
    assert code == 1
    assert "damaged, or not a checkpoint" in line


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"a": torch.zeros(2)},
        lambda state: {key: value for key, value in state.items() if "visual" not in key},
        lambda state: {key: value for key, value in state.items() if "token_embedding" not in key},
        lambda state: {key: value for key, value in state.items() if key != "logit_scale"},
        lambda state: {**state, "logit_scale": torch.zeros(3)},
        lambda state: {**state, "logit_scale": torch.tensor(1000.0)},
        lambda state: {**state, "visual.proj": torch.zeros(3, 3)},
        lambda state: {**state, "visual.extra": torch.zeros(3)},
    ],
    ids=[
        "other tensors",
        "no image tower",
        "half a text tower",
        "no scale",
        "many scales",
        "huge scale",
        "wrong shape",
        "more",
    ],
)
def test_weights_of_another_architecture_are_one_line(run, cat, model_copy, change):
    weights = model_copy / "open_clip_model.safetensors"
    save_file(change(load_file(weights)), weights)
    code, line, _ = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert code == 1
    assert str(weights) in line


def test_a_tokenizer_whose_package_is_missing_is_one_line(run, cat, folder, monkeypatch):
    place = folder("transformers-tokenizer")
    monkeypatch.setitem(sys.modules, "transformers", None)  # as Python marks a package that cannot be imported
    code, line, hint = refusal(run, cat, "--model", f"local-dir:{place}")
    assert (code, line) == (1, f"local-dir:{place} needs the transformers package")
    assert hint == "pip install 'clipzs[multilingual]'"


def test_weights_for_another_built_in_architecture_are_one_line(run, cat, folder):
    file = folder("vit") / "open_clip_model.safetensors"
    code, line, hint = refusal(run, cat, "--model", "RN50", "--pretrained", file, "--no-quick-gelu")
    assert (code, "do not fit RN50:" in line) == (1, True)
    assert "models show" in hint


def test_weights_that_are_not_finite_are_one_line(run, cat, model_copy):
    weights = model_copy / "open_clip_model.safetensors"
    state = load_file(weights)
    state["visual.proj"].fill_(float("nan"))
    save_file(state, weights)
    code, line, _ = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert (code, "not finite" in line) == (1, True)


def test_a_folder_as_weights_file_is_one_line(run, cat, tmp_path):
    code, line, _ = refusal(run, cat, "--model", "ViT-S-32-alt", "--pretrained", tmp_path)
    assert (code, "no such weights file" in line) == (2, True)


def test_a_tokenizer_that_is_neither_cached_nor_downloadable_is_one_line(run, cat, model_copy):
    config = models.altered(models.CONFIGS["vit"], text_cfg={"hf_tokenizer_name": "nobody/nothing"})
    models.write_config(model_copy, config)
    code, line, hint = refusal(run, cat, "--model", f"local-dir:{model_copy}")
    assert code == 1
    assert "tokenizer" in line or "transformers" in line
    assert "models pull" in hint or "pip install" in hint


def test_refusals_keep_their_cause_for_those_who_call_from_python(model_copy):
    (model_copy / "open_clip_model.safetensors").write_bytes(b"")
    encoder = OpenClipEncoder(resolve(f"local-dir:{model_copy}"))
    with pytest.raises(ModelError, match="damaged") as caught:
        _ = encoder.logit_scale
    assert caught.value.__cause__ is not None
    with pytest.raises(UnknownModel):
        resolve("nonsense")
    with pytest.raises(UsageProblem):
        resolve("ViT-B-32:openai", "laion400m_e32")
    assert issubclass(ModelError, ClipzsError)


def test_a_message_of_a_wrong_shape_of_weights_is_cut_to_a_line(model_copy):
    spec = resolve(f"local-dir:{model_copy}")
    save_file({"visual.proj": torch.zeros(1)}, model_copy / "open_clip_model.safetensors")
    with pytest.raises(ModelError) as caught:
        OpenClipEncoder(spec).encode_images(torch.zeros(1, 3, 64, 64).numpy())
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


# What tells models apart


def test_a_models_digest_depends_on_weights_config_and_preprocessing(folder, model_copy):
    def digest() -> str:
        return resolve(f"local-dir:{model_copy}").digest

    seen = {resolve(f"local-dir:{folder('vit')}").digest}
    assert digest() in seen  # the same model elsewhere
    models.write_config(model_copy, {**models.CONFIGS["vit"], "quick_gelu": True})
    seen.add(digest())
    models.write_config(model_copy, models.CONFIGS["vit"], models.SQUASHED)
    seen.add(digest())
    weights = model_copy / "open_clip_model.safetensors"
    save_file({**load_file(weights), "logit_scale": torch.tensor(1.0)}, weights)
    seen.add(digest())
    assert len(seen) == 4


def test_the_embedded_model_is_whatever_lies_in_its_folder():
    spec = tiny()
    assert isinstance(spec, ModelSpec)
    assert spec.weights.is_file()
    assert spec.config == json.loads(spec.weights.with_suffix(".json").read_text())
    assert spec.preprocess.size == (spec.config["vision_cfg"]["image_size"],) * 2


# The commands


def test_the_list_is_tab_separated_in_a_pipe_with_what_one_needs_to_choose(run):
    result = run("models", "list")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [row[0] for row in rows] == [preset.name for preset in catalogue.PRESETS]
    assert {len(row) for row in rows} == {7}
    fast = dict(zip(("preset", "model", "accuracy", "download", "licence", "here"), rows[1], strict=False))
    assert fast == {
        "preset": "fast",
        "model": "ViT-B-32-256:datacomp_s34b_b86k",
        "accuracy": "72.8 %",
        "download": "605 MB",
        "licence": "MIT",
        "here": "no",
    }
    assert rows[0][3:6] == ["built in", "CC BY-NC 4.0", f"{tiny().weights.stat().st_size / 1e6:.1f} MB"]


def test_show_tells_what_determines_a_models_numbers(run, folder):
    shown = run("models", "show", "multilingual")
    assert shown.exit_code == 0, shown.stderr
    facts = dict(line.split("  ", 1) for line in shown.stdout.splitlines())
    facts = {key: value.strip() for key, value in facts.items()}
    assert facts["image size"] == "256×256 pixels"
    assert facts["preprocessing"].startswith("squash, ")
    assert facts["context"] == "64 tokens"
    assert facts["scores"] == "softmax, sigmoid, cosine"
    assert facts["tokenizer"] == "timm/ViT-B-16-SigLIP2-256"
    assert facts["weights"] == "not on this machine; `clipzs models pull multilingual` fetches them"
    assert "QuickGELU" in run("models", "show", "ViT-B-32:openai").stdout
    assert str(folder("vit")) in run("models", "show", f"local-dir:{folder('vit')}").stdout


@pytest.mark.parametrize("command", ["show", "pull"])
def test_show_and_pull_of_an_unknown_model_are_refused(run, command):
    result = run("models", command, "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown model 'nonsense'")


def test_pull_prints_where_the_weights_are(run, folder):
    result = run("models", "pull", f"local-dir:{folder('vit')}")
    assert (result.exit_code, result.stdout) == (0, f"{folder('vit') / 'open_clip_model.safetensors'}\n")
    assert run("models", "pull", "tiny").stdout == f"{tiny().weights}\n"


def test_another_tokenizer_in_the_folder_is_another_model(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder("transformers-tokenizer"), copy)
    before = resolve(f"local-dir:{copy}").digest
    text = (copy / "tokenizer.json").read_text(encoding="utf-8")
    (copy / "tokenizer.json").write_text(text.replace('"rocket"', '"racket"'), encoding="utf-8")
    assert resolve(f"local-dir:{copy}").digest != before


EVIL = "open({!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast, PretrainedConfig\n" \
    "class Evil(PreTrainedTokenizerFast): pass\nclass EvilConfig(PretrainedConfig): pass\n"  # fmt: skip


@pytest.mark.parametrize("kwargs", [{}, {"tokenizer_kwargs": {"trust_remote_code": True}}], ids=["plain", "asked for"])
def test_code_that_comes_with_a_tokenizer_is_neither_run_nor_offered(run, cat, folder, tmp_path, kwargs):
    model = tmp_path / "model"
    shutil.copytree(folder("transformers-tokenizer"), model)
    config = models.altered(models.CONFIGS["transformers-tokenizer"], text_cfg=kwargs)
    models.write_config(model, config)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "evil.py").write_text(EVIL.format(str(tmp_path / "run")))
    done = run("classify", cat, "--labels", "cat,dog", "--model", f"local-dir:{model}", input="y\n" * 9)
    assert not (tmp_path / "run").exists()
    assert "custom code" not in done.stdout
    assert done.exit_code == 1, done.stderr
    assert done.stderr.startswith("error: the tokenizer ")
    assert "which clipzs does not run" in done.stderr


def test_code_that_comes_with_a_text_tower_is_neither_run_nor_offered(run, cat, folder, tmp_path):
    model, tower = tmp_path / "model", tmp_path / "tower"
    shutil.copytree(folder("vit"), model)
    tower.mkdir()
    auto_map = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil"}
    (tower / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    (tower / "evil.py").write_text(EVIL.format(str(tmp_path / "run")))
    models.write_config(model, models.altered(models.CONFIGS["vit"], text_cfg={"hf_model_name": str(tower)}))
    done = run("classify", cat, "--labels", "cat,dog", "--model", f"local-dir:{model}", input="y\n" * 9)
    assert not (tmp_path / "run").exists()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "which clipzs does not run" in done.stderr
