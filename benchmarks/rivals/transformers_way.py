"""The job done with transformers' zero-shot-image-classification pipeline: prints the best label of each file.

    python transformers_way.py MODEL_FOLDER LABELS BATCH FILE...

BATCH 1 is a call for each image, as in its documentation; any other number hands it the list of files.
"""

import sys

from transformers import pipeline


def main(folder: str, labels: str, batch: int, files: list[str]) -> None:
    """Print the best label of each file."""
    classify = pipeline("zero-shot-image-classification", model=folder)
    how = {"candidate_labels": labels.split(","), "hypothesis_template": "a photo of a {}."}
    answers = [classify(file, **how) for file in files] if batch == 1 else classify(files, batch_size=batch, **how)
    for scores in answers:
        print(scores[0]["label"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
