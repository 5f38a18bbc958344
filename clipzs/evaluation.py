"""Answers held against the truth: each model sees the images once, each choice of prompts has its figures."""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipzs import defaults, metrics
from clipzs.classifier import Classifier
from clipzs.errors import quoted
from clipzs.labelled import columns, nothing_read
from clipzs.metrics import Figure, Floats, Outcomes, Places
from clipzs.results import Result
from clipzs.score import Array
from clipzs.truth import Truth

log = logging.getLogger("clipzs")

OVERALL = (
    "top1",
    "top5",
    "mean_recall",
    "ece",
    "nll",
    "answered",
    "top1_answered",
)  # names of the figures of all classes together
PAIRS = 10  # of confused classes


@dataclass(frozen=True)
class ClassFigures:
    """How one class fared."""

    label: str
    images: int
    precision: Figure
    recall: Figure
    f1: Figure


@dataclass(frozen=True)
class Confused:
    """A class, what some of its images are called instead, and what share of them."""

    truth: str
    answer: str
    images: int
    share: Figure


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in (above, up_to]: how many, its mean, and the share of right answers."""

    above: float
    up_to: float
    images: int
    confidence: float
    accuracy: Figure


@dataclass(frozen=True)
class Measured:
    """All figures of one set of answers.

    Attributes:
        labels: how many there were to choose among.
        images: how many were answered.
        overall: by the names in `OVERALL`.
        ece_by_chance: the calibration error that perfect probabilities would show on so few images.
        classes: of each label that is the truth or the answer of an image, in the order of the labels.
        confused: the pairs with most images.
        bins: of confidence, lowest first.
        confusion: [m, m], images by true class and answer, of the labels in `classes`.
        samples: float64 [resamples, 7], the figures in `OVERALL` of images drawn again.
    """

    labels: int
    images: int
    overall: dict[str, Figure]
    ece_by_chance: float
    classes: tuple[ClassFigures, ...]
    confused: tuple[Confused, ...]
    bins: tuple[Bin, ...]
    confusion: Places
    samples: Floats

    def minus(self, other: "Measured") -> dict[str, Figure]:
        """By how much figures differ from those of other answers to the same images, measured with the same seed.

        The same images are drawn for both, so that what is hard about them for both does not widen the interval.
        """
        ends = metrics.intervals(self.samples - other.samples)
        return {
            name: Figure(self.overall[name].value - other.overall[name].value, *ends[place])
            for place, name in enumerate(OVERALL)
        }

    def as_json(self) -> dict[str, Any]:
        """What `clipzs eval --json` says of one cell, but for what it is a cell of."""
        return {
            "labels": self.labels,
            "figures": {
                **{name: figure.as_json() for name, figure in self.overall.items()},
                "ece_by_chance": _number(self.ece_by_chance),
            },
            "classes": [_as_json(one) for one in self.classes],
            "confused": [_as_json(one) for one in self.confused],
            "confusion": {"labels": [one.label for one in self.classes], "images": self.confusion.tolist()},
            "reliability": [_as_json(one) for one in self.bins],
        }


@dataclass(frozen=True)
class Cell:
    """One model with one choice of prompts.

    Attributes:
        model: its name.
        templates: the sets and single templates, or the head's file.
        config: of its records.
        measured: its figures.
        difference: to the first cell; None for that one itself.
    """

    model: str
    templates: tuple[str, ...]
    config: str
    measured: Measured
    difference: dict[str, Figure] | None = None

    def as_json(self) -> dict[str, Any]:
        """What it is a cell of, and its figures."""
        return {
            "model": self.model,
            "templates": list(self.templates),
            "config": self.config,
            **self.measured.as_json(),
            "difference": self.difference and {name: figure.as_json() for name, figure in self.difference.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        truth: all labelled images.
        unreadable: number and reason of those that some model could not be given; they are in no figure.
        seed: of the bootstrap.
        cells: at least one; the same images for all.
    """

    truth: Truth
    unreadable: dict[int, str]
    seed: int
    cells: tuple[Cell, ...]

    def as_json(self) -> dict[str, Any]:
        """The document of `clipzs eval --json`; its keys are promised."""
        return {
            "images": len(self.truth.paths) - len(self.unreadable),
            "unreadable": [
                {"path": self.truth.paths[number], "truth": self.class_of(number), "error": error}
                for number, error in self.unreadable.items()
            ],
            "classes": list(self.truth.classes),
            "seed": self.seed,
            "resamples": metrics.RESAMPLES,
            "level": metrics.LEVEL,
            "cells": [cell.as_json() for cell in self.cells],
        }

    def class_of(self, number: int) -> str:
        """The true class of an image by its number."""
        return self.truth.classes[self.truth.answers[number]]


