"""How often answers are right, and how well their probabilities say so. Pure numpy: no model, no files, no printing.

Every figure is computed from `Outcomes` alone, so that a bootstrap can compute it again on any choice of images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

BINS = 15  # of the calibration error, equally wide
RESAMPLES = 1000
LEVEL = 0.95  # of the intervals
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # stands for those that float32 rounds to 0
DIGITS = 6  # behind the point, of figures that are written


@dataclass(frozen=True)
class Figure:
    """A value and the ends of its confidence interval; NaN where the images say nothing about it."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """`{"value", "low", "high"}`, null in place of NaN."""
        return {name: None if np.isnan(value) else round(value, DIGITS) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Outcomes:
    """What became of n images with one true class each, among c classes.

    Attributes:
        truth: [n], the column of the true class.
        answer: [n], the column of the best score; of equal ones the first.
        rank: [n], how many columns come before the true one: 0 is right.
        confidence: float64 [n], the best probability.
        loss: float64 [n], -ln of the probability of the true class, in nats.
        answered: [n], whether the answer is given, and not held back as unsure.
        classes: c.
    """

    truth: Places
    answer: Places
    rank: Places
    confidence: Floats
    loss: Floats
    answered: NDArray[np.bool_]
    classes: int

    @classmethod
    def of(
        cls,
        truth: Places,
        probabilities: NDArray[np.float32] | Floats,
        *,
        answered: NDArray[np.bool_] | None = None,
        unknown: int | None = None,
    ) -> "Outcomes":
        """From scores.

        Args:
            truth: [n], the column of the true class.
            probabilities: [n, c], finite, in [0, 1].
            answered: [n], false where an answer is held back as unsure; None where none is.
            unknown: the column that stands for no class, if there is one: it is the answer to what is held back.

        Raises:
            ValueError: no images, other shapes, or numbers that are no probabilities.
        """
        table = np.asarray(probabilities, np.float64)
        if table.ndim != 2 or truth.shape != table.shape[:1] or not table.size:
            raise ValueError(f"truth {truth.shape} and probabilities {table.shape} do not go together")
        if not (np.isfinite(table).all() and table.min() >= 0 and table.max() <= 1):
            raise ValueError("probabilities must be finite and in [0, 1]")
        own = np.take_along_axis(table, truth[:, None], axis=1)  # [n, 1]
        before = (table > own) | ((table == own) & (np.arange(table.shape[1]) < truth[:, None]))
        answer, rank = np.argmax(table, axis=1), np.count_nonzero(before, axis=1)
        given = np.ones(len(table), np.bool_) if answered is None else answered
        if unknown is not None:
            answer = np.where(given, answer, unknown)
            rank = np.where(given, rank, np.where(truth == unknown, 0, np.maximum(rank, 1)))
        return cls(
            truth=truth,
            answer=answer,
            rank=rank,
            confidence=table.max(axis=1),
            loss=-np.log(np.maximum(own[:, 0], LEAST_PROBABILITY)),
            answered=given,
            classes=table.shape[1],
        )

    @classmethod
    def joined(cls, parts: Sequence["Outcomes"]) -> "Outcomes":
        """Those of several batches among the same classes, as one; at least one of them."""
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("truth", "answer", "rank", "confidence", "loss", "answered")
        }
        return cls(**arrays, classes=parts[0].classes)

    def at(self, chosen: Places) -> "Outcomes":
        """Those of some images, in any order and number."""
        return Outcomes(
            self.truth[chosen],
            self.answer[chosen],
            self.rank[chosen],
            self.confidence[chosen],
            self.loss[chosen],
            self.answered[chosen],
            self.classes,
        )

    def occurring(self) -> tuple["Outcomes", Places]:
        """The same among the m classes that are the truth or the answer of an image, and their columns, [m]."""
        columns = np.union1d(self.truth, self.answer)
        truth, answer = np.searchsorted(columns, self.truth), np.searchsorted(columns, self.answer)
        return replace(self, truth=truth, answer=answer, classes=len(columns)), columns

    @property
    def right(self) -> NDArray[np.bool_]:
        """[n], whether the answer is the true class."""
        right: NDArray[np.bool_] = self.rank == 0
        return right

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class PerClass:
    """Of each of c classes; NaN where nothing is divided by nothing.

    Attributes:
        support: [c], images of it.
        precision: float64 [c], the share of the images called so that are of it.
        recall: float64 [c], the share of its images that are called so.
        f1: float64 [c], the harmonic mean of both.
    """

    support: Places
    precision: Floats
    recall: Floats
    f1: Floats


@dataclass(frozen=True)
class Reliability:
    """Of each bin of confidence, (0, 1/b], (1/b, 2/b] …; NaN where it has no images.

    Attributes:
        images: [b].
        confidence: float64 [b], the mean.
        accuracy: float64 [b], the share of right answers.
    """

    images: Places
    confidence: Floats
    accuracy: Floats


def top(outcomes: Outcomes, k: int) -> float:
    """The share of images whose true class is among the k best."""
    return float(np.mean(outcomes.rank < k))


def top_of_answered(outcomes: Outcomes) -> float:
    """The share of right answers among those that are given; NaN if none is."""
    right = outcomes.right[outcomes.answered]
    return float(right.mean()) if len(right) else np.nan


def negative_log_likelihood(outcomes: Outcomes) -> float:
    """Mean -ln of the true class's probability, in nats; 0 is best, ln c is what equal probabilities have."""
    return float(outcomes.loss.mean())


