"""clipzs' image tower alone, images already pixels: prints images/s, best batch of 32 within the seconds.

python -m benchmarks.tower WEIGHTS CACHE PRECISION SECONDS
"""

import sys
import time
from pathlib import Path

import numpy as np

from clipzs import Classifier


def main(weights: str, cache: str, precision: str, seconds: float) -> None:
    """Time calls of the encoder that `clipzs classify` uses."""
    how = {"model": "ViT-B-32", "pretrained": weights, "cache_dir": Path(cache), "precision": precision}
    encoder = Classifier(["cat", "dog"], device="cpu", **how).encoder
    pixels = np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), np.uint8)
    encoder.encode_images(pixels)
    end, best = time.perf_counter() + seconds, 0.0
    while not best or time.perf_counter() < end:
        start = time.perf_counter()
        encoder.encode_images(pixels)
        best = max(best, len(pixels) / (time.perf_counter() - start))
    print(best)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
