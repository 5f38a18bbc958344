"""Temperature, templates and thresholds fitted to labelled images by cross-validation. Pure numpy: no model, no files.

What is reported was never fitted on: for each fold, everything is fitted anew to the other folds, choices among methods
included, and the figures are those of the images left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipzs import metrics
from clipzs.metrics import Figure, Floats, Outcomes, Places
from clipzs.score import Array

Method = Literal["unchanged", "chosen", "weighted"]

FOLDS = 5
LEAST_IMAGES = 10  # fewer cannot show that anything is more than luck
MOST_TEMPLATES = 7  # as many as the authors of CLIP chose of their 80
LEAST_WEIGHT = 0.01  # of a template, if all together have 1; what has less is left out
PRIOR = 0.3  # how far ln(scale) is expected from the model's: matters where a few images say nothing about it
_FURTHEST = 3.0  # that ln(scale) may be from the model's
_STEPS = 100  # of the weights' descent
_TINY = 1e-12


@dataclass(frozen=True)
class Examples:
    """Labelled images, as far as they meet texts.

    Attributes:
        dots: float64 [n, c, t], products of the images with what each of t templates makes of each of c labels.
        gram: float64 [c, t, t], products of those texts with each other.
        answers: [n], the right label.
    """

    dots: Floats
    gram: Floats
    answers: Places

    @classmethod
    def of(cls, images: Array, texts: NDArray[np.floating], answers: Sequence[int]) -> "Examples":
        """From embeddings.

        Args:
            images: float32 [n, d], rows of length 1.
            texts: float [c, t, d], for each label and template the sum of its prompts' embeddings (one for the name and
                one for each alias), each of length 1. A label that no template is for has the same at all of them.
            answers: n indices of labels.
        """
        wide = texts.astype(np.float64)
        dots = np.einsum("nd,ctd->nct", images.astype(np.float64), wide, optimize=True)
        return cls(dots, np.einsum("ctd,cud->ctu", wide, wide, optimize=True), np.asarray(answers, np.intp))

    def at(self, chosen: Places) -> "Examples":
        """Some of the images."""
        return Examples(self.dots[chosen], self.gram, self.answers[chosen])

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def templates(self) -> int:
        """How many there are."""
        return int(self.gram.shape[1])

    def cosines(self, weights: Floats) -> Floats:
        """Similarities to the labels' weighted averages.

        Args:
            weights: float64 [t], at least 0, not all 0.

        Returns:
            float64 [n, c].
        """
        lengths = np.sqrt((self.gram @ weights) @ weights)  # [c]
        cosines: Floats = (self.dots @ weights) / lengths
        return cosines


@dataclass(frozen=True)
class Abstaining:
    """What thresholds do to images that were left out.

    Attributes:
        gain: what they change in the mean F1 of the labels, no answer counting as a wrong one.
        answered: the share of images that keep an answer.
        precision: of those, the share of right answers.
    """

    gain: Figure
    answered: Figure
    precision: Figure


@dataclass(frozen=True)
class Evidence:
    """What images that were left out say; before and after are of the same images and folds.

    Attributes:
        images: how many.
        folds: how many.
        before: figures of the untuned classifier, by the names in `FIGURES`.
        after: of the tuned one, with what was kept.
        gain: after - before.
        templates: what the fitted templates change in the negative log-likelihood, with the temperature fitted to each.
        temperature: what the fitted temperature changes in it, with the templates that were kept.
        abstaining: what the fitted thresholds change; None if none were asked for.
    """

    images: int
    folds: int
    before: dict[str, Figure]
    after: dict[str, Figure]
    gain: dict[str, Figure]
    templates: Figure
    temperature: Figure
    abstaining: Abstaining | None


@dataclass(frozen=True)
class Tuning:
    """What is to be used, and why.

    Attributes:
        method: how the templates were found; "unchanged" where others are not better beyond noise.
        weights: float64 [t] of the templates, that sum to 1; equal for all that are used unless "weighted".
        scale: what similarities are multiplied with; None where the model's own is as good.
        thresholds: c scores below which the label is no answer, 0 for none; None where they gain nothing.
        unreached: labels (indices) whose answers are nowhere as precise as they should be.
        evidence: what all that does.
    """

    method: Method
    weights: Floats
    scale: float | None
    thresholds: tuple[float, ...] | None
    unreached: tuple[int, ...]
    evidence: Evidence


FIGURES: dict[str, Callable[[Outcomes], float]] = {
    "top1": lambda outcomes: metrics.top(outcomes, 1),
    "mean_class_recall": metrics.mean_class_recall,
    "nll": metrics.negative_log_likelihood,
}


def stratified(answers: Places, folds: int, *, seed: int) -> Places:
    """[n], a fold for each image: the images of a class are spread as evenly as they can be, and so are all.

    A class with fewer images than folds is missing in some.
    """
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(np.flatnonzero(answers == c)) for c in np.unique(answers)])
    fold = np.empty(len(answers), np.intp)
    fold[order] = np.arange(len(answers)) % folds
    return fold


def folds_for(answers: Places, wanted: int) -> int:
    """How many folds there can be: no more than the largest class has images, and two at least."""
    return max(2, min(wanted, int(np.bincount(answers).max())))


def probabilities(cosines: Floats, scale: float | Floats) -> Floats:
    """Softmax of similarities times a scale (one, or [n, 1]): float64 [n, c]."""
    logits = cosines * scale
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def losses(cosines: Floats, answers: Places, scale: float) -> Floats:
    """float64 [n], -ln of the right label's probability, in nats."""
    logits = cosines * scale
    top = logits.max(axis=1)
    own = np.take_along_axis(logits, answers[:, None], axis=1)[:, 0]
    result: Floats = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    return result


