"""Everyday questions of two to five words, on val and the slices kept out of training: what changes are chosen by.

``python -m tools.train_tiny.everyday --data DATA --work WORK --product FOLDER [FOLDER ...]``

A picture counts for the label that its class is called, or that is one of its parents. Each label of a
question counts the same, however many pictures it has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import export
from .augment import plain
from .common import parser, write_json
from .evaluate import text_vectors
from .pictures import Source, load_val
from .targets import Targets

# label -> (sets, classes or parents); no classes: a label that no picture has
SETS = ("tin_val", "cifar_test", "caltech101", "voc-5class-multilabel", "cats-dogs-horses-humans", "miniplaces_val")
ALL, TIN, CIFAR, VOC = SETS, SETS[:1], SETS[1:2], SETS[3:4]
PEOPLE = (("caltech101", "cats-dogs-horses-humans"), ("face", "person"))
Pictures = tuple[tuple[str, ...], tuple[str, ...]]
NONE: Pictures = ((), ())
QUESTIONS: tuple[dict[str, Pictures], ...] = (
    {"cat": (TIN, ("cat",)), "dog": (TIN, ("dog",))},
    {"cat": (CIFAR, ("cat",)), "dog": (CIFAR, ("dog",))},
    {"cat": (VOC, ("cat",)), "dog": (("caltech101",), ("dog",))},
    {"bear": (ALL, ("bear",)), "dog": (TIN, ("dog",)), "cat": (TIN, ("cat",))},
    {"goose": (ALL, ("goose",)), "dog": (TIN, ("dog",)), "duck": NONE},
    {"bird": ((*TIN, *CIFAR), ("bird",)), "dog": ((*TIN, *CIFAR), ("dog",)), "cat": ((*TIN, *CIFAR), ("cat",))},
    {
        "guitar": (ALL, ("electric guitar",)),
        "piano": (ALL, ("grand piano",)),
        "violin": NONE,
        "dog": (TIN, ("dog",)),
    },
    {
        "musical instrument": (ALL, ("musical instrument",)),
        "dog": (TIN, ("dog",)),
        "person": PEOPLE,
        "car": (ALL, ("car",)),
    },
    {"person": PEOPLE, "dog": (ALL[:1] + ALL[2:], ("dog",))},
    {"person": PEOPLE, "dog": (TIN, ("dog",)), "cat": (TIN, ("cat",)), "horse": (ALL, ("horse",))},
    {"bus": (ALL, ("bus",)), "car": (ALL, ("car",)), "bicycle": NONE, "train": ((*TIN, *VOC), ("train",))},
    {
        "boat": (SETS[:3], ("boat",)),
        "airplane": (ALL, ("airplane",)),
        "car": (SETS[:2], ("car",)),
        "motorcycle": (ALL, ("motorcycle",)),
    },
    {"elephant": (ALL, ("elephant",)), "lion": (ALL, ("lion",)), "monkey": (ALL, ("monkey",)), "giraffe": NONE},
    {"cow": (ALL, ("ox",)), "sheep": (ALL, ("sheep",)), "pig": (ALL, ("pig",)), "horse": (ALL, ("horse",))},
    {
        "shirt": (ALL, ("shirt",)),
        "dress": (TIN, ("dress",)),
        "shoe": (TIN, ("shoe",)),
        "hat": (ALL, ("hat",)),
        "socks": (ALL, ("socks",)),
    },
    {
        "clothes": (ALL, ("clothing",)),
        "food": (ALL, ("food",)),
        "animal": (TIN, ("animal",)),
        "building": (TIN, ("building",)),
    },
    {
        "pizza": (ALL, ("pizza",)),
        "ice cream": (ALL, ("ice cream",)),
        "banana": (ALL, ("banana",)),
        "coffee": (ALL, ("coffee",)),
    },
    {
        "beach": (ALL, ("beach",)),
        "mountain": (ALL, ("mountain",)),
        "forest": (ALL, ("forest",)),
        "street": (ALL, ("road",)),
    },
    {
        "kitchen": (ALL, ("kitchen",)),
        "bedroom": (ALL, ("bedroom",)),
        "office": (ALL, ("office",)),
        "church": (ALL, ("church",)),
    },
    {
        "chair": (ALL, ("chair", "rocking chair")),
        "table": (ALL, ("dining table", "desk")),
        "lamp": (ALL, ("lamp", "table lamp")),
        "clock": (ALL, ("clock",)),
    },
    {
        "butterfly": (ALL, ("butterfly",)),
        "spider": (ALL, ("spider",)),
        "bee": (ALL, ("bee",)),
        "ant": (ALL, ("ant",)),
    },
    {"person": PEOPLE, "car": (ALL, ("car",)), "building": (TIN, ("building",)), "tree": (ALL, ("tree",))},
)


@dataclass
class Answer:
    """Means over a question's labels that pictures have: share right, score of the answer; and the label said most.

    ``often`` is how often that label is said, as a multiple of one label's part.
    """

    right: float
    score: float
    most: str
    often: float


def rows(source: Source, targets: Targets, kinds: tuple[str, ...]) -> np.ndarray:
    """Places in ``source.held`` of the pictures whose class has one of these names or parents."""
    wanted = np.array([bool(set(kinds) & {*names, *parents}) for names, parents in targets.classes])
    return np.flatnonzero(wanted[source.classes[source.held]])


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, val: dict[str, Source], targets: Targets) -> list[Answer]:
    """What the model makes of QUESTIONS, in their order."""
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    z = {}
    for name in SETS:
        parts = np.array_split(val[name].held, max(1, len(val[name].held) // 250))
        z[name] = torch.cat([model.encode_image(plain(val[name].pixels[p], size), normalize=True) for p in parts])
    found = []
    for question in QUESTIONS:
        texts = text_vectors(model, tokenizer, list(question)).T * model.logit_scale.exp()
        right, score, said = [], [], torch.zeros(len(question))
        for i, (sets, kinds) in enumerate(question.values()):
            if not kinds:
                continue
            best = (torch.cat([z[name][rows(val[name], targets, kinds)] for name in sets]) @ texts).softmax(1).max(1)
            right.append((best.indices == i).float().mean().item())
            score.append(best.values.mean().item())
            said += torch.bincount(best.indices, minlength=len(question)) / len(best.indices)
        most = int(said.argmax())
        found.append(Answer(float(np.mean(right)), float(np.mean(score)), list(question)[most], said[most].item()))
    return found


def main() -> None:
    """Print a table of the questions and the products; write everyday.json into each product's folder."""
    made = parser(__doc__)
    made.add_argument("--product", type=Path, nargs="+", required=True)
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    targets = Targets(args.work / "anchors.pt")
    val = load_val(args.work, targets.of_key)
    columns = []
    for folder in args.product:
        model, _, tokenizer = export.load(folder)
        columns.append(answers(model, tokenizer, val, targets))
        mean = {key: float(np.mean([getattr(a, key) for a in columns[-1]])) for key in ("right", "score")}
        told = [{"labels": list(q), **asdict(a)} for q, a in zip(QUESTIONS, columns[-1], strict=True)]
        write_json({"questions": told, "mean": mean}, folder / "everyday.json")
    print("| question | " + " | ".join(folder.name for folder in args.product) + " |")
    print("|---|" + "---|" * len(columns))
    for question, *line in zip(QUESTIONS, *columns, strict=True):
        cells = (f"{a.right:.1%}, says {a.score:.0%}; {a.most} {a.often:.2f}x" for a in line)
        print(f"| {', '.join(question)} | " + " | ".join(cells) + " |")
    means = (f"{np.mean([a.right for a in c]):.1%}, says {np.mean([a.score for a in c]):.0%}" for c in columns)
    print("| mean | " + " | ".join(means) + " |")


if __name__ == "__main__":
    main()