def evaluate(
    truth: Truth,
    models: Iterable[Sequence[Classifier]],
    *,
    seed: int = 0,
    done: Callable[[int], object] = lambda images: None,
    save: Callable[[Sequence[Result]], object] | None = None,
) -> Evaluation:
    """Measure each classifier on the same labelled images.

    An image that cannot be read for some model is in no figure of any.

    Args:
        truth: labelled images, of classes that are labels (see `check`).
        models: for each model its classifiers, which share an embedder and differ in their prompts. All images go
            through one model after the other.
        seed: of the bootstrap.
        done: called with the number of images of each batch.
        save: is given the predictions, a batch and a classifier at a time.

    Raises:
        ClipzsError: no image could be read, or what made a model fail.
    """
    passes = [_passed(truth, row, done, save) for row in models]
    unreadable = {number: error for one in passes for number, error in one.errors.items()}
    if len(unreadable) == len(truth.paths):
        raise nothing_read(truth, unreadable)
    cells: list[Cell] = []
    for one in passes:
        common = np.flatnonzero([number not in unreadable for number in one.read])
        for answers in one.answers:
            measured = measure(answers.names, answers.outcomes.at(common), seed=seed)
            difference = measured.minus(cells[0].measured) if cells else None
            cells.append(Cell(answers.model, answers.templates, answers.config, measured, difference))
    return Evaluation(truth, dict(sorted(unreadable.items())), seed, tuple(cells))


def check(truth: Truth, labels: Sequence[str], *, unknown: str | None = None) -> None:
    """See that each class of the truth can be answered; warn of labels that can only be wrong.

    Args:
        truth: labelled images.
        labels: to choose among.
        unknown: the answer where no label is, if it has a probability of its own; it may be a class, too.

    Raises:
        LabelsError: a class is none of the labels.
    """
    columns(truth, [*labels, *([unknown] if unknown else [])])
    idle = [label for label in labels if label not in truth.classes]
    if idle:
        log.warning("no images of %s: as an answer always wrong", quoted(idle))


def measure(names: Sequence[str], outcomes: Outcomes, *, seed: int) -> Measured:
    """All figures with their intervals.

    Args:
        names: of the c labels to choose among.
        outcomes: of at least one image among c classes.
        seed: of the bootstrap.
    """
    among = outcomes.classes
    outcomes, columns = outcomes.occurring()
    labels, pairs = [names[column] for column in columns], metrics.most_confused(outcomes, PAIRS)

    def statistic(chosen: Places) -> Floats:
        """Seven figures, three of each class, one of each pair, one of each bin."""
        some = outcomes.at(chosen)
        classes = metrics.per_class(some)
        shares = [metrics.confused_share(some, *pair) for pair in pairs]
        accuracy = metrics.reliability(some).accuracy
        overall = [_overall(some, among)[name] for name in OVERALL]
        return np.concatenate([overall, classes.precision, classes.recall, classes.f1, shares, accuracy])

    values = statistic(np.arange(len(outcomes)))
    samples = metrics.bootstrap(statistic, len(outcomes), seed=seed)
    ends, ece = metrics.intervals(samples), OVERALL.index("ece")
    chance = metrics.errors_by_chance(outcomes, seed=seed)
    ends[ece] = metrics.calibration_interval(values[ece], samples[:, ece], chance)
    figures = iter(
        [Figure(float(value), float(low), float(high)) for value, (low, high) in zip(values, ends, strict=True)]
    )
    overall = {name: next(figures) for name in OVERALL}
    precision, recall, f1 = ([next(figures) for _ in labels] for _ in range(3))
    classes, confusion = metrics.per_class(outcomes), metrics.confusion(outcomes)
    bins = metrics.reliability(outcomes)
    return Measured(
        labels=among,
        images=len(outcomes),
        overall=overall,
        ece_by_chance=float(chance.mean()),
        classes=tuple(map(ClassFigures, labels, classes.support.tolist(), precision, recall, f1)),
        confused=tuple(Confused(labels[t], labels[a], int(confusion[t, a]), next(figures)) for t, a in pairs),
        bins=tuple(
            Bin(place / metrics.BINS, (place + 1) / metrics.BINS, images, confidence, next(figures))
            for place, (images, confidence) in enumerate(
                zip(bins.images.tolist(), bins.confidence.tolist(), strict=True)
            )
        ),
        confusion=confusion,
        samples=samples[:, : len(OVERALL)],
    )