def fitted_scale(cosines: Floats, answers: Places, scale: float) -> float:
    """The scale of the least negative log-likelihood, near the model's own where the images leave it open.

    Similarities that are all right have no least: their likelihood grows with the scale for ever. So ln(scale) has a
    normal prior around the model's, of standard deviation `PRIOR`, which a few dozen images outweigh.

    Args:
        cosines: float64 [n, c], of images that they were not fitted to.
        answers: [n], the right labels.
        scale: the model's own.

    Source: temperature scaling, arXiv:1706.04599, section 4.2; the temperature is 1 / scale.
    """

    def cost(step: float) -> float:
        return float(losses(cosines, answers, scale * np.exp(step)).sum()) + step**2 / (2 * PRIOR**2)

    steps = np.linspace(-_FURTHEST, _FURTHEST, 25)
    best = int(np.argmin([cost(step) for step in steps]))
    low, high = steps[max(best - 1, 0)], steps[min(best + 1, len(steps) - 1)]
    while high - low > 1e-4:
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if cost(first) < cost(second) else (first, high)
    return float(scale * np.exp((low + high) / 2))


def chosen_templates(examples: Examples, scale: float) -> Floats:
    """Templates by greedy forward selection: the best one, then the one that is best together with it, and so on.

    Ends with `MOST_TEMPLATES`, or when no further template lowers the negative log-likelihood. Accuracy, by which the
    authors of CLIP chose, has too few values on a small folder: many templates tie.

    Returns:
        float64 [t], 1 / k for each of the k templates, 0 for the others.

    Source: the seven of 80 templates in OpenAI's notebook Prompt_Engineering_for_ImageNet (arXiv:2103.00020).
    """
    chosen: list[int] = []
    dots, lengths, least = np.zeros(examples.dots.shape[:2]), np.zeros(len(examples.gram)), np.inf
    while len(chosen) < min(MOST_TEMPLATES, examples.templates):
        found = [np.inf] * examples.templates
        for t in set(range(examples.templates)) - set(chosen):
            squared = lengths + examples.gram[:, t, t] + 2 * examples.gram[:, t, chosen].sum(axis=1)
            cosines = (dots + examples.dots[:, :, t]) / np.sqrt(squared)
            found[t] = float(losses(cosines, examples.answers, scale).mean())
        best = int(np.argmin(found))
        if found[best] >= least - _TINY:
            break
        least = found[best]
        lengths += examples.gram[:, best, best] + 2 * examples.gram[:, best, chosen].sum(axis=1)
        dots = dots + examples.dots[:, :, best]
        chosen.append(best)
    weights = np.zeros(examples.templates)
    weights[chosen] = 1 / len(chosen)
    return weights


