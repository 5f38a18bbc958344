"""The machine's limit: the fastest matrix product each library can do here. Prints JSON, GFLOP/s by name.

    python gemm.py SECONDS

Counts only what is exact to its type: a library may compute "float32" in bf16 if allowed to.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SHAPES = [(1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096), (1600, 3072, 768), (1600, 768, 3072)]  # m, n, k
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
Product = Callable[[], Any]


def main(seconds: float) -> None:
    """Try every library, precision and shape."""
    best: dict[str, float] = {}
    ways = [way for library in (torch_products, openvino_products) for way in library()]
    for name, prepare in ways:
        for shape in SHAPES:
            m, n, k = shape
            rng = np.random.default_rng(0)
            a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
            product, result = prepare(a, b)
            product()
            expected = a[:64] @ b
            error = float(np.abs(result()[:64] - expected).max() / np.abs(expected).max())
            if error > TOLERANCE[name.split()[-1]]:
                continue
            flops = 2.0 * m * n * k
            best[name] = max(best.get(name, 0.0), flops / fastest(product, seconds / len(ways) / len(SHAPES)) / 1e9)
    print(json.dumps({name: round(value, 1) for name, value in best.items()}))


def fastest(product: Product, seconds: float) -> float:
    """Of as many tries as the time allows."""
    end, best = time.perf_counter() + seconds, float("inf")
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return best


def torch_products() -> Iterator[tuple[str, Any]]:
    """Through MKL, through oneDNN, and in bf16."""
    try:
        import torch
    except ImportError:
        return

    def prepare(kind: Any, precision: str) -> Any:
        def make(a: Any, b: Any) -> Any:
            torch.set_float32_matmul_precision(precision)
            # as a linear layer's weights lie in memory
            x, w = torch.from_numpy(a).to(kind), torch.from_numpy(b.T.copy()).to(kind)
            product = lambda: torch.nn.functional.linear(x, w)  # noqa: E731
            return product, lambda: product().float().numpy()

        return make

    with torch.inference_mode():
        yield "torch fp32", prepare(torch.float32, "highest")
        yield "torch oneDNN fp32", prepare(torch.float32, "medium")
        yield "torch bf16", prepare(torch.bfloat16, "highest")


def openvino_products() -> Iterator[tuple[str, Any]]:
    """As one layer of a compiled model."""
    try:
        import openvino as ov
        from openvino import opset13 as ops
    except ImportError:
        return

    def prepare(precision: str) -> Any:
        def make(a: Any, b: Any) -> Any:
            parameter = ops.parameter(a.shape, np.float32)
            model = ov.Model([ops.matmul(parameter, ops.constant(b), False, False)], [parameter])
            how = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
            request = ov.Core().compile_model(model, "CPU", how).create_infer_request()
            request.set_input_tensor(ov.Tensor(a, shared_memory=True))
            return request.infer, lambda: request.get_output_tensor(0).data.copy()

        return make

    yield "openvino fp32", prepare("f32")
    yield "openvino bf16", prepare("bf16")


if __name__ == "__main__":
    main(float(sys.argv[1]))
