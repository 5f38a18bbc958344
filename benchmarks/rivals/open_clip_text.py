"""Label embeddings with open_clip's own `build_zero_shot_classifier`, and what they say of one photo.

    python open_clip_text.py WEIGHTS LABELS_FILE PHOTO

Prints a JSON line: seconds in that function alone, the number of prompts, and the photo's best label.
"""

import json
import sys
import time
from pathlib import Path

import open_clip
import torch
from PIL import Image

MODEL = "ViT-B-32"


def main(weights: str, labels_file: str, photo: str) -> None:
    """Time it."""
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, pretrained=weights)
    model.eval()
    tokenizer = open_clip.get_tokenizer(MODEL)
    labels = Path(labels_file).read_text().splitlines()
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    start = time.perf_counter()
    weights = open_clip.build_zero_shot_classifier(model, tokenizer, labels, templates)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open(photo)).unsqueeze(0), normalize=True)
    best = labels[int((image @ weights).argmax())]
    print(json.dumps({"seconds": seconds, "prompts": len(labels) * len(templates), "best": best}))


if __name__ == "__main__":
    main(*sys.argv[1:])
