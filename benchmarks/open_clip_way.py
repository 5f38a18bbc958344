"""The job done with open_clip as its README shows, as a script: what clipzs is measured against.

    python -m benchmarks.open_clip_way MODEL WEIGHTS LABELS BATCH FILE...

BATCH 0 is one forward pass an image, any other number a DataLoader with two workers.
"""

import sys

import open_clip
import torch
from PIL import Image


def main(model_name: str, weights: str, labels: str, batch: int, files: list[str]) -> None:
    """Print path and best label of each file."""
    model, _, preprocess = open_clip.create_model_and_transforms(model_name, pretrained=weights)
    model.eval()
    names = labels.split(",")
    with torch.no_grad():
        text = open_clip.get_tokenizer(model_name)([f"a photo of a {name}." for name in names])
        text_features = torch.nn.functional.normalize(model.encode_text(text), dim=-1)
        for pixels in _pixels(files, preprocess, batch):
            image_features = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
            probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
            for best in probabilities.argmax(dim=-1).tolist():
                print(names[best])


def _pixels(files, preprocess, batch):
    if batch == 0:
        return (preprocess(Image.open(file)).unsqueeze(0) for file in files)

    class Photos(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, number):
            return preprocess(Image.open(files[number]))

    return torch.utils.data.DataLoader(Photos(), batch_size=batch, num_workers=2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
