"""`python -m benchmarks.engines`: torch, OpenVINO and ONNX Runtime on image towers of several kinds, side by side.

Random weights, made here; needs `pip install onnx onnxscript onnxruntime` besides clipzs. Prints images per second
(best of several passes, in turn) and the least cosine to torch's fp32 embeddings: why clipzs compiles with OpenVINO.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from clipzs import processors
from clipzs.compiled import core, settings
from clipzs.conversion import converted
from clipzs.resolve import resolve
from clipzs.towers import OpenClipEncoder

MODELS = ("ViT-B-32", "RN50", "convnext_base", "MobileCLIP2-S0", "ViT-B-16-SigLIP2-256", "PE-Core-S-16-384")
Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    print("| model | batch | torch fp32 | ONNX Runtime fp32 | OpenVINO fp32 | torch bf16 | OpenVINO bf16 |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            engines, encoder = engines_of(name, Path(folder))
            for batch in (1, 32):
                cells = measured(engines, pixels_for(encoder, batch), options.passes)
                print(f"| {name} | {batch} | {' | '.join(cells)} |", flush=True)


def measured(engines: dict[str, Run], pixels: np.ndarray, passes: int) -> list[str]:
    """Images per second and least cosine of each engine, all in turn in each pass."""
    vectors = {name: run(pixels) for name, run in engines.items()}
    best = dict.fromkeys(engines, 0.0)
    for _ in range(passes):
        for name, run in engines.items():
            repeats, start = max(1, 8 // len(pixels)), time.perf_counter()
            for _ in range(repeats):
                run(pixels)
            best[name] = max(best[name], repeats * len(pixels) / (time.perf_counter() - start))
    exact = vectors["torch fp32"]
    return [f"{best[name]:.1f} ({(vectors[name] * exact).sum(axis=1).min():.6f})" for name in engines]


def engines_of(name: str, folder: Path) -> tuple[dict[str, Run], OpenClipEncoder]:
    """Each way to run the image tower of a random model."""
    weights = folder / "random.safetensors"
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    spec = resolve(name, str(weights))
    exact, fast = OpenClipEncoder(spec, device="cpu"), OpenClipEncoder(spec, device="cpu", precision="bf16")
    runs: dict[str, Run] = {
        "torch fp32": exact.encode_images,
        "ONNX Runtime fp32": onnx_run(exact, folder / "tower.onnx"),
        "OpenVINO fp32": openvino_run(exact, "fp32"),
        "torch bf16": fast.encode_images,
        "OpenVINO bf16": openvino_run(exact, "bf16"),
    }
    return runs, exact


def openvino_run(encoder: OpenClipEncoder, precision: str) -> Run:
    """The tower as clipzs compiles it."""
    model = converted(encoder.image_features, encoder.tower("image"), pixels_for(encoder, 2))
    compiled = core().compile_model(model, "CPU", settings(precision))
    return lambda pixels: compiled(pixels)[0]


def onnx_run(encoder: OpenClipEncoder, file: Path) -> Run:
    """The tower as torch exports it for ONNX Runtime."""
    import onnxruntime

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = encoder.tower("image")

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return encoder.image_features(pixels)

    example = torch.from_numpy(pixels_for(encoder, 2))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(Tower(), (example,), str(file), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = processors.count()
    session = onnxruntime.InferenceSession(str(file), chosen, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def pixels_for(encoder: OpenClipEncoder, batch: int) -> np.ndarray:
    """uint8 [batch, height, width, 3] of noise."""
    height, width = encoder.spec.preprocess.size
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


if __name__ == "__main__":
    main()
