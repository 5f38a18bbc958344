"""Towers compiled for the CPU: open_clip's own numbers, no torch, and nothing breaks them for long."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_parity import PHOTOS, assert_same, clipzs_scores, open_clip_scores

from clipzs import Classifier
from clipzs.compiled import MANIFEST, TOKENIZER, CompiledModel, available, sealed, sha256
from clipzs.encoder import TextEnd, trimmed
from clipzs.resolve import resolve

pytestmark = pytest.mark.skipif(not available(), reason="there is no OpenVINO for this platform")

KINDS = [kind for kind in models.CONFIGS if kind != "transformers-tokenizer"]
HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "safetensors")


def log_of(run, tmp_path: Path, *arguments: object) -> dict:
    done = run("classify", PHOTOS[0], "--labels", "cat,rocket", "--log", tmp_path / "log.json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))


def imported_by(*arguments: object) -> tuple[str, set[str]]:
    """Standard output of the command as a real process, and the packages it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "clipzs", "classify", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done.stdout, {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_scores_are_those_of_open_clip(run, folder, kind):
    name = f"local-dir:{folder(kind)}"
    assert_same(clipzs_scores(run, "--model", name, "--engine", "openvino", "--no-image-cache"), open_clip_scores(name))


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_bf16_stays_near_and_where_it_does_not_torch_computes(run, folder, kind, caplog):
    name = f"local-dir:{folder(kind)}"
    scores = clipzs_scores(run, "--model", name, "--precision", "bf16", "--score", "cosine")
    again = clipzs_scores(run, "--model", name, "--precision", "bf16", "--score", "cosine", "--no-image-cache")
    expected = open_clip_scores(name, score="cosine")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=0.02)
    np.testing.assert_allclose(again, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", ["vit", "siglip", "transformers-tokenizer"])
def test_a_model_used_before_needs_no_torch_for_labels_seen_or_new(folder, kind, compiled, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE")
    model = (
        "--model",
        f"local-dir:{folder(kind)}",
        "--no-image-cache",
        "--json",
        PHOTOS[0],
        "--template",
        "a photo of <>",
    )
    first, before = imported_by(*model, "--labels", "cat,rocket")
    seen, after = imported_by(*model, "--labels", "cat,rocket")
    new, later = imported_by(*model, "--labels", "dog,temple,cat")
    assert "torch" in before
    assert set(HEAVY) & (after | later) == set()
    assert "openvino" in after
    old, same = json.loads(first), json.loads(seen)
    assert same["config"] == old["config"]
    assert {s["label"]: s["score"] for s in same["scores"]} == pytest.approx(
        {s["label"]: s["score"] for s in old["scores"]}, abs=1e-5
    )
    by_torch, _ = imported_by(*model, "--labels", "dog,temple,cat", "--engine", "torch", "--no-cache")
    assert {s["label"]: s["score"] for s in json.loads(new)["scores"]} == pytest.approx(
        {s["label"]: s["score"] for s in json.loads(by_torch)["scores"]}, abs=1e-5
    )


def test_the_first_answer_is_torchs_and_the_rest_of_a_run_is_compiled(run, tmp_path, compiled):
    assert log_of(run, tmp_path, "--model", "tiny")["engine"] == "torch"
    assert [path.name for path in compiled.glob("*/*.blob")] == ["image.blob", "text.blob"]
    assert log_of(run, tmp_path, "--model", "tiny")["engine"] == "openvino"
    shutil.rmtree(compiled)
    log = log_of(run, tmp_path, "--model", "tiny", *PHOTOS, "--batch-size", 2, "--no-image-cache")
    assert (log["engine"], log["images"]) == ("openvino", 1 + len(PHOTOS))


@pytest.mark.parametrize("arguments", [("--engine", "torch"), ("--no-cache",)])
def test_nothing_is_compiled_unasked(run, tmp_path, compiled, arguments):
    assert log_of(run, tmp_path, "--model", "tiny", *arguments)["engine"] == "torch"
    assert not compiled.exists()


def test_openvino_is_insisted_on_where_it_cannot_be(run, cat):
    done = run("classify", cat, "--labels", "a,b", "--model", "tiny", "--engine", "openvino", "--no-cache")
    assert done.exit_code == 1
    assert "OpenVINO needs" in done.stderr
    assert "hint: --engine auto" in done.stderr


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_bytes())["manifest"]


def damage_manifest(folder: Path) -> None:
    content = (folder / MANIFEST).read_text(encoding="utf-8")
    (folder / MANIFEST).write_text(content[: len(content) // 2], encoding="utf-8")


def damage_version(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["determinants"]["openvino"] = "2020.1"
    (folder / MANIFEST).write_bytes(sealed(manifest))


def damage_digit(folder: Path) -> None:
    """Still a manifest, but of other scores."""
    content = (folder / MANIFEST).read_text(encoding="utf-8")
    (folder / MANIFEST).write_text(re.sub(r'("logit_scale": )\d', r"\g<1>9", content), encoding="utf-8")


def damage_byte(folder: Path) -> None:
    with (folder / "image.blob").open("r+b") as file:
        file.seek((folder / "image.blob").stat().st_size // 2 + 77)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))


def damage_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).write_text("{}", encoding="utf-8")


def damage_length(folder: Path) -> None:
    os.truncate(folder / "image.blob", (folder / "image.blob").stat().st_size // 2)


def damage_hole(folder: Path) -> None:
    size = (folder / "image.blob").stat().st_size
    with (folder / "image.blob").open("r+b") as file:
        file.seek(size // 3)
        file.write(bytes(size // 3))


def damage_missing(folder: Path) -> None:
    (folder / "image.blob").unlink()


def damage_unseen(folder: Path) -> None:
    """Garbage whose every check agrees: only the engine itself notices."""
    blob = folder / "image.blob"
    blob.write_bytes(b"garbage" * 1000)
    manifest = manifest_of(folder)
    manifest["files"]["image.blob"] = sha256(blob)
    (folder / MANIFEST).write_bytes(sealed(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        damage_manifest,
        damage_version,
        damage_digit,
        damage_length,
        damage_hole,
        damage_byte,
        damage_tokenizer,
        damage_missing,
        damage_unseen,
    ],
)
def test_damaged_or_foreign_files_are_noticed_and_made_anew(run, folder, compiled, damage):
    name = f"local-dir:{folder('vit')}"
    arguments = ("--model", name, "--no-image-cache")
    expected = clipzs_scores(run, *arguments)
    (made,) = compiled.iterdir()
    damage(made)
    assert_same(clipzs_scores(run, *arguments), expected)
    assert CompiledModel(compiled.parent, resolve(name), resolve(name).digest, "fp32").manifest() is not None
    assert_same(clipzs_scores(run, *arguments), expected)
    assert [path.name for path in compiled.iterdir()] == [made.name]


def test_other_weights_under_the_same_name_are_another_model(run, folder, compiled, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder("vit"), copy)
    name = f"local-dir:{copy}"
    clipzs_scores(run, "--model", name)
    models.save_file(models.random_state(f"local-dir:{folder('vit')}/"), copy / "open_clip_model.safetensors")
    assert_same(clipzs_scores(run, "--model", name), open_clip_scores(name))
    assert len(list(compiled.iterdir())) == 2


def test_two_processes_may_compile_at_once(folder, compiled):
    model = ("--model", f"local-dir:{folder('vit')}", "--labels", "cat,rocket", "--json", PHOTOS[0])
    with ThreadPoolExecutor() as pool:
        (one, _), (two, _) = pool.map(lambda _: imported_by(*model), range(2))
    assert json.loads(one) == json.loads(two)
    (made,) = compiled.iterdir()
    assert (made / MANIFEST).exists()
    _, packages = imported_by(*model, "--no-image-cache")
    assert "torch" not in packages


def test_a_kill_while_compiling_leaves_nothing_that_is_used(run, folder, compiled):
    name = f"local-dir:{folder('rotary')}"
    command = [sys.executable, "-m", "clipzs", "classify", str(PHOTOS[0]), "--labels", "cat,rocket", "--model", name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (compiled.is_dir() and list(compiled.iterdir())) and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    (left,) = compiled.iterdir()
    assert left.name.startswith(".")
    os.utime(left, (0, 0))
    assert_same(clipzs_scores(run, "--model", name), open_clip_scores(name))
    (made,) = compiled.iterdir()
    assert not made.name.startswith(".")


def test_a_full_disk_costs_the_compiled_model_and_nothing_else(folder, compiled):
    command = [sys.executable, "-m", "clipzs", "classify", str(PHOTOS[0]), "--labels", "cat,rocket", "--verbose"]
    command += ["--model", f"local-dir:{folder('vit')}"]
    full = (200_000, 200_000)  # bytes a file may have: enough for embeddings, too little for a tower
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full),
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "stays with torch" in done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(compiled.iterdir()) == []


def test_a_tower_that_cannot_be_converted_is_tried_once_and_torch_goes_on(run, folder, compiled, tmp_path):
    """A manifest as it is written then; the first run must not come back to it, and a new version must."""
    name = f"local-dir:{folder('vit')}"
    place = CompiledModel(compiled.parent, resolve(name), resolve(name).digest, "fp32")
    place.folder.mkdir(parents=True)
    refused = {
        "determinants": place.determinants,
        "files": {},
        "refused": "it could not be compiled: no such operation",
    }
    (place.folder / MANIFEST).write_bytes(sealed(refused))
    assert log_of(run, tmp_path, "--model", name)["engine"] == "torch"
    assert [path.name for path in place.folder.iterdir()] == [MANIFEST]
    done = run("classify", PHOTOS[0], "--labels", "a,b", "--model", name, "--engine", "openvino")
    assert done.exit_code == 1
    assert "no such operation" in done.stderr


def test_the_cache_commands_know_compiled_models(run, cat, compiled):
    run("classify", cat, "--labels", "cat,dog", "--model", "tiny")
    (made,) = compiled.iterdir()
    size = sum(path.stat().st_size for path in made.iterdir())
    info = run("cache", "info")
    (line,) = [line for line in info.stdout.splitlines() if "compiled" in line]
    assert "tiny-fp32" in line
    assert f"{size / 1e6:.1f} MB" in line
    assert run("cache", "clear").exit_code == 0
    assert list(compiled.glob("*")) == []


def test_from_python_a_model_is_compiled_when_asked(cat, compiled):
    classifier = Classifier(["cat", "rocket"], model="tiny", image_cache=False)
    classifier.compile()
    assert not compiled.exists()
    (first,) = classifier.classify(cat)
    classifier.compile()
    (second,) = classifier.classify(cat)
    assert (classifier.encoder.engine, second.label) == ("openvino", first.label)
    assert second.score == pytest.approx(first.score, abs=1e-5)


@given(
    rows=st.lists(st.lists(st.integers(1, 400), max_size=9), min_size=1, max_size=5),
    end=st.sampled_from([TextEnd("largest"), TextEnd("first", 999), TextEnd("padding", 0)]),
)
def test_no_row_is_cut_before_its_end_token(rows, end):
    ids = np.zeros((len(rows), 12), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens) + 1] = [*tokens, 999]
    cut = trimmed(ids, end)
    assert cut.shape == (len(rows), max(map(len, rows)) + 1)
    assert (cut == 999).sum() == len(rows)
    np.testing.assert_array_equal(trimmed(ids, None), ids)
