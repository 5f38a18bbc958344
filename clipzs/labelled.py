"""Labelled images and the labels of a classifier: whether they belong together, and the images through its model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipzs.classifier import Classifier
from clipzs.errors import ClipzsError, LabelsError, quoted
from clipzs.score import Array
from clipzs.truth import Truth


@dataclass(frozen=True)
class Labelled:
    """Labelled images through a model.

    Attributes:
        vectors: float32 [n, d], of those that could be read, rows of length 1.
        answers: [n], for each the place of its class among the labels.
        numbers: [n], which of the truth they are.
        errors: number and reason of the others.
    """

    vectors: Array
    answers: NDArray[np.intp]
    numbers: NDArray[np.intp]
    errors: dict[int, str]


def columns(truth: Truth, labels: Sequence[str]) -> list[int]:
    """The place of each class of the truth among the labels.

    Raises:
        LabelsError: a class is none of them.
    """
    place = {label: number for number, label in enumerate(labels)}
    strange = [name for name in truth.classes if name not in place]
    if strange:
        raise LabelsError(
            f"the images are of classes that are no labels: {quoted(strange)}",
            hint="add them to the labels, or say which label is meant with --map FILE",
        )
    return [place[name] for name in truth.classes]


def nothing_read(truth: Truth, errors: Mapping[int, str]) -> ClipzsError:
    """What to raise where no image could be read."""
    number, error = next(iter(errors.items()))
    return ClipzsError(f"none of the {len(truth.paths):,} images could be read, e.g. {truth.paths[number]}: {error}")


def embedded(truth: Truth, classifier: Classifier, *, done: Callable[[int], object] = lambda images: None) -> Labelled:
    """Send labelled images through a model.

    Args:
        truth: labelled images.
        classifier: whose labels the classes are among, in any order.
        done: called with the number of images of each batch.

    Raises:
        LabelsError: a class is none of the labels.
        ClipzsError: no image could be read, or what made the model fail.
    """
    column = columns(truth, [label.name for label in classifier.labels])
    vectors: list[Array] = []
    errors: list[str | None] = []
    with closing(classifier.embedder.batches(truth.paths, before=lambda: classifier.label_vectors)) as batches:
        for batch in batches:
            vectors += [batch.vectors] if len(batch.vectors) else []
            errors += batch.errors
            done(len(batch.errors))
    unreadable = {number: error for number, error in enumerate(errors) if error is not None}
    if len(unreadable) == len(errors):
        raise nothing_read(truth, unreadable)
    numbers = np.flatnonzero([error is None for error in errors])
    answers = np.array([column[truth.answers[number]] for number in numbers])
    return Labelled(np.concatenate(vectors), answers, numbers, unreadable)