def weighted_templates(examples: Examples, scale: float) -> Floats:
    """Weights of all templates, by descent of the negative log-likelihood from equal ones.

    Exponentiated gradient, which stays among positive weights that sum to 1; a step that goes too far is halved.

    Returns:
        float64 [t] that sum to 1; those below `LEAST_WEIGHT` are 0.

    Source: J. Kivinen, M. Warmuth, Exponentiated Gradient versus Gradient Descent (1997).
    """
    t = examples.templates
    weights, rate = np.full(t, 1 / t), 1.0
    least = losses(examples.cosines(weights), examples.answers, scale).mean()
    for _ in range(_STEPS):
        gradient = _gradient(examples, weights, scale)
        tried = weights * np.exp(-rate * (gradient - gradient.min()))
        tried /= tried.sum()
        found = losses(examples.cosines(tried), examples.answers, scale).mean()
        if found < least:
            weights, least, rate = tried, found, rate * 1.5
        else:
            rate /= 2
    kept: Floats = np.where(weights < min(LEAST_WEIGHT, weights.max()), 0.0, weights)
    kept /= kept.sum()
    return kept


def _gradient(examples: Examples, weights: Floats, scale: float) -> Floats:
    """float64 [t], of the mean negative log-likelihood by the weights."""
    sums = examples.gram @ weights  # [c, t]
    lengths = np.sqrt(sums @ weights)  # [c]
    cosines = (examples.dots @ weights) / lengths
    wrong = probabilities(cosines, scale)
    wrong[np.arange(len(examples)), examples.answers] -= 1
    wrong *= scale / len(examples)  # [n, c], the gradient by the cosines
    by_length = (wrong * cosines).sum(axis=0) / lengths**2  # [c]
    by_dots = (wrong / lengths).ravel() @ examples.dots.reshape(-1, examples.templates)
    gradient: Floats = by_dots - by_length @ sums
    return gradient


def fitted_thresholds(scores: Floats, answers: Places, precision: float | None) -> tuple[Floats, list[int]]:
    """For each label the score below which it is better no answer.

    Args:
        scores: float64 [n, c] of images that they were not fitted to.
        answers: [n], the right labels.
        precision: the share of a label's answers that must be right: the lowest threshold where that is so. None: the
            threshold with the highest F1 of the label, the lowest of equal ones.

    Returns:
        float64 [c], and the labels whose answers are nowhere precise enough: their threshold is above all scores seen.
    """
    called, best = scores.argmax(axis=1), scores.max(axis=1)
    thresholds, unreached = np.zeros(scores.shape[1]), []
    for label in range(scores.shape[1]):
        own = np.flatnonzero(called == label)
        if not len(own):
            continue
        own = own[np.argsort(-best[own], kind="stable")]
        hits = np.cumsum(answers[own] == label)
        kept = np.arange(1, len(own) + 1)  # if that many of the best are
        if precision is None:
            f1 = 2 * hits / (kept + np.count_nonzero(answers == label))
            most = int(kept[f1 >= f1.max() - _TINY][-1])
        else:
            enough = kept[hits / kept >= precision - _TINY]
            most = int(enough[-1]) if len(enough) else 0
            if not most:
                unreached.append(label)
        if most < len(own):
            above = best[own[most - 1]] if most else 1.0
            thresholds[label] = (above + best[own[most]]) / 2
    return thresholds, unreached


