"""The job done with open_clip as its README shows, as a script: prints the best label of each file.

    python open_clip_way.py WEIGHTS LABELS BATCH FILE...

BATCH 0 is one forward pass an image; any other number a DataLoader with a worker a core; a trailing "bf16" (32bf16)
puts the forward passes under autocast.
"""

import os
import sys
from contextlib import nullcontext

import open_clip
import torch
from PIL import Image

MODEL = "ViT-B-32"


def main(weights: str, labels: str, batch: str, files: list[str]) -> None:
    """Print the best label of each file."""
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, pretrained=weights)
    model.eval()
    names = labels.split(",")
    autocast = torch.autocast("cpu", torch.bfloat16) if batch.endswith("bf16") else nullcontext()
    with torch.no_grad(), autocast:
        text = open_clip.get_tokenizer(MODEL)([f"a photo of a {name}." for name in names])
        text_features = torch.nn.functional.normalize(model.encode_text(text), dim=-1)
        for pixels in batches(files, preprocess, int(batch.removesuffix("bf16"))):
            image_features = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
            probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
            for best in probabilities.argmax(dim=-1).tolist():
                print(names[best])


class Photos(torch.utils.data.Dataset):
    """Files as a model reads them."""

    def __init__(self, files, preprocess):
        self.files, self.preprocess = files, preprocess

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        return self.preprocess(Image.open(self.files[number]))


def batches(files, preprocess, batch):
    """Float32 [b, 3, 224, 224], one after the other."""
    photos = Photos(files, preprocess)
    if batch == 0:
        return (photos[number].unsqueeze(0) for number in range(len(photos)))
    return torch.utils.data.DataLoader(photos, batch_size=batch, num_workers=os.cpu_count() or 1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
