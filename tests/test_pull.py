"""`clipzs models pull` and --offline, against a hub on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import models
import pytest
import standins
import torch
from fakehub import Repositories, Server, etag, model_files
from safetensors.torch import load_file, save_file

from clipzs import defaults

WEIGHTS = "open_clip_model.safetensors"
SMALL = "hf-hub:someone/small-clip"


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    """What a compiled model from another test keeps would hide what is tried here."""
    monkeypatch.setenv("CLIPZS_ENGINE", "torch")


@pytest.fixture
def hub() -> Repositories:
    """What the hub has: nothing yet."""
    return Repositories()


@pytest.fixture
def server(hub, serve, online) -> Server:
    """The hub, which the client of this process is told of."""
    server = serve(hub)
    online(server.url)
    return server


@pytest.fixture
def offline(monkeypatch) -> Callable[[], None]:
    """Make every name look-up and every connection of this process an error of the test."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the network was touched: {arguments}")

    def cut() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(socket.socket, "connect", refuse)

    return cut


def blob(tmp_path: Path, repo: str, content: bytes, name: str = WEIGHTS) -> Path:
    return tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "blobs" / etag(name, content)


def scores(run, photo: Path, *options: object) -> list[dict]:
    result = run("classify", photo, "--labels", "cat,dog", "--json", "--no-cache", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["scores"]


# What is fetched, and that it is enough


def test_a_pulled_model_works_without_a_network(run, cat, folder, hub, server, offline):
    hub.put("someone/small-clip", model_files(folder("vit")))
    pulled = run("models", "pull", SMALL)
    assert pulled.exit_code == 0, pulled.stderr
    (path,) = pulled.stdout.splitlines()
    assert Path(path).read_bytes() == (folder("vit") / WEIGHTS).read_bytes()
    offline()
    asked = len(server.requests)
    found = scores(run, cat, "--model", SMALL, "--offline")
    assert found == scores(run, cat, "--model", f"local-dir:{folder('vit')}")
    assert len(server.requests) == asked


def test_the_tokenizer_of_another_repository_is_pulled_with_the_weights(run, cat, folder, hub, server, offline):
    place = folder("transformers-tokenizer")
    hub.put("someone/small-siglip", model_files(place))
    hub.put("someone/words", {path.name: path for path in place.glob("tokenizer*.json")})
    assert run("models", "pull", "hf-hub:someone/small-siglip").exit_code == 0
    offline()
    found = scores(run, cat, "--model", "hf-hub:someone/small-siglip", "--offline")
    assert found == scores(run, cat, "--model", f"local-dir:{place}")


def test_files_fetched_at_different_times_are_of_one_version(run, cat, folder, hub, server, offline):
    """Otherwise the older ones would be out of sight as soon as a newer one has come."""
    hub.put("someone/small-clip", model_files(folder("vit")))
    assert run("models", "show", SMALL).exit_code == 0  # which fetches the config
    hub.commits.append("f" * 40)
    assert run("models", "pull", SMALL).exit_code == 0
    offline()
    assert scores(run, cat, "--model", SMALL, "--offline")


def test_a_version_the_hub_has_forgotten_is_replaced_by_the_newest(run, cat, folder, hub, server, offline):
    hub.put("someone/small-clip", model_files(folder("vit")))
    assert run("models", "show", SMALL).exit_code == 0
    hub.commits[:] = ["f" * 40]
    pulled = run("models", "pull", SMALL)
    assert pulled.exit_code == 0, pulled.stderr
    offline()
    assert scores(run, cat, "--model", SMALL, "--offline")


@pytest.fixture
def multilingual(tmp_path, hub) -> str:
    """A model with an XLM-R as text tower: weights, tokenizer and the tower's config in repositories of their own."""
    import transformers

    place = tmp_path / "xlm"
    tokenizer = standins.FAST["xlm-roberta"]()
    tokenizer.save_pretrained(place / "words")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tower = transformers.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)
    tower.save_pretrained(place / "tower")
    config = {
        "embed_dim": 32,
        "vision_cfg": models.VIT,
        "text_cfg": {
            "context_length": 32,
            "hf_tokenizer_name": "someone/words",
            "hf_model_name": "someone/tower",
            "hf_pooler_type": "mean_pooler",
        },
    }
    local = models.altered(config, text_cfg={"hf_model_name": str(place / "tower")})
    models.write_config(place, local)
    save_file(models.random_state(f"local-dir:{place}"), place / WEIGHTS)
    models.write_config(place, config)
    hub.put("someone/xlm", model_files(place))
    hub.put("someone/words", {path.name: path for path in (place / "words").iterdir()})
    hub.put("someone/tower", {"config.json": place / "tower" / "config.json"})
    models.write_config(place, models.altered(local, text_cfg={"hf_tokenizer_name": str(place / "words")}))
    (place / "tokenizer.json").write_bytes((place / "words" / "tokenizer.json").read_bytes())
    (place / "tokenizer_config.json").write_bytes((place / "words" / "tokenizer_config.json").read_bytes())
    return str(place)


