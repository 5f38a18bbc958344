"""Towers compiled for this CPU by OpenVINO and kept in the cache: classifying then needs no torch.

`conversion` makes them from torch's towers, once; here they are found, checked and run.
"""

import hashlib
import json
import logging
import mmap
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from clipzs import defaults, processors
from clipzs.checkpoint import short
from clipzs.encoder import Pixels, TextEnd, Tokens, trimmed
from clipzs.errors import ClipzsError
from clipzs.filehashes import FileHashes
from clipzs.importing import without
from clipzs.memory import OutOfMemory, ran_out
from clipzs.modelspec import ModelSpec
from clipzs.score import Array
from clipzs.tokenizers import TextTokenizer, restored, tokenizer_for

log = logging.getLogger("clipzs")

FORMAT = 3
FOLDER = "compiled"  # in the cache folder
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
TOWERS = ("image", "text")
_PAGES_KEPT_S = 0.02


class CompiledProblem(ClipzsError):
    """Compiled files that cannot be used after all."""


class CompiledModel:
    """The place in the cache of one model's compiled towers, in one precision, for this CPU and version of OpenVINO.

    What was compiled in one precision gives wrong numbers when it is loaded in another.

    Attributes:
        folder: where they are or would be.
    """

    def __init__(self, cache_dir: Path, spec: ModelSpec, digest: str, precision: str) -> None:
        """Nothing is read yet. `digest` tells models of one name apart; `precision` is "fp32" or "bf16"."""
        self.spec = spec
        self.precision = precision
        self._hashes = FileHashes(cache_dir)
        self.determinants = {"model": digest, "precision": precision, **stamp()}
        name = hashlib.sha256(json.dumps(self.determinants, sort_keys=True).encode()).hexdigest()
        self.folder = cache_dir / FOLDER / f"{defaults.file_name(spec.name)}-{precision}-{name[:12]}"

    def manifest(self) -> dict[str, Any] | None:
        """What is known of the compiled towers now; None if there are none, or if they are damaged."""
        try:
            found = _unsealed((self.folder / MANIFEST).read_bytes())
            if found["determinants"] != self.determinants:
                raise ValueError("made for something else")
            for name, digest in found["files"].items():
                if self._hashes.sha256(self.folder / name) != digest:
                    raise ValueError(f"{name} is damaged")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            log.debug("%s cannot be used: %s", self.folder, error)
            return None
        return found

    def find(self) -> "CompiledEncoder | None":
        """The compiled model; None if it is still to be made.

        Raises:
            CompiledProblem: it was found to be impossible, or not accurate enough.
        """
        manifest = self.manifest()
        if manifest is None:
            return None
        with suppress(OSError):  # by that it is pruned; it may only be read
            os.utime(self.folder)
        if manifest["refused"]:
            raise CompiledProblem(manifest["refused"])
        return CompiledEncoder(self.folder, manifest, self.spec, self.precision)

    def discard(self) -> None:
        """Delete it, so that it is made anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


def available() -> bool:
    """Whether OpenVINO is installed (there is none for some platforms)."""
    return bool(stamp()["openvino"])


@cache
def stamp() -> dict[str, Any]:
    """What compiled files depend on besides the model: their format, OpenVINO's version, the CPU."""
    try:
        engine = version("openvino")
    except PackageNotFoundError:
        engine = ""
    return {"format": FORMAT, "openvino": engine, "cpu": _cpu()}


