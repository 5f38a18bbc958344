"""The classes to choose among: named on the command line or in code, checked. Files are read by `labelfiles`."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipzs.errors import LabelsError


@dataclass(frozen=True)
class Tuned:
    """What some labels were tuned for, all of them together.

    Attributes:
        model: the name of the model.
        digest: of that model.
        labels: how many they are.
        logit_scale: what similarities are multiplied with in place of the model's own; None keeps that.
    """

    model: str
    digest: str
    labels: int
    logit_scale: float | None = None


@dataclass(frozen=True)
class Label:
    """One class.

    `aliases` are other words for it: their prompts join its average. `prompts` replace the
    templates for this label (a `<>` in them is filled with the name). `group` names a coarser class.
    `threshold` is the score from which on it is an answer. `weights` say how much each of the `prompts`
    counts; without them all count the same. `tuned` is what thresholds and weights were fitted to.
    """

    name: str
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    group: str | None = None
    threshold: float | None = None
    weights: tuple[float, ...] = ()
    tuned: Tuned | None = None


def split_commas(text: str) -> list[str]:
    """Labels of a comma-separated text; CSV quotes keep a comma inside a label.

    >>> split_commas('"salt, pepper", sugar')
    ['salt, pepper', 'sugar']

    Raises:
        LabelsError: an opening quote without its end.
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise LabelsError(
            f"labels {text!r}: {error}", hint="quote like CSV: --labels '\"salt, pepper\",sugar'"
        ) from error
    return [cell.strip() for row in rows for cell in row]


def from_names(names: Iterable[str]) -> list[Label]:
    """Plain labels without aliases."""
    return [Label(name.strip()) for name in names]


def checked(labels: Sequence[Label], *, least: int = 2) -> tuple[Label, ...]:
    """The labels, if they can be chosen among.

    Args:
        labels: in the order they were given.
        least: how many there must be: two where scores are shared among them.

    Raises:
        LabelsError: none, too few, an empty one, one that occurs twice, or one that is not Unicode text.
    """
    if not labels:
        raise LabelsError("no labels given", hint="name at least two: --labels cat,dog or --labels-file FILE")
    names = [label.name for label in labels]
    if not all(names):
        raise LabelsError(
            f"label {names.index('') + 1} of {len(names)} is empty", hint="look for two commas in a row in --labels"
        )
    broken = next((text for label in labels for text in _texts_of(label) if _is_broken(text)), None)
    if broken is not None:
        raise LabelsError(f"label {broken!r} is not Unicode text", hint="labels are read as UTF-8")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise LabelsError(
            f"given twice: {', '.join(twice)}", hint="name each label once; other words for it are `aliases` in YAML"
        )
    wrong = next((label for label in labels if not _weighs(label)), None)
    if wrong is not None:
        raise LabelsError(f"label {wrong.name!r} needs a weight above 0 for each of its {len(wrong.prompts)} prompts")
    if len(labels) < least:
        raise LabelsError(
            f"only one label given: {names[0]}",
            hint=f"a softmax over one class is always 1: add what else it could be (--labels {names[0]},other), "
            "ask whether it is one with --unknown, or for the raw similarity with --score cosine",
        )
    return tuple(labels)


def _weighs(label: Label) -> bool:
    return len(label.weights) in (0, len(label.prompts)) and all(0 < weight < math.inf for weight in label.weights)


def _texts_of(label: Label) -> tuple[str, ...]:
    return (label.name, *label.aliases, *label.prompts, label.group or "")


def _is_broken(text: str) -> bool:
    """Whether there are lone surrogates in it: bytes of an argument that are not UTF-8, or halves of a JSON escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
