"""Few labelled images: embedded, drawn at random, and what heads fitted to them gain over none."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipzs import fitting, labelled, metrics
from clipzs.classifier import Classifier
from clipzs.errors import TruthError, quoted
from clipzs.evaluation import templates_of
from clipzs.fitting import Examples
from clipzs.heads import METHODS, Method, Places
from clipzs.labelled import columns
from clipzs.metrics import Outcomes
from clipzs.scorers import Scorer
from clipzs.truth import Truth

log = logging.getLogger("clipzs")

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Shown:
    """Labelled images through a model, as heads are fitted to them.

    Attributes:
        examples: those that could be read.
        numbers: [n], which of the truth they are.
        errors: number and reason of the others.
    """

    examples: Examples
    numbers: Places
    errors: dict[int, str]


@dataclass(frozen=True)
class Spread:
    """A figure over several draws.

    Attributes:
        mean: of it.
        deviation: its standard deviation (of a sample); NaN of one draw.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))

    def as_json(self) -> dict[str, float | None]:
        """`{"mean", "deviation"}`, null in place of NaN."""
        return {name: None if np.isnan(value) else round(value, 6) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Row:
    """What a method makes of so many images of each class.

    Attributes:
        method: by name; `ZERO_SHOT` has none.
        shots: images of each class.
        top1: share of right answers, in [0, 1].
        nll: negative log-likelihood, in nats.
        gain: in top1 over zero-shot on the same images, draw by draw.
    """

    method: str
    shots: int
    top1: Spread
    nll: Spread
    gain: Spread

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return {
            "method": self.method,
            "shots": self.shots,
            **{name: getattr(self, name).as_json() for name in ("top1", "nll", "gain")},
        }


@dataclass(frozen=True)
class Comparison:
    """Zero-shot and all methods, by the number of images they saw.

    Attributes:
        model: its name.
        templates: the sets and single templates of the texts.
        classes: how many.
        images: how many each figure of a draw is of; none of them was fitted to.
        draws: how many.
        seed: of the first; the others follow.
        rows: zero-shot first, then by method and shots.
    """

    model: str
    templates: tuple[str, ...]
    classes: int
    images: int
    draws: int
    seed: int
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """The document of `clipzs eval --shots --json`; its keys are promised."""
        return {**vars(self), "templates": list(self.templates), "rows": [row.as_json() for row in self.rows]}


def check(truth: Truth, labels: Sequence[str]) -> None:
    """See that labels and classes are the same, in any order.

    Raises:
        LabelsError: a class is none of the labels.
        TruthError: a label has no images.
    """
    columns(truth, labels)
    idle = [name for name in labels if name not in truth.classes]
    if idle:
        raise TruthError(f"no images of {quoted(idle)}", hint="a head needs at least one image of each label")


def embedded(classifier: Classifier, truth: Truth, *, done: Callable[[int], object] = lambda images: None) -> Shown:
    """Send labelled images through a model.

    Args:
        classifier: whose labels are the classes of the truth, in any order.
        truth: labelled images.
        done: called with the number of images of each batch.

    Raises:
        LabelsError, TruthError: as `check`; or no image of a label can be read.
        ClipzsError: no image could be read, or what made the model fail.
    """
    names = tuple(label.name for label in classifier.labels)
    check(truth, names)
    found = labelled.embedded(truth, classifier, done=done)
    errors, answers = found.errors, found.answers
    lost = [name for place, name in enumerate(names) if not np.any(answers == place)]
    if lost:
        number = next(number for number in errors if truth.classes[truth.answers[number]] == lost[0])
        raise TruthError(f"no image of {quoted(lost)} could be read, e.g. {truth.paths[number]}: {errors[number]}")
    return Shown(
        Examples(
            found.vectors,
            answers,
            names,
            classifier.label_vectors,
            classifier.logit_scale,
        ),
        found.numbers,
        errors,
    )


def orders(answers: Sequence[int] | Places, seed: int) -> list[Places]:
    """For each class its images in random order; the first n are its n shots."""
    draw, answers = np.random.default_rng(seed), np.asarray(answers)
    return [draw.permutation(np.flatnonzero(answers == place)) for place in range(int(answers.max()) + 1)]


def drawn(truth: Truth, shots: int, *, seed: int) -> Truth:
    """Some images of each class, chosen at random; all of a class that has no more.

    Logs a warning of such.
    """
    rows = np.sort(np.concatenate([order[:shots] for order in orders(truth.answers, seed)]))
    fewer = [name for name, count in zip(truth.classes, truth.support, strict=True) if count < shots]
    if fewer:
        log.warning("fewer than %d images of %s: all of them are used", shots, quoted(fewer))
    return Truth(tuple(truth.paths[row] for row in rows), tuple(truth.answers[row] for row in rows), truth.classes)


def possible(shots: Sequence[int], support: Sequence[int]) -> list[int]:
    """Those numbers of shots, in order, that leave an image of each class to test.

    Logs a warning of the others.

    Raises:
        TruthError: there is none.
    """
    most = min(support) - 1
    found = [count for count in sorted(set(shots)) if count <= most]
    if not found:
        raise TruthError(
            f"the smallest class has {min(support)} images: with {min(shots)} of them fitted to, none is left to test",
            hint="give each class more images",
        )
    if len(found) < len(set(shots)):
        log.warning("the smallest class has %d images: --shots up to %d", min(support), most)
    return found


def compare(
    classifier: Classifier,
    labelled: Shown,
    shots: Sequence[int],
    *,
    draws: int,
    seed: int,
) -> Comparison:
    """Zero-shot against every method at every number of shots, several times.

    For each draw the images of each class are shuffled. A head with n shots is fitted to the first n; all heads and
    zero-shot are tested on what lies behind the largest number of shots, so that they answer the same images, none of
    which any of them has seen.

    Args:
        classifier: for zero-shot, and with the texts for the heads.
        labelled: its images.
        shots: as `possible` gives them.
        draws: how often.
        seed: of the first draw and of its heads' cross-validation; the next draw has the next.

    Source: the protocol of arXiv:2103.00020, section 3.1 and figure 6, with test images of one's own.
    """
    examples, found = labelled.examples, dict[tuple[str, int], list[dict[str, float]]]()
    images = 0
    for number in range(draws):
        order = orders(examples.answers, seed + number)
        test = examples.at(np.concatenate([rows[max(shots) :] for rows in order]))
        images = len(test.images)
        found.setdefault((ZERO_SHOT, 0), []).append(_figures(classifier.scorer, test))
        for method, count in _heads(shots):
            some = examples.at(np.concatenate([rows[:count] for rows in order]))
            head = fitting.fit(some, method, seed=seed + number).head
            found.setdefault((method, count), []).append(_figures(head, test))
    plain = found[ZERO_SHOT, 0]
    return Comparison(
        model=classifier.model.name,
        templates=templates_of(classifier),
        classes=len(examples.names),
        images=images,
        draws=draws,
        seed=seed,
        rows=tuple(_row(method, count, figures, plain) for (method, count), figures in found.items()),
    )


def _row(method: str, shots: int, figures: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> Row:
    return Row(
        method,
        shots,
        top1=Spread.of([one["top1"] for one in figures]),
        nll=Spread.of([one["nll"] for one in figures]),
        gain=Spread.of([one["top1"] - other["top1"] for one, other in zip(figures, plain, strict=True)]),
    )


def _heads(shots: Sequence[int]) -> Iterator[tuple[Method, int]]:
    for method in METHODS:
        for count in shots:
            yield method, count


def _figures(scorer: Scorer, test: Examples) -> dict[str, float]:
    outcomes = Outcomes.of(test.answers, scorer(test.images))
    return {"top1": metrics.top(outcomes, 1), "nll": metrics.negative_log_likelihood(outcomes)}