def confusion(outcomes: Outcomes) -> Places:
    """[c, c], images by true class (row) and answer (column)."""
    c = outcomes.classes
    return np.bincount(outcomes.truth * c + outcomes.answer, minlength=c * c).reshape(c, c)


def per_class(outcomes: Outcomes) -> PerClass:
    """Precision, recall and F1 as scikit-learn defines them, but for NaN where it puts 0."""
    c, right = outcomes.classes, outcomes.right
    hits = np.bincount(outcomes.truth[right], minlength=c)
    support = np.bincount(outcomes.truth, minlength=c)
    called = np.bincount(outcomes.answer, minlength=c)
    return PerClass(
        support=support,
        precision=_ratio(hits, called),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + called),
    )


def mean_class_recall(outcomes: Outcomes) -> float:
    """The mean of the recalls of the classes that have images: each class counts the same, however large it is."""
    recall = per_class(outcomes).recall
    return float(recall[~np.isnan(recall)].mean())


def reliability(outcomes: Outcomes, bins: int = BINS) -> Reliability:
    """Confidence and accuracy by equally wide bins of confidence."""
    bin_ = np.maximum(np.ceil(outcomes.confidence * bins).astype(np.intp) - 1, 0)
    images = np.bincount(bin_, minlength=bins)
    return Reliability(
        images=images,
        confidence=_ratio(np.bincount(bin_, outcomes.confidence, bins), images),
        accuracy=_ratio(np.bincount(bin_, outcomes.right, bins), images),
    )


def calibration_error(outcomes: Outcomes, bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - confidence| of the best label, in bins, by their share of images.

    Source: arXiv:1706.04599, equation 3, with its 15 bins.
    """
    found = reliability(outcomes, bins)
    some = found.images > 0
    gaps = np.abs(found.accuracy[some] - found.confidence[some])
    return float(gaps @ found.images[some]) / len(outcomes)


def most_confused(outcomes: Outcomes, most: int) -> list[tuple[int, int]]:
    """Pairs (true class, wrong answer) that occur, most images first; of equal ones in the order of the classes."""
    wrong = ~outcomes.right
    pairs, images = np.unique(np.stack([outcomes.truth[wrong], outcomes.answer[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-images, kind="stable")[:most]
    return [(int(truth), int(answer)) for truth, answer in pairs.T[order]]


def confused_share(outcomes: Outcomes, truth: int, answer: int) -> float:
    """The share of a class's images that are called by another's name; NaN where it has none."""
    own = outcomes.answer[outcomes.truth == truth]
    return float(np.mean(own == answer)) if len(own) else np.nan


def bootstrap(statistic: Callable[[Places], Floats], n: int, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """A statistic of images drawn again with replacement, as many as there were.

    The draws depend on `n`, `seed` and `resamples` alone: statistics of the same images are drawn alike, so the
    difference of two results is that of paired figures.

    Args:
        statistic: of the numbers of the chosen images, [n] → float64 [k]; NaN where it is not defined.
        n: images.
        seed: of the draws.
        resamples: how many.

    Returns:
        float64 [resamples, k].

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
    """
    draw = np.random.default_rng(seed)
    return np.stack([statistic(draw.integers(0, n, n)) for _ in range(resamples)])


def intervals(samples: Floats, *, level: float = LEVEL) -> Floats:
    """Confidence intervals of k figures: the percentiles of their samples.

    Args:
        samples: float64 [resamples, k], as `bootstrap` gives them; NaN is left out.
        level: the share of intervals that shall hold the true value.

    Returns:
        float64 [k, 2], lower and upper ends; NaN where no sample is a number.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    ordered = np.sort(samples, axis=0)  # NaN comes last
    known = np.count_nonzero(~np.isnan(samples), axis=0)  # [k]
    ends = np.full((samples.shape[1], 2), np.nan)
    for column, count in enumerate(known):
        if count:
            ends[column] = np.quantile(ordered[:count, column], _tails(level))
    return ends


def errors_by_chance(outcomes: Outcomes, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Calibration errors that probabilities without any would show on so few images: float64 [resamples].

    Each image is called right as often as its confidence says.

    Source: J. Bröcker, L. Smith, Increasing the Reliability of Reliability Diagrams (2007),
    doi:10.1175/WAF993.1, consistency resampling.
    """
    draw = np.random.default_rng(seed)
    drawn = (draw.random(len(outcomes)) >= outcomes.confidence for _ in range(resamples))
    return np.array([calibration_error(replace(outcomes, rank=wrong.astype(np.intp))) for wrong in drawn])


def calibration_interval(error: float, samples: Floats, chance: Floats, *, level: float = LEVEL) -> tuple[float, float]:
    """A confidence interval of the calibration error.

    A bin's gap is never negative, so noise adds to the error, and drawing images again adds more of it. Percentiles
    alone would nearly always lie above the true error. So the upper end is the percentile, which is on the safe
    side; the lower end is as far below the error as the percentile is above it, and 0 if the error is one that
    chance alone makes of probabilities without any.

    Args:
        error: of all images.
        samples: float64 [resamples], by `bootstrap`.
        chance: float64 [resamples], by `errors_by_chance`.
        level: the share of intervals that shall hold the true value.
    """
    high = float(np.quantile(samples, _tails(level)[1]))
    return 0.0 if error <= np.quantile(chance, level) else max(0.0, 2 * error - high), high


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, NaN where whole is 0."""
    found = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=found, where=whole != 0)
    return found