def _cpu() -> str:
    """The processor's kind and instruction sets."""
    facts = [platform.machine(), platform.processor()]
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                break  # the others are alike
            if line.startswith(("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")):
                facts.append(" ".join(line.split()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is kept: with its SHA-256, since one wrong digit in it would give wrong scores."""
    return json.dumps({"manifest": manifest, "sha256": _seal(manifest)}, indent=1).encode()


def _unsealed(kept: bytes) -> dict[str, Any]:
    """The manifest; ValueError if it is damaged."""
    whole = json.loads(kept)
    manifest: dict[str, Any] = whole["manifest"]
    if whole["sha256"] != _seal(manifest):
        raise ValueError("its manifest is damaged")
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class CompiledEncoder:
    """An `Encoder` over compiled towers; safe to use from several threads, one at a time.

    Raises (when a tower is first used):
        CompiledProblem: the files are damaged in a way that only shows now.
        OutOfMemory: for the tower, or for what it is given at once.
    """

    engine = "openvino"
    device = "cpu"

    def __init__(self, folder: Path, manifest: Mapping[str, Any], spec: ModelSpec, precision: str) -> None:
        """Nothing is loaded yet."""
        self.precision = precision
        self.logit_scale: float = manifest["logit_scale"]
        self.logit_bias: float | None = manifest["logit_bias"]
        self._folder = folder
        self._text_end = TextEnd(*manifest["text_end"]) if manifest["text_end"] else None
        self._spec = spec
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(len(TOWERS), thread_name_prefix="clipzs-load")
        self._towers: dict[str, Future[_Tower]] = {}

    def tokenize(self, texts: Any) -> Tokens:
        """Token ids by the model's own tokenizer, and their number before any cut."""
        return self._tokenizer(texts)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        path = self._folder / TOKENIZER
        try:
            stored = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CompiledProblem(f"the compiled {path} cannot be used: {short(error)}") from error
        return restored(stored) if stored else tokenizer_for(self._spec)

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""
        return self._run("text", trimmed(tokens.ids, self._text_end))

    def encode_images(self, pixels: Pixels) -> Array:
        """uint8 [b, height, width, 3] → float32 [b, d], rows of length 1. Lets go of the text tower."""
        self._towers.pop("text", None)  # labels come first; should there be more, it is loaded again
        return self._run("image", pixels)

    def expect_images(self) -> None:
        """Load the image tower on a thread, while texts are encoded."""
        self._loading("image")

    def _loading(self, tower: str) -> "Future[_Tower]":
        with self._lock:
            if tower not in self._towers:
                path = self._folder / f"{tower}.blob"
                self._towers[tower] = self._loader.submit(_Tower, path, self.precision)
            return self._towers[tower]

    def _run(self, name: str, given: Any) -> Array:
        try:
            tower = self._loading(name).result()
            with self._lock:
                return tower(given)
        except OutOfMemory:  # what was laid out for a large batch is kept, and leaves no room for a small one
            with self._lock:
                self._towers.clear()
            raise


def settings(precision: str) -> dict[str, Any]:
    """How OpenVINO is to compute. Left to itself it takes bf16 wherever the CPU has it."""
    return {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": processors.count(),
    }


def core() -> Any:
    """OpenVINO's core."""
    with without("openvino.tools.ovc"):  # its converters: optional there, and slower to import than all the rest
        import openvino
    return openvino.Core()


class _Tower:
    """One compiled tower, loaded."""

    def __init__(self, path: Path, precision: str) -> None:
        self._path, self._used = path, False
        with self._problems():
            engine = core()
            import openvino

            with path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            with _pages_given_back(self._mapping):
                # The model reads from this as long as it lives.
                self._data = openvino.Tensor(np.frombuffer(self._mapping, np.uint8), shared_memory=True)
                self._model = engine.import_model(self._data, "CPU", settings(precision))

    def __call__(self, given: Any) -> Array:
        """The tower's answer; the first call also lays out its weights."""
        with self._problems(), nullcontext() if self._used else _pages_given_back(self._mapping):
            answer: Array = self._model(given)[0]
            self._used = True
            return answer

    @contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise OutOfMemory("cpu") from error
            raise CompiledProblem(f"the compiled {self._path} cannot be used: {short(error)}") from error


@contextmanager
def _pages_given_back(mapping: mmap.mmap) -> Iterator[None]:
    """While weights are copied into the engine's own layout, let go of the file's pages again and again.

    Otherwise the process holds them twice: measured 780 MB instead of 470 for ViT-B-32. They stay in the
    system's page cache.
    """
    if sys.platform != "linux":
        yield
        return
    done = threading.Event()

    def give_back() -> None:
        while not done.wait(_PAGES_KEPT_S):
            mapping.madvise(mmap.MADV_DONTNEED)

    worker = threading.Thread(target=give_back, name="clipzs-pages", daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
