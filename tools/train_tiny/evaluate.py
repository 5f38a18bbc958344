"""Measure a product: accuracy with intervals, calibration, how often each class is said.

``python -m tools.train_tiny.evaluate --data DATA --work WORK --product FOLDER [--final]``

Without ``--final`` only ``val`` and the slices kept out of training are looked at; the temperature
is fitted on ``val``. With it the held-out photos of ``eval`` are reported as well, and eval.json is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import export
from .augment import plain
from .common import parser, write_json
from .pictures import load_val
from .prompts import ENSEMBLE
from .tables import SLICED
from .targets import Targets

OTHER_WORDS = {
    "airplane": "jet plane",
    "car": "automobile",
    "bird": "sparrow",
    "cat": "kitten",
    "deer": "stag",
    "dog": "puppy",
    "frog": "toad",
    "horse": "pony",
    "ship": "vessel",
    "truck": "lorry",
}


@dataclass
class Questions:
    """Unit image vectors [n, d], right answers [n] and unit text vectors [classes, d] with their names."""

    images: torch.Tensor
    answers: torch.Tensor
    texts: torch.Tensor
    names: list[str]


@torch.inference_mode()
def text_vectors(model: Any, tokenizer: Any, names: list[str]) -> torch.Tensor:
    """Ensemble of templates: the normalised mean of the templates' unit vectors, as open_clip does it."""
    prompts = [template.format(name) for name in names for template in ENSEMBLE]
    found = [model.encode_text(tokenizer(prompts[i : i + 1000]), normalize=True) for i in range(0, len(prompts), 1000)]
    return F.normalize(torch.cat(found).view(len(names), len(ENSEMBLE), -1).mean(1), dim=-1)


@torch.inference_mode()
def photo_vectors(model: Any, preprocess: Any, files: list[Path]) -> torch.Tensor:
    """Unit image vectors [n, d] of n picture files, in their order."""
    found = []
    for i in range(0, len(files), 128):
        pictures = [preprocess(Image.open(f).convert("RGB")) for f in files[i : i + 128]]
        found.append(model.encode_image(torch.stack(pictures), normalize=True))
    return torch.cat(found)


@torch.inference_mode()
def val_questions(model: Any, tokenizer: Any, work: Path) -> dict[str, Questions]:
    """The val sets, CIFAR-10 also in other words, and the slices kept out of training."""
    targets = Targets(work / "anchors.pt")
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    found = {}
    for name, source in load_val(work, targets.of_key).items():
        rows, classes = source.held, np.unique(source.classes)
        if len(classes) < 2:
            continue
        z = torch.cat(
            [
                model.encode_image(plain(source.pixels[rows[i : i + 250]], size), normalize=True)
                for i in range(0, len(rows), 250)
            ]
        )
        answers = torch.from_numpy(np.searchsorted(classes, source.classes[rows]))
        words = [targets.classes[c][0][0] for c in classes]
        found[name] = Questions(z, answers, text_vectors(model, tokenizer, words), words)
        if name == "cifar_test":
            other = [OTHER_WORDS[w] for w in words]
            found["cifar_test_other_words"] = Questions(z, answers, text_vectors(model, tokenizer, other), other)
    return found


def eval_questions(model: Any, preprocess: Any, tokenizer: Any, data: Path) -> dict[str, Questions]:
    """The photo folders of ``eval``, labels as the folders are called."""
    found = {}
    for folder in sorted(p for p in (data / "eval").iterdir() if p.is_dir()):
        names = sorted(p.name for p in folder.iterdir())
        files = [(f, i) for i, name in enumerate(names) for f in sorted((folder / name).glob("*.jpg"))]
        z = photo_vectors(model, preprocess, [f for f, _ in files])
        found[folder.name] = Questions(
            z, torch.tensor([i for _, i in files]), text_vectors(model, tokenizer, names), names
        )
    return found


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over equally wide bins."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(sum(abs(confidence[which == b].sum() - right[which == b].sum()) for b in range(bins)) / len(right))


def measure(q: Questions, scale: float, seed: int = 0) -> dict[str, Any]:
    """Top-1 (95 % bootstrap interval), top-5, ECE and the most over-used class."""
    logits = q.images.float() @ q.texts.float().T * scale
    chance = logits.softmax(1)
    said = chance.argmax(1)
    right = (said == q.answers).numpy().astype(float)
    rng = np.random.default_rng(seed)
    draws = right[rng.integers(len(right), size=(1000, len(right)))].mean(1)
    count = torch.bincount(q.answers, minlength=len(q.names)).float()
    ratio = torch.bincount(said, minlength=len(q.names)).float() / count.clamp(min=1)
    often = int(ratio.argmax())
    result: dict[str, Any] = {
        "n": len(right),
        "classes": len(q.names),
        "top1": round(right.mean(), 4),
        "interval": [round(float(x), 4) for x in np.quantile(draws, (0.025, 0.975))],
        "ece": round(calibration_error(chance.max(1).values.numpy(), right), 4),
        "mean_confidence": round(float(chance.max(1).values.mean()), 4),
        "most_over_used": {"label": q.names[often], "times": round(float(ratio[often]), 2)},
    }
    if len(q.names) > 10:
        top = logits.topk(5, dim=1).indices
        result["top5"] = round(float((top == q.answers[:, None]).any(1).float().mean()), 4)
    return result


def fit_scale(questions: dict[str, Questions]) -> float:
    """The logit scale with the least mean negative log-likelihood, every set counting the same."""
    scales = np.exp(np.linspace(np.log(5), np.log(100), 61))
    losses = [
        np.mean(
            [F.cross_entropy(q.images.float() @ q.texts.float().T * s, q.answers).item() for q in questions.values()]
        )
        for s in scales
    ]
    return float(scales[int(np.argmin(losses))])


def main() -> None:
    """Measure the product and print it; ``--fit`` changes its weights, ``--final`` writes eval.json."""
    made = parser(__doc__)
    made.add_argument("--product", type=Path, required=True)
    made.add_argument("--final", action="store_true")
    made.add_argument("--fit", action="store_true", help="write the fitted logit scale into the weights")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    model, preprocess, tokenizer = export.load(args.product)
    val = val_questions(model, tokenizer, args.work)
    fitted = fit_scale({name: q for name, q in val.items() if name not in SLICED})
    if args.fit:
        export.set_scale(args.product, fitted)
    scale = fitted if args.fit else float(model.logit_scale.exp())
    report: dict[str, Any] = {"logit_scale": round(scale, 2), "fitted_scale": round(fitted, 2)}
    report["val"] = {name: measure(q, scale) for name, q in val.items()}
    if args.final:
        report["eval"] = {
            n: measure(q, scale) for n, q in eval_questions(model, preprocess, tokenizer, args.data).items()
        }
        report["bytes"] = (args.product / f"{export.NAME}.safetensors").stat().st_size
        report["parameters"] = sum(p.numel() for p in model.parameters())
        write_json(report, args.product / "eval.json")
    for part in ("val", "eval"):
        for name, found in report.get(part, {}).items():
            print(part, name, json.dumps(found))
    print("scale", scale, "fitted", fitted)


if __name__ == "__main__":
    main()
