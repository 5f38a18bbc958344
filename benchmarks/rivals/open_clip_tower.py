"""open_clip's image tower alone, images already pixels: prints images/s, best batch of 32 within the seconds.

python open_clip_tower.py WEIGHTS SECONDS
"""

import sys
import time

import open_clip
import torch


def main(weights: str, seconds: float) -> None:
    """Time forward passes."""
    model, _, _ = open_clip.create_model_and_transforms("ViT-B-32", pretrained=weights)
    model.eval()
    pixels, best = torch.rand(32, 3, 224, 224), 0.0
    end = time.perf_counter() + seconds
    with torch.no_grad():
        model.encode_image(pixels)
        while not best or time.perf_counter() < end:
            start = time.perf_counter()
            model.encode_image(pixels)
            best = max(best, len(pixels) / (time.perf_counter() - start))
    print(best)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
