"""Weights from the local hub cache, and what happens without it and without a network."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import models
import open_clip
import pytest
import torch
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


COMMIT = "0123456789abcdef0123456789abcdef01234567"
SEVERAL_SECONDS = 5.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The hub cache that `isolated` has named."""
    return tmp_path / "hub"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the hub's client use a network whose hub is at the given address."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def at(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", url)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return at


def lay_out(cache: Path, repo: str, files: dict[str, Path]) -> None:
    """Files as the hub's client leaves them: content by hash, names as links to it."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for part in (snapshot, place / "blobs", place / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    for name, source in files.items():
        blob = place / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copy(source, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))


def hub_model(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("open_clip_config.json", "open_clip_model.safetensors")}


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
    lay_out(cache, "someone/small-clip", hub_model(folder("vit")))
    ours = classify(run, cat, "--model", "hf-hub:someone/small-clip")
    theirs = classify(run, cat, "--model", f"local-dir:{folder('vit')}")
    assert ours["model"] == "hf-hub:someone/small-clip"
    assert ours["scores"] == theirs["scores"]


def test_a_cached_repository_is_used_without_asking_the_network(run, cat, folder, cache, online, silent_hub):
    online(silent_hub.url)
    lay_out(cache, "someone/small-clip", hub_model(folder("vit")))
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


def test_models_list_says_what_is_cached(run, cache, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"x")
    repo = open_clip.get_pretrained_cfg("PE-Core-B-16", "meta")["hf_hub"].rstrip("/")
    lay_out(cache, repo, {"open_clip_model.safetensors": weights})
    here = {line.split("\t")[0]: line.split("\t")[5] for line in run("models", "list").stdout.splitlines()}
    assert here == {"tiny": "yes", "fast": "no", "balanced": "yes", "best": "no", "multilingual": "no"}
    pulled = run("models", "pull", "balanced")
    assert pulled.exit_code == 0
    assert Path(pulled.stdout.strip()).read_bytes() == b"x"
    assert "licence Apache-2.0" in pulled.stderr


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
    lay_out(cache, "someone/small-siglip", hub_model(place))
    lay_out_words(cache, place)
    ours = classify(run, cat, "--model", "hf-hub:someone/small-siglip")
    assert ours["scores"] == classify(run, cat, "--model", f"local-dir:{place}")["scores"]
    assert silent_hub.knocks == 0


def test_a_model_that_cannot_be_compiled_for_want_of_its_tokenizer_goes_on_with_torch(
    run, cat, folder, cache, compiled, monkeypatch
):
    place = folder("transformers-tokenizer")
    lay_out(cache, "someone/small-siglip", hub_model(place))
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
    lay_out(cache, "someone/small-siglip", hub_model(folder("transformers-tokenizer")))
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
    assert f"is not in {cache} on this machine, and HF_HUB_OFFLINE is set" in error
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    knocks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], _Server]]:
    """Start a hub that does with each request what it is told."""
    running = []

    def start(reply: Callable[[BaseHTTPRequestHandler], None]) -> _Server:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.server.knocks += "/someone/" in self.path  # the client also asks for things of its own
                reply(self)

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None:
                pass

        server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent_hub(serve) -> _Server:
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


def _answer(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        with contextlib.suppress(OSError):
            request.wfile.write(body)


def _repository(files: dict[str, bytes]) -> Callable[[BaseHTTPRequestHandler], None]:
    def reply(request: BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        if "/resolve/" not in request.path or name not in files:
            _answer(request, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            return
        etag = hashlib.sha256(files[name]).hexdigest()
        _answer(request, 200, files[name], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    return reply


def test_weights_are_downloaded_once_and_then_found(run, cat, folder, cache, online, serve):
    server = serve(_repository({name: path.read_bytes() for name, path in hub_model(folder("vit")).items()}))
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
    online(serve(_repository(files)).url)
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
    online(serve(lambda request: _answer(request, status, **headers)).url)
    result = run("classify", cat, "--labels", "cat,dog", "--model", "hf-hub:someone/nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_with_a_network_and_no_cache_the_default_is_fetched(online, serve, cache):
    server = serve(_repository({"open_clip_model.safetensors": b"stands for 605 MB"}))
    online(server.url)
    spec, reason = resolve_default()
    assert (spec.name, reason) == (defaults.MODEL, None)
    assert spec.weights.read_bytes() == b"stands for 605 MB"
