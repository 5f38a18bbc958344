"""Stage 3: the joint space and the fixed text anchors that the image tower is trained towards.

The space is a centred, partly whitened PCA of the teacher's space over ImageNet-21k nouns. A word's
concept is its own vector, mixed with its gloss and (for labels) with its parents.

``python -m tools.train_tiny.anchors --data DATA --work WORK``
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .common import DIM, parser, save
from .tables import SHARES, Label, read_coarse, read_labels
from .teacher import Teacher, read_list

WHITEN, GLOSS, PARENT = 0.3, 0.4, 0.3


@dataclass
class Space:
    """Teacher vector [384] -> unit vector [DIM]."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Teacher vectors [n, 384] of any length and float type -> float32 unit vectors [n, DIM]."""
        return F.normalize((F.normalize(vectors.float(), dim=-1) - self.mean) @ self.matrix, dim=-1)


class Glossary:
    """Teacher vectors of the glosses of a name, by timm's ImageNet-21k lemma and definition lists."""

    def __init__(self, data: Path, work: Path) -> None:
        info = importlib.resources.files("timm.data._info")
        rows = {text: i for i, text in enumerate(read_list(data, "gloss"))}
        vectors = np.load(work / "teacher" / "gloss.npy")
        self.vectors = torch.from_numpy(vectors).float()
        self.by_name: dict[str, list[int]] = {}
        self.by_synset: dict[str, int] = {}
        for line in (info / "imagenet_synset_to_definition.txt").read_text().splitlines():
            synset, text = line.split("\t")
            if text in rows:
                self.by_synset[synset] = rows[text]
        for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines():
            synset, names = line.split("\t")
            for name in names.split(","):
                if synset in self.by_synset:
                    self.by_name.setdefault(name.strip().lower(), []).append(self.by_synset[synset])

    def mix(self, names: list[str], vectors: torch.Tensor, synset: str | None = None) -> torch.Tensor:
        """Add to each name's vector [n, 384] the gloss that is nearest to it (or the synset's own)."""
        out = vectors.clone()
        for i, name in enumerate(names):
            rows = [self.by_synset[synset]] if synset in self.by_synset else self.by_name.get(name.lower(), [])
            if rows:
                glosses = self.vectors[rows]
                out[i] += GLOSS * glosses[(glosses @ vectors[i]).argmax()]
        return F.normalize(out, dim=-1)


def fit_space(vectors: torch.Tensor) -> Space:
    """PCA with exponent-WHITEN scaling of the axes."""
    mean = vectors.mean(0)
    _, values, axes = torch.linalg.svd(vectors - mean, full_matrices=False)
    variance = values[:DIM] ** 2
    return Space(mean, axes[:DIM].T * (variance / variance.mean()) ** (-WHITEN / 2))


def merge(labels: dict[tuple[str, str], Label], work: Path) -> tuple[list[Label], list[str], dict[str, list[int]]]:
    """One class per primary name: (classes, a synset or "" for each, class of every source's keys)."""
    names: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    synset: dict[str, str] = {}
    keys: dict[str, list[str]] = {}
    for source in SHARES:
        listed = json.loads((work / "pixels" / f"{source}.json").read_text())["keys"]
        keys[source] = [labels[source, key].names[0] for key in listed]
        for key in listed:
            label = labels[source, key]
            first = label.names[0]
            names[first] = list(dict.fromkeys(names.get(first, []) + list(label.names)))
            parents[first] = list(dict.fromkeys(parents.get(first, []) + list(label.parents)))
            if source == "tin":
                synset[first] = key
    order = {name: i for i, name in enumerate(names)}
    classes = [Label(tuple(names[n]), tuple(parents[n])) for n in names]
    return classes, [synset.get(n, "") for n in names], {s: [order[n] for n in k] for s, k in keys.items()}


def main() -> None:
    """Write WORK/anchors.pt: the space, the anchors of classes and coarse words, and the vocabulary's vectors."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    teacher, glossary = Teacher(), Glossary(args.data, args.work)
    nouns = read_list(args.data, "21k")
    noun_vectors = torch.from_numpy(np.load(args.work / "teacher" / "21k.npy")).float()
    noun_vectors = glossary.mix(nouns, F.normalize(noun_vectors, dim=-1))
    space = fit_space(noun_vectors)
    coarse = read_coarse()
    classes, synsets, of_key = merge(read_labels(), args.work)

    raw = {c.word: teacher([c.word, *c.others]) for c in coarse}
    coarse_variants = [space(glossary.mix([c.word, *c.others], raw[c.word])) for c in coarse]
    class_variants = []
    for label, synset in zip(classes, synsets, strict=True):
        own = glossary.mix(list(label.names), teacher(list(label.names)), synset or None)
        if label.parents:
            own = own + PARENT * F.normalize(sum(raw[p][0] for p in label.parents), dim=-1)
        class_variants.append(space(own))
    save(
        {
            "mean": space.mean,
            "matrix": space.matrix,
            "classes": [(c.names, c.parents) for c in classes],
            "coarse": [(c.word, c.others, c.compatible) for c in coarse],
            "class_variants": class_variants,
            "coarse_variants": coarse_variants,
            "of_key": of_key,
            "nouns": nouns,
            "noun_vectors": space(noun_vectors).half(),
        },
        args.work / "anchors.pt",
    )
    print(len(classes), "classes,", len(coarse), "coarse words")
    centres = torch.stack([v[0] for v in class_variants] + [v[0] for v in coarse_variants])
    listed = [c.names[0] for c in classes] + [c.word for c in coarse]
    for word in ("violin", "giraffe", "couch", "wolf", "child", "t-shirt", "bicycle"):
        near = (space(teacher([word])) @ centres.T)[0].topk(4).indices.tolist()
        print(word, "->", ", ".join(listed[i] for i in near))


if __name__ == "__main__":
    main()
