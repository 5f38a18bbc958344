"""Weights from the local hub cache, and what happens without it and without a network."""

import hashlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

import models
import open_clip
import pytest
import torch
from fakehub import COMMIT, Repositories, Server, answer, lay_out, model_files
from PIL import Image
from safetensors.torch import load_file, save_file

from clipzs import defaults, hub
from clipzs.resolve import resolve, resolve_default
from clipzs.templates import chosen
from clipzs.towers import normalise


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    """What a compiled model from another test keeps would hide what is tried here."""
    monkeypatch.setenv("CLIPZS_ENGINE", "torch")


SEVERAL_SECONDS = 5.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The hub cache that `isolated` has named."""
    return tmp_path / "hub"


def lay_out_words(cache: Path, place: Path) -> None:
    """The repository of the tokenizer that transformers-tokenizer models name, as after a download."""
    lay_out(cache, "someone/words", {path.name: path for path in place.glob("tokenizer*.json")})
    absent = cache / "models--someone--words" / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    for name in ("config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"):
        (absent / name).touch()  # what the hub's client notes of files that transformers asked for in vain


def classify(run, photo: Path, *options: object) -> dict:
    result = run("classify", photo, "--labels", "cat,dog", "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# With everything cached


def test_a_cached_repository_works_offline_and_scores_as_the_same_files_in_a_folder(run, cat, folder, cache):
    lay_out(cache, "someone/small-clip", model_files(folder("vit")))
    ours = classify(run, cat, "--model", "hf-hub:someone/small-clip")
    theirs = classify(run, cat, "--model", f"local-dir:{folder('vit')}")
    assert ours["model"] == "hf-hub:someone/small-clip"
    assert ours["scores"] == theirs["scores"]


def test_a_cached_repository_is_used_without_asking_the_network(run, cat, folder, cache, online, silent_hub):
    online(silent_hub.url)
    lay_out(cache, "someone/small-clip", model_files(folder("vit")))
    assert classify(run, cat, "--model", "hf-hub:someone/small-clip")["error"] is None
    assert silent_hub.knocks == 0


def test_a_cached_tag_works_offline_with_the_activation_it_was_trained_with(run, cat, cache, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(models.random_state("RN50"), weights)
    lay_out(cache, "timm/resnet50_clip.openai", {"open_clip_model.safetensors": weights})
    assert open_clip.get_pretrained_cfg("RN50", "openai")["hf_hub"] == "timm/resnet50_clip.openai/"
    record = classify(run, cat, "--model", "RN50:openai")
    model, _, tokenizer = models.reference("RN50", str(weights), force_quick_gelu=True)
    preprocess = resolve("RN50:openai").preprocess
    templates = [template.replace("<>", "{}") for template in chosen()]
    with torch.no_grad():
        pixels = normalise(torch.from_numpy(preprocess(Image.open(cat)))[None], preprocess)
        image = model.encode_image(pixels, normalize=True)
        texts = open_clip.build_zero_shot_classifier(model, tokenizer, ["cat", "dog"], templates)
        expected = (model.logit_scale.exp() * image @ texts).softmax(dim=-1)[0].tolist()
    assert {one["label"]: one["score"] for one in record["scores"]} == pytest.approx(
        dict(zip(("cat", "dog"), expected, strict=True)), abs=1e-5
    )
    assert resolve("RN50:openai").fingerprint == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_default_is_used_without_a_network_once_it_is_cached(cache, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"stands for 605 MB")
    repo = open_clip.get_pretrained_cfg(*defaults.MODEL.split(":"))["hf_hub"].rstrip("/")
    assert resolve_default()[0].name == "tiny"
    lay_out(cache, repo, {"open_clip_model.safetensors": weights})
    spec, reason = resolve_default()
    assert (spec.name, reason) == (defaults.MODEL, None)
    assert spec.weights.read_bytes() == b"stands for 605 MB"


def test_models_list_says_what_is_cached_and_how_large(run, cache, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"x" * 12_300_000)
    repo = open_clip.get_pretrained_cfg("PE-Core-B-16", "meta")["hf_hub"].rstrip("/")
    lay_out(cache, repo, {"open_clip_model.safetensors": weights})
    here = {line.split("\t")[0]: line.split("\t")[5] for line in run("models", "list").stdout.splitlines()}
    assert here.pop("tiny").endswith(" MB")
    assert here == {"fast": "no", "balanced": "12.3 MB", "best": "no", "multilingual": "no"}


def test_pickled_weights_of_a_cached_repository_are_taken_only_when_allowed(run, cat, folder, cache, tmp_path):
    pickled = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(load_file(folder("vit") / "open_clip_model.safetensors"), pickled)
    config = folder("vit") / "open_clip_config.json"
    lay_out(cache, "someone/pickled", {"open_clip_config.json": config, pickled.name: pickled})
    refused = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/pickled")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--allow-pickle" in refused.stderr
    taken = classify(run, cat, "--model", "hf-hub:someone/pickled", "--allow-pickle")
    assert taken["scores"] == classify(run, cat, "--model", f"local-dir:{folder('vit')}")["scores"]


def test_no_tag_of_any_model_takes_a_pickle_unless_it_is_allowed():
    for name, tag in open_clip.list_pretrained():
        spec = resolve(f"{name}:{tag}")
        (only,) = hub.weights_names(spec.filename, allow_pickle=False)
        assert only.endswith(".safetensors")
        known = open_clip.get_pretrained_cfg(name, tag)["hf_hub"].rpartition("/")[2] or "open_clip_pytorch_model.bin"
        assert hub.weights_names(spec.filename, allow_pickle=True) == (only, known)
        assert only in open_clip.pretrained._get_safe_alternatives(known)


def test_a_cached_tokenizer_is_used_without_asking_the_network(run, cat, folder, cache, online, silent_hub):
    online(silent_hub.url)
    place = folder("transformers-tokenizer")
    lay_out(cache, "someone/small-siglip", model_files(place))
    lay_out_words(cache, place)
    ours = classify(run, cat, "--model", "hf-hub:someone/small-siglip")
    assert ours["scores"] == classify(run, cat, "--model", f"local-dir:{place}")["scores"]
    assert silent_hub.knocks == 0


def test_a_model_that_cannot_be_compiled_for_want_of_its_tokenizer_goes_on_with_torch(
    run, cat, folder, cache, compiled, monkeypatch
):
    place = folder("transformers-tokenizer")
    lay_out(cache, "someone/small-siglip", model_files(place))
    lay_out_words(cache, place)
    first = classify(run, cat, "--model", "hf-hub:someone/small-siglip")
    shutil.rmtree(cache / "models--someone--words")  # the labels are known by now
    monkeypatch.delenv("CLIPZS_ENGINE")
    arguments = ("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/small-siglip", "--no-image-cache")
    second = run(*arguments, "--json", "--verbose")
    assert second.exit_code == 0
    assert json.loads(second.stdout) == first
    assert "stays with torch" in second.stderr
    assert list(compiled.iterdir()) == []


def test_a_tokenizer_that_is_not_cached_is_refused_within_seconds(
    run, cat, folder, cache, compiled, online, silent_hub
):
    online(silent_hub.url)
    lay_out(cache, "someone/small-siglip", model_files(folder("transformers-tokenizer")))
    started = time.monotonic()
    result = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/small-siglip")
    took = time.monotonic() - started
    assert (result.exit_code, result.stdout) == (1, "")
    assert "someone/words" in result.stderr
    assert "there is no network" in result.stderr
    assert took < 2 * SEVERAL_SECONDS  # transformers itself may have to be imported first


# With nothing cached


@pytest.mark.parametrize("model", ["ViT-B-32:openai", "fast", "hf-hub:someone/nothing", "ViTamin-S"])
def test_a_named_model_that_is_not_cached_is_refused_offline_and_never_replaced(run, cat, cache, model):
    result = run("classify", cat, "--labels", "cat,dog", "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert f"is not in {cache} on this machine, and --offline or HF_HUB_OFFLINE is set" in error
    assert "clipzs models pull" in hint
    assert "--model tiny" in hint


@pytest.mark.parametrize("command", [["show", "hf-hub:a/b/c"], ["pull", "hf-hub:"], ["pull", "hf-hub:a b/c?"]], ids=str)
def test_a_name_no_repository_can_have_is_one_line(run, command):
    result = run("models", *command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not a repository name" in result.stderr


def test_without_a_named_model_the_embedded_one_is_used_and_says_so(run, cat):
    result = run("classify", cat, "--labels", "cat,dog", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"] == "tiny"
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("warning: using the small built-in model `tiny`")
    assert f"clipzs models pull {defaults.MODEL}" in warning


@pytest.fixture
def silent_hub(serve) -> Server:
    """A hub that takes every request and never answers."""
    return serve(lambda request: time.sleep(30))


@pytest.fixture
def dead_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize("model", ["ViT-B-32:openai", "hf-hub:someone/nothing"])
@pytest.mark.parametrize("where", ["no name server", "nobody there", "never an answer"])
def test_without_a_network_a_named_model_is_refused_within_seconds(
    run, cat, online, silent_hub, dead_port, where, model
):
    url = {"no name server": "http://hub.invalid", "nobody there": dead_port, "never an answer": silent_hub.url}[where]
    online(url)
    started = time.monotonic()
    result = run("classify", cat, "--labels", "cat,dog", "--model", model)
    took = time.monotonic() - started
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no network" in result.stderr
    assert "clipzs models pull" in result.stderr
    assert took < SEVERAL_SECONDS


def test_a_proxy_that_does_not_work_is_named_without_its_password(process, cat, dead_port):
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment["HF_ENDPOINT"] = "http://hub.invalid"
    environment["http_proxy"] = dead_port.replace("http://", "http://user:secret@")
    done = process("classify", cat, "--labels", "cat,dog", "--model", "fast", env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    address = dead_port.removeprefix("http://")
    assert f"hub.invalid cannot be reached by way of the proxy {address}" in done.stderr
    assert "secret" not in done.stderr


def test_weights_are_named_when_only_the_config_of_a_repository_is_cached(run, cat, folder, cache):
    lay_out(cache, "someone/small-clip", {"open_clip_config.json": folder("vit") / "open_clip_config.json"})
    result = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/small-clip")
    assert (result.exit_code, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: someone/small-clip (open_clip_model.safetensors) is not in {cache}")
    assert "clipzs models pull" in hint


def test_a_whole_process_gives_up_within_seconds_of_starting(process, cat, silent_hub):
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment["HF_ENDPOINT"] = silent_hub.url
    started = time.monotonic()
    done = process("classify", cat, "--labels", "cat,dog", "--model", "fast", env=environment)
    took = time.monotonic() - started
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(r"error: .* and there is no network\nhint: ", done.stderr)
    assert took < 2 * SEVERAL_SECONDS  # loading Python's own modules may be slow on a busy machine


# With a network


def _repository(repo: str, files: dict[str, bytes]) -> Repositories:
    hub = Repositories()
    hub.put(repo, files)
    return hub


def test_weights_are_downloaded_once_and_then_found(run, cat, folder, cache, online, serve):
    server = serve(_repository("someone/small-clip", model_files(folder("vit"))))
    online(server.url)
    first = classify(run, cat, "--model", "hf-hub:someone/small-clip")
    assert first["scores"] == classify(run, cat, "--model", f"local-dir:{folder('vit')}")["scores"]
    knocks = server.knocks
    assert classify(run, cat, "--model", "hf-hub:someone/small-clip") == first
    assert server.knocks == knocks
    assert (cache / "models--someone--small-clip").is_dir()


def test_a_repository_without_safetensors_needs_pickles_allowed(run, cat, folder, tmp_path, online, serve):
    pickled = tmp_path / "model.bin"
    torch.save(load_file(folder("vit") / "open_clip_model.safetensors"), pickled)
    config = (folder("vit") / "open_clip_config.json").read_bytes()
    files = {"open_clip_config.json": config, "open_clip_pytorch_model.bin": pickled.read_bytes()}
    online(serve(_repository("someone/pickled", files)).url)
    refused = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/pickled")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no weights as safetensors" in refused.stderr
    taken = classify(run, cat, "--model", "hf-hub:someone/pickled", "--allow-pickle")
    assert taken["scores"] == classify(run, cat, "--model", f"local-dir:{folder('vit')}")["scores"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "no repository someone/nothing (or it is private)"),
        (401, "RepoNotFound", "no repository someone/nothing (or it is private)"),
        (403, "GatedRepo", "someone/nothing asks you to accept its terms first"),
        (404, "EntryNotFound", "someone/nothing has no file open_clip_config.json"),
        (403, "", "the download failed"),
    ],
)
def test_what_the_hub_refuses_is_one_line(run, cat, online, serve, status, code, said):
    headers = {"X_Error_Code": code, "X_Repo_Commit": COMMIT} if code else {}
    online(serve(lambda request: answer(request, status, **headers)).url)
    result = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_with_a_network_and_no_cache_the_default_is_fetched(online, serve, cache):
    repo = open_clip.get_pretrained_cfg(*defaults.MODEL.split(":"))["hf_hub"].rstrip("/")
    online(serve(_repository(repo, {"open_clip_model.safetensors": b"stands for 605 MB"})).url)
    spec, reason = resolve_default()
    assert (spec.name, reason) == (defaults.MODEL, None)
    assert spec.weights.read_bytes() == b"stands for 605 MB"
