"""What clipzs finds on this machine: packages, device, caches, models. Every check may fail, none stops the others."""

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from clipzs import __version__, catalogue, defaults, devices, hub, processors
from clipzs.checkpoint import short
from clipzs.errors import ClipzsError, ModelError, ModelUnavailable
from clipzs.sizes import in_words

State = Literal["ok", "warning", "error"]
_MULTILINGUAL = "pip install 'clipzs[multilingual]'"
_SERVE = "pip install 'clipzs[serve]'"
# Of all that processors can do, what neural networks gain from; as Linux writes it.
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
    "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
_SETTINGS = (
    "CLIPZS_", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "HIP_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip


class Package(NamedTuple):
    """A package clipzs uses: its name to pip, the name of its module, and what without it goes wrong, and how badly."""

    name: str
    module: str
    install: str
    state: State
    without: str


PACKAGES = (
    Package("torch", "torch", "pip install torch", "error", "no model can be loaded"),
    Package("open_clip_torch", "open_clip", "pip install open_clip_torch", "error", "no model can be loaded"),
    Package("huggingface_hub", "huggingface_hub", "pip install huggingface_hub", "error", "no model can be found"),
    Package("safetensors", "safetensors", "pip install safetensors", "error", "no weights can be read"),
    Package("numpy", "numpy", "pip install numpy", "error", "nothing can be computed"),
    Package("pillow", "PIL", "pip install pillow", "error", "no image can be read"),
    Package("openvino", "openvino", "pip install openvino", "warning", "torch computes, and every run loads it"),
    Package("transformers", "transformers", _MULTILINGUAL, "ok", "needed by multilingual models only"),
    Package("tokenizers", "tokenizers", _MULTILINGUAL, "ok", "needed by multilingual models only"),
    Package("scikit-learn", "sklearn", "pip install 'clipzs[fit]'", "ok", "needed for `fit --method linear` only"),
    Package("matplotlib", "matplotlib", "pip install 'clipzs[plots]'", "ok", "needed for `--plot` only"),
    Package("fastapi", "fastapi", _SERVE, "ok", "needed for `clipzs serve` only"),
    Package("uvicorn", "uvicorn", _SERVE, "ok", "needed for `clipzs serve` only"),
    Package("python-multipart", "python_multipart", _SERVE, "ok", "needed for `clipzs serve` only"),
    Package("prometheus-client", "prometheus_client", _SERVE, "ok", "needed for `clipzs serve` only"),
    Package("pillow-heif", "pillow_heif", "pip install 'clipzs[heic]'", "ok", "needed for HEIC only"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it belongs to, e.g. "versions".
        name: what it is, e.g. "torch".
        value: what was found, for people.
        state: "ok"; "warning" if something works less well than it could; "error" if clipzs cannot be used.
        hint: what to do about it; empty if nothing has to be done.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    hint: str = ""


class _Found(NamedTuple):
    name: str
    value: str
    state: State = "ok"
    hint: str = ""


def examine(cache_dir: Path | None = None, prompts_dir: Path | None = None) -> Iterator[Finding]:
    """Look at everything. torch is imported only where a GPU is in sight, and no model is loaded.

    Args:
        cache_dir: clipzs' cache; None is the user's.
        prompts_dir: the user's own template sets; None is the user's configuration folder.

    Yields:
        What was found. A check that fails becomes a warning.
    """
    checks: dict[str, list[Callable[[], Iterator[_Found]]]] = {
        "versions": [_clipzs, _packages],
        "computing": [_device, _processor, _engine],
        "cache": [lambda: _cache(cache_dir or defaults.cache_dir())],
        "hub": [_hub_cache, _network],
        "models": [_embedded, _default],
        "prompts": [lambda: _prompts(prompts_dir)],
        "environment": [_environment],
    }
    for topic, several in checks.items():
        for check in several:
            for found in _without_fail(check):
                yield Finding(topic, *found)


def _without_fail(check: Callable[[], Iterator[_Found]]) -> Iterator[_Found]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken on this machine, the rest is still to be told
        name = getattr(check, "__name__", "").strip("_").replace("<lambda>", "folder")
        hint = (error.hint or "") if isinstance(error, ClipzsError) else ""
        yield _Found(name, f"cannot be examined: {short(error)}", "warning", hint)


def _clipzs() -> Iterator[_Found]:
    yield _Found("clipzs", __version__)
    yield _Found("Python", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")


def _packages() -> Iterator[_Found]:
    for package in PACKAGES:
        if _importable(package.module):
            try:
                yield _Found(package.name, version(package.name))
            except PackageNotFoundError:
                yield _Found(package.name, "of an unknown version")
        else:
            value = f"not installed: {package.without}"
            yield _Found(package.name, value, package.state, package.install)


def _importable(module: str) -> bool:
    """Whether there is such a module; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _device() -> Iterator[_Found]:
    device, reason = devices.device_and_reason("auto")
    yield _Found("device", f"{device}: {reason}")
    precision = devices.chosen_precision("auto", device)
    faster = device == "cpu" and bool(_BF16 & set(_cpu_features()))
    more = "; this CPU computes in bf16 too, so --precision bf16 is faster" if faster else ""
    reason = "the exact one, usual on a CPU" if precision == "fp32" else "usual on a GPU, with autocast"
    yield _Found("precision", f"{precision}: {reason}{more}")


def _processor() -> Iterator[_Found]:
    names = {line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")}
    yield _Found("processor", ", ".join(sorted(names)) or platform.processor() or platform.machine())
    known = ", ".join(_cpu_features()) or "not known on this system"
    yield _Found("instructions", known)
    yield _Found("threads", f"{processors.count()} of {os.cpu_count()}")


def _cpu_features() -> list[str]:
    lines = [line for line in _cpuinfo() if line.startswith(("flags", "Features"))]
    words = set(lines[0].partition(":")[2].split()) if lines else set()
    return [name for name in _FEATURES if name in words]


def _cpuinfo() -> list[str]:
    """What Linux says of the processor; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _engine() -> Iterator[_Found]:
    from clipzs.compiled import available

    if devices.chosen_device("auto") != "cpu":
        yield _Found("engine", "torch: the one for GPUs")
    elif available() and _importable("openvino"):
        yield _Found("engine", "openvino: compiles a model when it is first used, and needs no torch from then on")
    else:
        yield _Found("engine", "torch: openvino is not installed")


def _cache(folder: Path) -> Iterator[_Found]:
    from clipzs.cachefolder import KINDS, contents

    if not folder.exists():
        yield _Found("folder", f"{folder}: not there yet")
        yield from _writable(next(place for place in folder.absolute().parents if place.exists()))
        return
    files = contents(folder)
    yield _Found("folder", f"{folder}: {in_words(sum(file.bytes for file in files))}")
    yield from _writable(folder)
    for kind in KINDS:
        ours = [file for file in files if file.kind == kind]
        entries = sum(file.entries or 0 for file in ours)
        if ours:
            yield _Found(kind, f"{in_words(sum(file.bytes for file in ours))}, {entries} entries")
    for file in files:
        if file.entries is None:
            hint = "it is not used; `clipzs cache clear` starts a new one"
            yield _Found(f"{file.kind}/{file.path.name}", "cannot be read", "warning", hint)


def _writable(folder: Path) -> Iterator[_Found]:
    if not os.access(folder, os.W_OK | os.X_OK):
        hint = "name another with --cache-dir or CLIPZS_CACHE_DIR"
        yield _Found("writing", f"{folder} cannot be written: nothing is kept between runs", "warning", hint)


def _hub_cache() -> Iterator[_Found]:
    folder = hub.cache_folder()
    sizes = {path: path.stat().st_size for path in folder.glob("*/blobs/*") if path.is_file()}
    models = len(list(folder.glob("models--*")))
    yield _Found("folder", f"{folder}: {in_words(sum(sizes.values()))} in {models} repositories of models")
    parts = [size for path, size in sizes.items() if path.suffix == ".incomplete"]
    if parts:
        hint = "the command that was stopped goes on where it was; without it they can be deleted"
        yield _Found("broken off", f"{len(parts)} downloads, {in_words(sum(parts))}", "warning", hint)
    free = hub.free_space()
    enough = free > 1e9
    yield _Found("free disk", in_words(free), "ok" if enough else "warning", "" if enough else "free some space")


def _network() -> Iterator[_Found]:
    from huggingface_hub import constants

    from clipzs.resolve import resolve

    address = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        yield _Found("network", f"{address} is not asked: --offline or HF_HUB_OFFLINE is set")
        return
    spec = resolve(defaults.MODEL)
    try:
        hub.remote(spec.repo, hub.weights_names(spec.filename, allow_pickle=False)[0])
    except ModelUnavailable as error:
        yield _Found("network", f"{address} cannot be asked: {error.why}", "warning", "models here work all the same")
    except ModelError as error:
        yield _Found("network", f"{address} answers, but: {error}", "warning")
    else:
        yield _Found("network", f"{address} answers")


def _embedded() -> Iterator[_Found]:
    from clipzs.resolve import tiny

    try:
        size = in_words(tiny().weights.stat().st_size)
    except OSError as error:
        missing = f"cannot be read: {error.filename}"
        yield _Found(catalogue.TINY, missing, "error", "install clipzs anew: pip install --force-reinstall clipzs")
    else:
        yield _Found(catalogue.TINY, f"ready, {size}, comes with clipzs")


def _default() -> Iterator[_Found]:
    from clipzs.pull import missing
    from clipzs.resolve import resolve

    spec = resolve(defaults.MODEL)
    lacking = missing(spec)
    if lacking:
        value = f"the default is not ready to be used without a network: no {', no '.join(lacking)} here"
        yield _Found(spec.name, value, "warning", f"clipzs models pull {spec.name}")
    else:
        yield _Found(spec.name, f"the default, ready to be used without a network, {in_words(spec.bytes_here or 0)}")


def _prompts(own: Path | None) -> Iterator[_Found]:
    from clipzs.errors import TemplatesError
    from clipzs.templates import known_sets, read, shipped_dir

    own = own or defaults.prompts_dir()
    sets = known_sets(own)
    shipped = [path for path in sets.values() if path.parent == shipped_dir()]
    state: State = "ok" if shipped else "error"
    hint = "" if shipped else "install clipzs anew: pip install --force-reinstall clipzs"
    yield _Found("shipped", f"{shipped_dir()}: {len(shipped)} sets", state, hint)
    yield _Found("your own", f"{own}: {len(sets) - len(shipped)} sets" if own.is_dir() else f"{own}: not there")
    for name, path in sets.items():
        try:
            read(path)
        except TemplatesError as error:
            yield _Found(f"set {name}", f"cannot be used: {error}", "warning", error.hint or "")


def _environment() -> Iterator[_Found]:
    for name, value in sorted(os.environ.items()):
        if name.startswith(_SETTINGS):
            yield _Found(name, value)