def tune(
    examples: Examples,
    start: Floats,
    scale: float,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    thresholds: bool = True,
    precision: float | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Tuning:
    """Fit templates, temperature and thresholds, and find out by cross-validation what each is worth.

    What does not do better beyond noise on images that were left out is not used: templates and temperature by the
    negative log-likelihood (templates must not cost accuracy either), thresholds by the mean F1 of the labels.
    Thresholds for a wanted precision are always used.

    Args:
        examples: labelled images.
        start: float64 [t], the templates' weights before, that sum to 1.
        scale: of the model.
        folds: wanted; a small folder gets fewer.
        seed: of the folds and the intervals.
        thresholds: whether to fit some.
        precision: what they shall reach; None is the best F1.
        progress: called with the fits done and their number.
    """
    folds = folds_for(examples.answers, folds)
    fold = stratified(examples.answers, folds, seed=seed)
    parts = []
    for number in range(folds):
        progress(number, folds + 1)
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        parts.append(_Part(examples.at(inside), examples.at(outside), outside, start, scale, folds, seed))
    progress(folds, folds + 1)
    everything = _Part(examples, examples, np.arange(len(examples)), start, scale, folds, seed)
    progress(folds + 1, folds + 1)
    return _Trial(examples.answers, parts, everything, seed).tuning(thresholds, precision)


@dataclass(frozen=True)
class _Fit:
    """Templates and temperature for some images.

    Attributes:
        method: what found the templates.
        weights: float64 [t] of them.
        cosines: float64 [n, c] of the images themselves, each with templates that were fitted without it.
        scale: fitted to these.
    """

    method: Method
    weights: Floats
    cosines: Floats
    scale: float


class _Part:
    """All that is fitted to some images, the choice of the method included, and other images to try it on.

    Attributes:
        inside: the images it is fitted to.
        outside: the others.
        rows: [m], the numbers of these among all images.
        model: the model's own scale.
        unchanged: the templates as they were.
        tuned: those found.
    """

    def __init__(
        self, inside: Examples, outside: Examples, rows: Places, start: Floats, scale: float, folds: int, seed: int
    ) -> None:
        self.inside, self.outside, self.rows, self.model = inside, outside, rows, scale
        self.unchanged = self._fit("unchanged", start, inside.cosines(start))
        self.tuned = self._found(self.unchanged.scale, folds, seed)

    def _fit(self, method: Method, weights: Floats, cosines: Floats) -> _Fit:
        return _Fit(method, weights, cosines, fitted_scale(cosines, self.inside.answers, self.model))

    def _found(self, scale: float, folds: int, seed: int) -> _Fit:
        """Chosen templates, or weighted ones where these are clearly better on images left out once more."""
        fold = stratified(self.inside.answers, folds_for(self.inside.answers, folds), seed=seed)
        finders: dict[Method, Callable[[Examples, float], Floats]] = {
            "chosen": chosen_templates,
            "weighted": weighted_templates,
        }
        cosines = {method: np.empty(self.inside.dots.shape[:2]) for method in finders}
        for number in np.unique(fold):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            for method, find in finders.items():
                cosines[method][outside] = self.inside.at(outside).cosines(find(self.inside.at(inside), scale))
        chosen, weighted = (losses(cosines[method], self.inside.answers, scale) for method in finders)
        gain = chosen - weighted
        better: Method = "weighted" if gain.mean() > gain.std() / np.sqrt(len(gain)) else "chosen"
        return self._fit(better, finders[better](self.inside, scale), cosines[better])

    def fit(self, *, tuned: bool) -> _Fit:
        """With the templates found, or with those from before."""
        return self.tuned if tuned else self.unchanged

    def held_out(self, *, tuned: bool, fitted: bool) -> Floats:
        """float64 [m, c], probabilities of the images outside; `fitted` is of the temperature."""
        fit = self.fit(tuned=tuned)
        return probabilities(self.outside.cosines(fit.weights), fit.scale if fitted else self.model)

    def thresholds(self, *, tuned: bool, fitted: bool, precision: float | None) -> tuple[Floats, list[int]]:
        """As `fitted_thresholds`, of the images inside."""
        fit = self.fit(tuned=tuned)
        scores = probabilities(fit.cosines, fit.scale if fitted else self.model)
        return fitted_thresholds(scores, self.inside.answers, precision)


class _Trial:
    """The images of all folds, each as those fits see it that were made without it."""

    def __init__(self, answers: Places, parts: Sequence[_Part], everything: _Part, seed: int) -> None:
        self._answers, self._parts, self._everything, self._seed = answers, parts, everything, seed

    def tuning(self, thresholds: bool, precision: float | None) -> Tuning:
        """What to use."""
        enough = len(self._answers) >= LEAST_IMAGES  # better or worse beyond noise: all of the interval is
        before, plain, better = self._outcomes(False, False), self._outcomes(False, True), self._outcomes(True, True)
        templates = self._change(plain, better)
        tuned = (
            enough
            and templates.high < 0
            and all(FIGURES[name](better) >= FIGURES[name](plain) for name in ("top1", "mean_class_recall"))
        )
        temperature = self._change(self._outcomes(tuned, False), self._outcomes(tuned, True))
        fitted = enough and temperature.high < 0
        after = self._outcomes(tuned, fitted)
        abstaining = self._abstaining(after, tuned, fitted, precision) if thresholds else None
        final = self._everything.fit(tuned=tuned)
        floors, unreached = self._everything.thresholds(tuned=tuned, fitted=fitted, precision=precision)
        useful = abstaining and (precision is not None or (enough and abstaining.gain.low > 0))
        before_, after_, gain = self._compared(before, after)
        return Tuning(
            method=final.method,
            weights=final.weights,
            scale=final.scale if fitted else None,
            thresholds=tuple(floors.tolist()) if useful else None,
            unreached=tuple(unreached) if useful else (),
            evidence=Evidence(
                len(self._answers), len(self._parts), before_, after_, gain, templates, temperature, abstaining
            ),
        )

    def _outcomes(self, tuned: bool, fitted: bool) -> Outcomes:
        table = np.empty((len(self._answers), self._everything.inside.dots.shape[1]))
        for part in self._parts:
            table[part.rows] = part.held_out(tuned=tuned, fitted=fitted)
        return Outcomes.of(self._answers, table)

    def _figures(self, statistic: Callable[[Places], Sequence[float]]) -> list[Figure]:
        n = len(self._answers)
        estimates = np.array(statistic(np.arange(n)))
        samples = metrics.bootstrap(lambda rows: np.array(statistic(rows)), n, seed=self._seed)
        ends = metrics.intervals(samples)
        return [Figure(*map(float, (value, *pair))) for value, pair in zip(estimates, ends, strict=True)]

    def _change(self, old: Outcomes, new: Outcomes) -> Figure:
        """Of the negative log-likelihood."""
        change = new.loss - old.loss
        return self._figures(lambda rows: [change[rows].mean()])[0]

    def _compared(self, before: Outcomes, after: Outcomes) -> list[dict[str, Figure]]:
        """All figures before, after, and their differences."""

        def statistic(rows: Places) -> list[float]:
            old, new = ([figure(of.at(rows)) for figure in FIGURES.values()] for of in (before, after))
            return [*old, *new, *(b - a for a, b in zip(old, new, strict=True))]

        found, k = self._figures(statistic), len(FIGURES)
        return [dict(zip(FIGURES, found[start : start + k], strict=True)) for start in (0, k, 2 * k)]

    def _abstaining(self, outcomes: Outcomes, tuned: bool, fitted: bool, precision: float | None) -> Abstaining:
        floors = np.empty(len(outcomes))
        for part in self._parts:
            found, _ = part.thresholds(tuned=tuned, fitted=fitted, precision=precision)
            floors[part.rows] = found[outcomes.answer[part.rows]]
        answered = outcomes.confidence >= floors
        none = outcomes.classes  # a column for no answer
        left = replace(
            outcomes,
            answer=np.where(answered, outcomes.answer, none),
            rank=np.where(answered, outcomes.rank, none),
            classes=none + 1,
        )

        def statistic(rows: Places) -> list[float]:
            some = answered[rows]
            right = float(left.right[rows].sum() / some.sum()) if some.any() else float("nan")
            return [mean_f1(left.at(rows)) - mean_f1(outcomes.at(rows)), float(some.mean()), right]

        return Abstaining(*self._figures(statistic))


def mean_f1(outcomes: Outcomes) -> float:
    """The mean F1 of the classes that have images."""
    found = metrics.per_class(outcomes)
    return float(found.f1[found.support > 0].mean())
