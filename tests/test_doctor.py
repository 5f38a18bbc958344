"""`clipzs doctor` on machines in good health and in bad."""

import json
import os
import socket
import subprocess
import sys

import open_clip
import pytest
from fakehub import Repositories, lay_out

import clipzs
from clipzs import defaults


def findings(result) -> dict:
    return json.loads(result.stdout)


def without(
    *modules: str, arguments: tuple[str, ...] = ("doctor", "--offline", "--json")
) -> subprocess.CompletedProcess:
    """clipzs where these modules are not installed."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        "from clipzs.cli import main\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_everything_is_said_and_nothing_stands_in_the_way_of_using_clipzs(run):
    result = run("doctor", "--offline", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = findings(result)
    assert found["versions"]["clipzs"]["value"] == clipzs.__version__
    assert found["versions"]["open_clip_torch"]["value"] == open_clip.__version__
    assert found["models"]["tiny"]["value"].startswith("ready")
    assert {each["state"] for topic in found.values() for each in topic.values()} <= {"ok", "warning"}
    for topic, names in {
        "computing": {"device", "precision", "processor", "instructions", "threads", "engine"},
        "cache": {"folder"},
        "hub": {"folder", "free disk", "network"},
        "prompts": {"shipped", "your own"},
    }.items():
        assert names <= set(found[topic]), topic


def test_people_read_the_same_in_lines(run):
    lines = run("doctor", "--offline").stdout.splitlines()
    found = findings(run("doctor", "--offline", "--json"))
    assert [line for line in lines if line and line[0] not in " !✗"] == list(found)
    (line,) = [line for line in lines if line.split()[:1] == ["engine"]]
    assert line.endswith(found["computing"]["engine"]["value"])
    (line,) = [line for line in lines if line.startswith(f"! {defaults.MODEL}")]
    assert "not ready" in line
    assert f"→ clipzs models pull {defaults.MODEL}" in lines[lines.index(line) + 1]


def test_torch_is_not_imported_where_no_gpu_is_in_sight():
    code = (
        "import sys; from clipzs.cli import app\n"
        "try: app(['doctor', '--offline'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'open_clip', 'openvino', 'transformers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["torch", "open_clip", "huggingface_hub", "safetensors", "numpy", "PIL"])
def test_a_package_clipzs_cannot_do_without_is_an_error_that_says_how_to_install_it(module):
    done = without(module)
    package = {"open_clip": "open_clip_torch", "PIL": "pillow"}.get(module, module)
    assert done.returncode == 1
    found = json.loads(done.stdout)["versions"][package]
    assert found["state"] == "error"
    assert found["value"].startswith("not installed: ")
    assert found["hint"] == f"pip install {package}"
    assert done.stderr.splitlines() == [f"error: {package}: {found['value']}", f"hint: {found['hint']}"]


def test_packages_clipzs_can_do_without_are_named_and_no_error():
    done = without("openvino", "transformers", "tokenizers")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["versions"]["openvino"]["state"] == "warning"
    assert "clipzs[multilingual]" in found["versions"]["transformers"]["hint"]
    assert found["computing"]["engine"]["value"] == "torch: openvino is not installed"


def test_the_default_model_is_ready_once_its_weights_are_in_the_hub_cache(run, folder, tmp_path):
    repo = open_clip.get_pretrained_cfg(*defaults.MODEL.split(":"))["hf_hub"].rstrip("/")
    weights = {"open_clip_model.safetensors": folder("vit") / "open_clip_model.safetensors"}
    assert findings(run("doctor", "--offline", "--json"))["models"][defaults.MODEL]["state"] == "warning"
    lay_out(tmp_path / "hub", repo, weights)
    found = findings(run("doctor", "--offline", "--json"))
    assert found["models"][defaults.MODEL]["state"] == "ok"
    assert "ready to be used without a network" in found["models"][defaults.MODEL]["value"]
    assert "in 1 repositories" in found["hub"]["folder"]["value"]


def test_a_download_that_was_broken_off_is_found(run, tmp_path):
    part = tmp_path / "hub" / "models--someone--small-clip" / "blobs" / "0123.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2_500_000))
    assert findings(run("doctor", "--offline", "--json"))["hub"]["broken off"]["value"] == "1 downloads, 2.5 MB"


def test_the_network_is_asked_unless_that_is_not_wanted(run, serve, online):
    hub = Repositories()
    server = serve(hub)
    online(server.url)
    found = findings(run("doctor", "--json"))["hub"]["network"]
    assert found["value"].startswith(f"{server.url} answers, but: no repository ")
    repo = open_clip.get_pretrained_cfg(*defaults.MODEL.split(":"))["hf_hub"].rstrip("/")
    hub.put(repo, {"open_clip_model.safetensors": b"x"})
    assert findings(run("doctor", "--json"))["hub"]["network"]["value"] == f"{server.url} answers"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{one.getsockname()[1]}")
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert "there is no network" in findings(result)["hub"]["network"]["value"]


def test_a_cache_that_is_damaged_is_named_and_no_error(run, cat, tmp_path):
    assert run("classify", cat, "--labels", "cat,dog", "--model", "tiny").exit_code == 0
    (database,) = (tmp_path / "cache" / "labels").glob("*.sqlite")
    healthy = findings(run("doctor", "--offline", "--json"))["cache"]
    assert healthy["labels"]["value"].endswith("2 entries")
    database.write_bytes(b"no database" * 1000)
    result = run("doctor", "--offline", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = findings(result)["cache"][f"labels/{database.name}"]
    assert (found["value"], found["state"]) == ("cannot be read", "warning")
    assert "clipzs cache clear" in found["hint"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_cache_folder_that_cannot_be_written_is_named(run, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    result = run("doctor", "--offline", "--json", "--cache-dir", folder / "deeper")
    assert result.exit_code == 0
    assert "cannot be written" in findings(result)["cache"]["writing"]["value"]


def test_a_template_set_that_is_malformed_is_named(run, tmp_path):
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "mine.yaml").write_text("templates: [no placeholder]")
    result = run("doctor", "--offline", "--json", "--prompts-dir", own)
    assert result.exit_code == 0
    assert "mine.yaml" in findings(result)["prompts"]["set mine"]["value"]


def test_without_a_home_and_with_folders_that_cannot_be_there_all_is_still_said(process, tmp_path):
    file = tmp_path / "file"
    file.touch()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CLIPZS_", "HF_", "XDG_"))}
    environment = {key: value for key, value in environment.items() if key not in ("HOME", "USERPROFILE", "USER")}
    nowhere = {
        "CLIPZS_CACHE_DIR": str(file / "cache"),
        "CLIPZS_PROMPTS_DIR": str(file),
        "HF_HUB_CACHE": str(file / "hub"),
    }
    for more in ({}, nowhere):
        done = process("doctor", "--offline", "--json", env={**environment, **more})
        assert (done.returncode, done.stderr) == (0, "")
        assert set(json.loads(done.stdout)) >= {"versions", "computing", "cache", "hub", "models", "prompts"}


def test_settings_from_the_environment_are_listed_and_secrets_are_not(run, monkeypatch):
    monkeypatch.setenv("CLIPZS_PRECISION", "bf16")
    monkeypatch.setenv("HF_TOKEN", "a secret")
    result = run("doctor", "--offline", "--json")
    assert findings(result)["environment"]["CLIPZS_PRECISION"]["value"] == "bf16"
    assert "secret" not in result.stdout
