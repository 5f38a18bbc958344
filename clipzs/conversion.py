"""torch's towers → towers compiled by OpenVINO, proven to give the same embeddings before they are kept."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipzs.agreement import TEXTS, least_cosine_of_images, least_cosine_of_texts, probe_images
from clipzs.checkpoint import short
from clipzs.compiled import (
    MANIFEST,
    TOKENIZER,
    TOWERS,
    CompiledEncoder,
    CompiledModel,
    CompiledProblem,
    core,
    sealed,
    settings,
    sha256,
)
from clipzs.encoder import Pixels, Progress
from clipzs.encoders import encoder_for
from clipzs.errors import ModelError
from clipzs.importing import without
from clipzs.memory import ran_out
from clipzs.privatefiles import durable, make_folder
from clipzs.towers import OpenClipEncoder

if TYPE_CHECKING:
    import torch

LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.9998}
_ABANDONED_S = 3600.0  # after which an unfinished folder is taken to be of a process that died
_LIMITS = ("Resource temporarily unavailable", "start new thread")  # on threads: another run may have more
_MEMORY_FACTOR, _DISK_FACTOR = 3.0, 1.2


def compile_model(
    target: CompiledModel, *, limit: int = 0, sample: Pixels | None = None, progress: Progress | None = None
) -> None:
    """Compile both towers of a model into its place in the cache, or note there why that cannot be.

    Args:
        target: the place.
        limit: bytes that the cache may have; 0 is without limit.
        sample: uint8 [b, height, width, 3], real images to prove it with besides noise.
        progress: called with the steps done and their number.

    Raises:
        CompiledProblem: not now: too little memory or room on the disk, or in the cache.
        OSError: the cache cannot be written.
    """
    _check_room(target, limit)
    encoder = encoder_for(target.spec, device="cpu", precision="fp32")
    with _staged(target) as folder:
        manifest: dict[str, Any] = {"determinants": target.determinants, "files": {}}
        try:
            _require_instructions(target.precision)
            manifest |= _compiled(encoder, target, folder, sample, progress or (lambda done, total: None))
        except CompiledProblem as problem:
            manifest |= {"refused": str(problem)}
        except (OSError, MemoryError, ModelError):
            raise
        except Exception as error:  # of the tracer, the converter or the engine: torch goes on doing the work
            if ran_out(error) or any(sign in str(error) for sign in _LIMITS):
                raise CompiledProblem(f"too little memory or too few threads to compile {target.spec.name}") from error
            manifest |= {"refused": f"it could not be compiled: {short(error)}"}
        if manifest["refused"]:
            manifest["files"] = {}
            for file in folder.iterdir():
                file.unlink()
        _write(folder / MANIFEST, sealed(manifest))


def _require_instructions(precision: str) -> None:
    if precision == "bf16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CompiledProblem("this CPU has no instructions for bf16")


def _compiled(
    encoder: OpenClipEncoder, target: CompiledModel, folder: Path, sample: Pixels | None, progress: Progress
) -> dict[str, Any]:
    """The towers as files in `folder`, and their manifest with what the proof has shown."""
    done, steps = 0, len(TOWERS) + 1
    progress(done, steps)
    manifest: dict[str, Any] = {
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "text_end": encoder.text_end,
        "files": {},
    }
    _write(folder / TOKENIZER, json.dumps(encoder.tokenizer.stored()).encode())
    for tower, features, example in (
        ("image", encoder.image_features, _images(encoder, None)),
        ("text", encoder.text_features, encoder.tokenize(TEXTS).ids),
    ):
        path = folder / f"{tower}.blob"
        any_length = tower == "text" and encoder.text_end is not None
        model = converted(features, encoder.tower(tower), example[:2], any_length=any_length)
        _write(path, core().compile_model(model, "CPU", settings(target.precision)).export_model().getbuffer())
        progress(done := done + 1, steps)
    manifest["files"] = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    cosine = _agreement(encoder, CompiledEncoder(folder, manifest, target.spec, target.precision), sample)
    progress(steps, steps)
    least = LEAST_COSINE[target.precision]
    refused = (
        None
        if cosine >= least
        else (f"compiled, its embeddings differ too much in {target.precision} (cosine {cosine:.6f}, {least} wanted)")
    )
    return manifest | {"cosine": f"{cosine:.8f}", "refused": refused}


def converted(
    features: "Callable[[torch.Tensor], torch.Tensor]", tower: Any, example: Any, *, any_length: bool = False
) -> Any:
    """A tower as an OpenVINO model for batches of any size, by way of a trace.

    Args:
        features: from an input tensor to the output, by way of the tower.
        tower: the torch module whose weights those are.
        example: an input array of two rows.
        any_length: whether the second dimension may vary too.
    """
    import torch

    with without("openvino.tools.ovc"):  # its converters, which send usage statistics when they are only imported
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return features(given)

    given = torch.from_numpy(example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of shapes taken for constants, which `_agreement` shows to be harmless
        traced = torch.jit.trace(Traced(), (given,), check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=given)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, -1 if any_length else example.shape[1], *example.shape[2:]])
    return model


def _agreement(encoder: OpenClipEncoder, compiled: CompiledEncoder, sample: Pixels | None) -> float:
    """The least cosine between both encoders' embeddings of images and texts."""
    images = least_cosine_of_images(encoder, compiled, _images(encoder, sample))
    return min(images, least_cosine_of_texts(encoder, compiled))


def _images(encoder: OpenClipEncoder, sample: Pixels | None) -> Pixels:
    """uint8 [b, height, width, 3]: those to probe with, and the real ones."""
    return np.concatenate([probe_images(encoder.spec.preprocess.size), *([] if sample is None else [sample])])


def _check_room(target: CompiledModel, limit: int) -> None:
    """Refuse what would fill the memory or the disk, or would be pruned at once."""
    weights = target.spec.weights.stat().st_size
    if 0 < limit < _DISK_FACTOR * weights:
        raise CompiledProblem(f"--cache-limit leaves no room for a compiled {target.spec.name}")
    make_folder(target.folder.parent)
    if shutil.disk_usage(target.folder.parent).free < _DISK_FACTOR * weights:
        raise CompiledProblem(f"too little room in {target.folder.parent} for a compiled {target.spec.name}")
    if (free := _available_memory()) is not None and free < _MEMORY_FACTOR * weights:
        raise CompiledProblem(f"too little memory to compile {target.spec.name}")


def _available_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


@contextmanager
def _staged(target: CompiledModel) -> Iterator[Path]:
    """A folder to write in, that takes its place in one step at the end; another process may have been first."""
    folder = target.folder.with_name(f".{target.folder.name}.{os.getpid()}")
    _sweep(target.folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
        if target.manifest() is None:
            target.discard()
        try:
            folder.rename(target.folder)
        except OSError:
            if not target.folder.exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Delete what processes that died while compiling have left."""
    for folder in parent.glob(".*.*"):
        try:
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _write(path: Path, data: Any) -> None:
    with durable(path) as file:
        file.write(data)
