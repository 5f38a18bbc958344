"""Label tables: which words and which coarse parents belong to a data set's own labels.

``classes.tsv``  source <TAB> key <TAB> names (";") <TAB> parents (",")
``coarse.tsv``   word <TAB> other wordings (";") <TAB> coarse words that may be in the same picture (",")
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# Data sets as they lie in the data folder, with their share of a training batch.
SHARES: dict[str, float] = {
    "tin": 0.50,
    "miniplaces": 0.16,
    "caltech101": 0.11,
    "cifar": 0.09,
    "flowers5": 0.02,
    "voc-5class-multilabel": 0.028,
    "food101-3class": 0.015,
    "malaysian-food": 0.010,
    "vegetables3": 0.010,
    "cats-dogs-horses-humans": 0.016,
    "kangaroo": 0.003,
    "raccoon": 0.003,
}
# How often a picture is listed whose class has this parent: what people photograph most, and the thin parts.
OFTEN = {"cat": 3, "dog": 2, "person": 2, "clothing": 2, "musical instrument": 2}
VAL_SETS: dict[str, str] = {"tin_val": "tin", "miniplaces_val": "miniplaces", "cifar_test": "cifar"}
# A slice of these is kept out of training and used like ``val``.
SLICED = (
    "caltech101",
    "flowers5",
    "voc-5class-multilabel",
    "vegetables3",
    "food101-3class",
    "malaysian-food",
    "cats-dogs-horses-humans",
)
SLICE_EVERY = 12


@dataclass(frozen=True)
class Label:
    """One data set label: its names (first = primary) and its parents."""

    names: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Coarse:
    """A coarse word, its other wordings, and coarse words that it does not exclude."""

    word: str
    others: tuple[str, ...]
    compatible: tuple[str, ...]


def _rows(name: str) -> list[list[str]]:
    with open(HERE / name, encoding="utf-8", newline="") as handle:
        rows = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row and not row[0].startswith("#")]


def _split(text: str, mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(mark) if part.strip())


def read_labels() -> dict[tuple[str, str], Label]:
    """(source, key) -> Label."""
    table = {}
    for row in _rows("classes.tsv"):
        source, key, names, parents = [*row, "", ""][:4]
        table[source, key] = Label(_split(names, ";"), _split(parents, ","))
    return table


def read_coarse() -> list[Coarse]:
    """All coarse words in file order."""
    found = []
    for row in _rows("coarse.tsv"):
        word, others, compatible = [*row, "", ""][:3]
        found.append(Coarse(word, _split(others, ";"), _split(compatible, ",")))
    return found