def test_the_config_of_a_text_tower_in_another_repository_is_pulled_too(run, cat, multilingual, server, offline):
    pulled = run("models", "pull", "hf-hub:someone/xlm")
    assert pulled.exit_code == 0, pulled.stderr
    offline()
    found = scores(run, cat, "--model", "hf-hub:someone/xlm", "--offline")
    assert found == scores(run, cat, "--model", f"local-dir:{multilingual}")


def test_what_was_pulled_serves_whole_processes_without_a_network(
    run, process, cat, multilingual, server, tmp_path, dead_proxy
):
    assert run("models", "pull", "hf-hub:someone/xlm").exit_code == 0
    asked = len(server.requests)
    arguments = ("classify", cat, "--labels", "cat,dog", "--json", "--model", "hf-hub:someone/xlm")
    for how in ({"HF_HUB_OFFLINE": "1"}, {}):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | dead_proxy | how
        done = process(*arguments, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(server.requests) == asked


@pytest.fixture
def dead_proxy() -> dict[str, str]:
    """An environment in which all that goes to the network ends at a port where nobody is."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{one.getsockname()[1]}"
    return dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)


def test_several_models_are_pulled_in_one_go_and_each_path_is_printed(run, folder, hub, server):
    for kind in ("vit", "quickgelu"):
        hub.put(f"someone/{kind}", model_files(folder(kind)))
    pulled = run("models", "pull", "hf-hub:someone/vit", "tiny", "hf-hub:someone/quickgelu")
    assert pulled.exit_code == 0, pulled.stderr
    contents = [Path(path).read_bytes() for path in pulled.stdout.splitlines()]
    expected = [folder("vit") / WEIGHTS, Path(contents_of_tiny()), folder("quickgelu") / WEIGHTS]
    assert contents == [path.read_bytes() for path in expected]


def contents_of_tiny() -> str:
    from clipzs.resolve import tiny

    return str(tiny().weights)


def test_nothing_is_downloaded_when_one_of_several_models_does_not_exist(run, folder, hub, server, tmp_path):
    hub.put("someone/small-clip", model_files(folder("vit")))
    refused = run("models", "pull", SMALL, "hf-hub:someone/nothing")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no repository someone/nothing" in refused.stderr
    assert not any(path.endswith(WEIGHTS) and method == "GET" for method, path, _ in server.requests)


def test_pretrained_goes_with_one_model_only(run):
    refused = run("models", "pull", "RN50", "RN101", "--pretrained", "openai")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--pretrained goes with one model" in refused.stderr


def test_pickles_are_pulled_only_when_allowed(run, folder, hub, server, tmp_path):
    pickled = tmp_path / "model.bin"
    torch.save(load_file(folder("vit") / WEIGHTS), pickled)
    config = folder("vit") / "open_clip_config.json"
    hub.put("someone/pickled", {config.name: config, "open_clip_pytorch_model.bin": pickled})
    refused = run("models", "pull", "hf-hub:someone/pickled")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--allow-pickle" in refused.stderr
    taken = run("models", "pull", "hf-hub:someone/pickled", "--allow-pickle")
    assert Path(taken.stdout.strip()).read_bytes() == pickled.read_bytes()


# What is said first


def test_size_and_licence_are_said_before_anything_large_is_fetched(run, folder, hub, server):
    hub.put("someone/small-clip", model_files(folder("vit")))
    hub.breaks[WEIGHTS] = 0  # not one byte of it can be had
    pulled = run("models", "pull", SMALL)
    assert pulled.exit_code == 1
    size = (folder("vit") / WEIGHTS).stat().st_size / 1e6
    first, second = pulled.stderr.splitlines()[:2]
    assert first == f"note: {SMALL}: {size:.1f} MB to download; licence of the weights: unknown, see the model's card"
    assert second.startswith("error: ")


def test_a_licence_that_is_not_open_to_commercial_use_is_warned_of_once(run):
    pulled = run("models", "pull", "tiny")
    note, warning = pulled.stderr.splitlines()
    assert "already here; licence of the weights: CC BY-NC 4.0" in note
    assert warning.startswith("warning: the licence of tiny, CC BY-NC 4.0, is not open to commercial use")
    assert run("models", "pull", "tiny", "--quiet").stderr == ""


def test_a_download_larger_than_the_disk_is_refused_before_it_begins(run, folder, hub, server):
    hub.put("someone/small-clip", model_files(folder("vit")))
    hub.sizes[WEIGHTS] = 10**17
    refused = run("models", "pull", SMALL)
    assert (refused.exit_code, refused.stdout) == (1, "")
    error, hint = refused.stderr.splitlines()[1:]
    assert error.startswith("error: 100000000000 MB are to be downloaded, but ")
    assert "HF_HUB_CACHE" in hint
    assert not any(path.endswith(WEIGHTS) and method == "GET" for method, path, _ in server.requests)


# What goes wrong on the way


TWO_CHUNKS = 20 << 20  # the hub's client writes 10 MiB at a time


@pytest.fixture
def large(folder, hub, tmp_path) -> bytes:
    """A checkpoint that takes more than two chunks, in the repository of SMALL; its content."""
    save_file({"logit_scale": torch.randn(TWO_CHUNKS // 4 + 1_000_000)}, tmp_path / WEIGHTS)
    hub.put("someone/small-clip", {**model_files(folder("vit")), WEIGHTS: tmp_path / WEIGHTS})
    return (tmp_path / WEIGHTS).read_bytes()


def test_a_broken_download_goes_on_where_it_stopped(run, large, hub, server, tmp_path):
    hub.breaks[WEIGHTS] = TWO_CHUNKS
    broken = run("models", "pull", SMALL)
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert "the download failed" in broken.stderr
    assert broken.stderr.splitlines()[-1] == "hint: try again: a download goes on where it stopped"
    assert blob(tmp_path, "someone/small-clip", large).with_suffix(".incomplete").read_bytes() == large[:TWO_CHUNKS]
    del hub.breaks[WEIGHTS]
    server.requests.clear()
    pulled = run("models", "pull", SMALL)
    assert pulled.exit_code == 0, pulled.stderr
    assert "25.0 MB to download, 21.0 MB of them already here" in pulled.stderr
    gets = [part for method, path, part in server.requests if method == "GET" and path.endswith(WEIGHTS)]
    assert gets == [f"bytes={TWO_CHUNKS}-"]
    assert Path(pulled.stdout.strip()).read_bytes() == large


def test_a_download_that_arrives_damaged_is_fetched_once_more(run, folder, hub, server):
    hub.put("someone/small-clip", model_files(folder("vit")))
    hub.spoiled[WEIGHTS] = 1
    pulled = run("models", "pull", SMALL)
    assert pulled.exit_code == 0, pulled.stderr
    assert f"warning: {WEIGHTS} of someone/small-clip arrived damaged; fetching it again" in pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == (folder("vit") / WEIGHTS).read_bytes()


@pytest.mark.parametrize("command", ["pull", "classify"])
def test_a_download_that_arrives_damaged_twice_is_refused_and_not_kept(
    run, cat, folder, hub, server, tmp_path, command
):
    hub.put("someone/small-clip", model_files(folder("vit")))
    hub.spoiled[WEIGHTS] = 2
    how = ("models", "pull", SMALL) if command == "pull" else ("classify", cat, "-l", "a", "-l", "b", "--model", SMALL)
    refused = run(*how)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "error: open_clip_model.safetensors of someone/small-clip arrived damaged twice" in refused.stderr
    kept = blob(tmp_path, "someone/small-clip", (folder("vit") / WEIGHTS).read_bytes())
    assert [path for path in kept.parent.iterdir() if path.name.startswith(kept.name)] == []


def test_weights_that_were_damaged_on_the_disk_are_fetched_again(run, cat, folder, hub, server, tmp_path):
    hub.put("someone/small-clip", model_files(folder("vit")))
    assert run("models", "pull", SMALL).exit_code == 0
    content = (folder("vit") / WEIGHTS).read_bytes()
    path = blob(tmp_path, "someone/small-clip", content)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    without = run("models", "pull", SMALL, "--offline")
    assert (without.exit_code, without.stdout) == (1, "")
    assert f"{path} is damaged" in without.stderr
    assert f"delete {path}" in without.stderr.splitlines()[-1]
    assert path.exists()


def test_weights_that_were_damaged_on_the_disk_are_replaced_with_a_network(run, folder, hub, server, tmp_path):
    hub.put("someone/small-clip", model_files(folder("vit")))
    assert run("models", "pull", SMALL).exit_code == 0
    content = (folder("vit") / WEIGHTS).read_bytes()
    blob(tmp_path, "someone/small-clip", content).write_bytes(content[:1000])
    again = run("models", "pull", SMALL)
    assert again.exit_code == 0, again.stderr
    assert "is damaged: its SHA-256 is not the one the hub has of it; fetching it again" in again.stderr
    assert Path(again.stdout.strip()).read_bytes() == content


def test_weights_the_hub_itself_has_damaged_are_one_line(run, folder, hub, server):
    hub.put("someone/small-clip", model_files(folder("vit")))
    hub.put("someone/small-clip", {WEIGHTS: (folder("vit") / WEIGHTS).read_bytes()[:-100]})
    refused = run("models", "pull", SMALL)
    assert (refused.exit_code, refused.stdout) == (1, "")
    _, error, hint = refused.stderr.splitlines()
    assert "is damaged, or not a checkpoint" in error
    assert hint.startswith("hint: ")


def test_a_tokenizer_whose_vocabulary_is_missing_is_never_used(run, cat, folder, hub, server):
    """transformers makes one of it that takes every word for unknown, without a word."""
    place = folder("transformers-tokenizer")
    hub.put("someone/small-siglip", model_files(place))
    hub.put("someone/words", {"tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer"}).encode()})
    for command in (("models", "pull"), ("classify", cat, "--labels", "cat,dog", "--model")):
        refused = run(*command, "hf-hub:someone/small-siglip")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "takes all words for the same" in refused.stderr
        assert "vocabulary is missing" in refused.stderr


def test_a_tokenizer_that_was_fetched_in_part_is_completed(run, cat, folder, hub, server):
    place = folder("transformers-tokenizer")
    hub.put("someone/small-siglip", model_files(place))
    hub.put("someone/words", {path.name: path for path in place.glob("tokenizer*.json")})
    hub.breaks["tokenizer.json"] = 10
    assert run("models", "pull", "hf-hub:someone/small-siglip").exit_code == 1
    del hub.breaks["tokenizer.json"]
    found = scores(run, cat, "--model", "hf-hub:someone/small-siglip")
    assert found == scores(run, cat, "--model", f"local-dir:{place}")


# Whole processes

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")


def environment_of(server: Server) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return {**kept, "HF_ENDPOINT": server.url, "no_proxy": "127.0.0.1"}


@needs_posix
def test_a_disk_that_is_full_is_one_line(process, folder, hub, server):
    import resource

    hub.put("someone/small-clip", model_files(folder("vit")))
    half = (folder("vit") / WEIGHTS).stat().st_size // 2
    done = process(
        "models", "pull", SMALL, env=environment_of(server),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (half, half)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    _, error, hint = done.stderr.splitlines()
    assert "there is no space left for it" in error
    assert hint.startswith("hint: ")


@needs_posix
def test_ctrl_c_leaves_what_was_fetched(large, hub, server, tmp_path):
    hub.stalls[WEIGHTS] = TWO_CHUNKS
    part = blob(tmp_path, "someone/small-clip", large).with_suffix(".incomplete")
    command = [sys.executable, "-m", "clipzs", "models", "pull", SMALL]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment_of(server), **pipes) as running:
        for _ in range(600):
            if part.exists() and part.stat().st_size:
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "what was fetched is kept" in err
    assert "Traceback" not in err
    kept = part.read_bytes()
    assert kept
    assert large.startswith(kept)


# Offline


@pytest.mark.parametrize("how", ["--offline", "CLIPZS_OFFLINE"])
@pytest.mark.parametrize(
    "command",
    [
        ["classify", "{cat}", "--labels", "cat,dog"],
        ["classify", "{cat}", "--labels", "cat,dog", "--model", "fast"],
        ["models", "pull", "fast"],
        ["models", "show", "hf-hub:someone/small-clip"],
        ["models", "list"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_offline_never_touches_the_network(run, cat, server, offline, monkeypatch, command, how):
    offline()
    if how == "CLIPZS_OFFLINE":
        monkeypatch.setenv(how, "1")
    arguments = [part.format(cat=cat) for part in command] + [how] * (how == "--offline")
    result = run(*arguments)
    assert server.requests == []
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if "fast" in command or "show" in command:
        assert result.exit_code == 1
        assert "--offline or HF_HUB_OFFLINE is set" in result.stderr
    else:
        assert result.exit_code == 0


def test_offline_without_a_named_model_takes_the_embedded_one_and_says_why(run, cat):
    result = run("classify", cat, "--labels", "cat,dog", "--json", "--offline")
    assert json.loads(result.stdout)["model"] == "tiny"
    (warning,) = result.stderr.splitlines()
    assert "--offline or HF_HUB_OFFLINE is set" in warning
    assert f"clipzs models pull {defaults.MODEL}" in warning