@dataclass(frozen=True)
class _Answers:
    """One classifier's, of the images that were read."""

    model: str
    templates: tuple[str, ...]
    config: str
    names: tuple[str, ...]
    outcomes: Outcomes


@dataclass(frozen=True)
class _Pass:
    """The images through one model: the numbers of those read, the errors of the others, and the answers."""

    read: list[int]
    errors: dict[int, str]
    answers: list[_Answers]


def _passed(
    truth: Truth,
    classifiers: Sequence[Classifier],
    done: Callable[[int], object],
    save: Callable[[Sequence[Result]], object] | None,
) -> _Pass:
    embedder = classifiers[0].embedder
    read: list[int] = []
    errors: dict[int, str] = {}
    parts: list[list[Outcomes]] = [[] for _ in classifiers]
    batches = embedder.batches(truth.paths, before=lambda: [classifier.scorer for classifier in classifiers])
    numbers = iter(range(len(truth.paths)))
    with closing(batches):
        for batch in batches:
            here = dict(zip(itertools.islice(numbers, len(batch.names)), batch.errors, strict=True))
            fresh = [number for number, error in here.items() if error is None]
            errors |= {number: error for number, error in here.items() if error is not None}
            read += fresh
            done(len(here))
            for classifier, own in zip(classifiers, parts, strict=True):
                results = classifier.results(batch) if save or classifier.abstains else None
                if fresh:
                    own.append(_outcomes(truth, fresh, classifier, batch.vectors, results))
                if save and results:
                    save(_predictions(truth, here, classifier, results))
    if not read:
        raise nothing_read(truth, errors)
    classifiers[0].compile()
    return _Pass(
        read,
        errors,
        [
            _Answers(one.model.name, templates_of(one), one.config, one.scorer.names, Outcomes.joined(own))
            for one, own in zip(classifiers, parts, strict=True)
        ],
    )


def _outcomes(
    truth: Truth, numbers: Sequence[int], classifier: Classifier, vectors: Array, results: Sequence[Result] | None
) -> Outcomes:
    column = {name: place for place, name in enumerate(classifier.scorer.names)}
    columns = [column[truth.classes[truth.answers[number]]] for number in numbers]
    none = classifier.options.unknown_label if classifier.abstains else None
    answered = [result.label != none for result in results if result.error is None] if results else None
    return Outcomes.of(
        np.array(columns),
        classifier.embedder.finite(classifier.scorer(vectors)),
        answered=None if answered is None else np.array(answered),
        unknown=column.get(classifier.options.unknown_label) if classifier.options.unknown else None,
    )


def _predictions(
    truth: Truth, numbers: Iterable[int], classifier: Classifier, results: Sequence[Result]
) -> list[Result]:
    templates = templates_of(classifier)
    return [
        replace(result, truth=truth.classes[truth.answers[number]], templates=templates)
        for number, result in zip(numbers, results, strict=True)
    ]


def templates_of(classifier: Classifier) -> tuple[str, ...]:
    """The names of the sets, and the single templates, that a classifier's prompts come from; or its head's file."""
    options = classifier.options
    if options.head is not None:
        return (os.fspath(options.head),)
    return (*options.templates, *options.template) or (defaults.TEMPLATES,)


def _overall(outcomes: Outcomes, among: int) -> dict[str, float]:
    """The figures in `OVERALL`; that a label is among the best five says nothing where there are no more."""
    return {
        "top1": metrics.top(outcomes, 1),
        "top5": metrics.top(outcomes, 5) if among > 5 else np.nan,
        "mean_recall": metrics.mean_class_recall(outcomes),
        "ece": metrics.calibration_error(outcomes),
        "nll": metrics.negative_log_likelihood(outcomes),
        "answered": float(outcomes.answered.mean()),
        "top1_answered": metrics.top_of_answered(outcomes),
    }


def _as_json(fields: Any) -> dict[str, Any]:
    """A dataclass of words, numbers and figures."""
    return {name: one.as_json() if isinstance(one, Figure) else _number(one) for name, one in vars(fields).items()}


def _number(value: Any) -> Any:
    """Null in place of NaN; six decimals of other numbers that are not whole, which is more than they are sure of."""
    return value if not isinstance(value, float) else None if np.isnan(value) else round(value, 6)
