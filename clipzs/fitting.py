"""Heads from a few labelled images: three methods, each with its settings chosen by cross-validation.

Pure numpy, and scikit-learn for logistic regression: no model, no files.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count, product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipzs.errors import ClipzsError, UsageProblem
from clipzs.heads import Cache, Floats, Head, Method, Places
from clipzs.score import Array
from clipzs.tuning import FOLDS, LEAST_IMAGES, fitted_scale, losses, stratified

INSTALL = "pip install 'clipzs[fit]'"
RESAMPLED = 200  # times, for the estimate of accuracy

# What is tried, and what is taken unless something else is clearly better.
_WORTHS, _WORTH = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), 10.0  # images that a label's text counts as much as
_WEIGHTS, _WEIGHT = (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 1.0  # of the cache
_SHARPNESSES, _SHARPNESS = (0.5, 1.0, 2.0, 4.0, 5.5, 8.0, 16.0, 32.0), 5.5  # of the cache
_DECADES, _DECADE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0), 1.0  # log10 of C, to begin with
_LEAST_STEP = 1 / 8  # between values of it, in the end
_NOTHING = 1e-9  # of the largest singular value

Setting = tuple[float, ...]


@dataclass(frozen=True)
class Examples:
    """Labelled images and their labels, embedded.

    Attributes:
        images: float32 [n, d], rows of length 1.
        answers: [n], the class of each; each of the c classes has at least one image.
        names: of the classes.
        texts: float32 [c, d], rows of length 1: the labels' embeddings.
        scale: exp(logit_scale) of the model.
    """

    images: Array
    answers: Places
    names: tuple[str, ...]
    texts: Array
    scale: float

    def at(self, rows: Places) -> "Examples":
        """Some of the images."""
        return replace(self, images=self.images[rows], answers=self.answers[rows])

    @property
    def support(self) -> Places:
        """How many images each class has, [c]."""
        return np.bincount(self.answers, minlength=len(self.names))


@dataclass(frozen=True)
class Fitted:
    """A head, and how it came about.

    Attributes:
        head: fitted to all examples.
        setting: names and values of what it was fitted with.
        temperature: what its logits were divided by.
        accuracy: the share of right answers on images that neither a head nor its setting was fitted to; None where
            there were too few to hold any out.
    """

    head: Head
    setting: dict[str, float]
    temperature: float
    accuracy: float | None


def fit(examples: Examples, method: Method, *, alpha: float | None = None, seed: int = 0) -> Fitted:
    """A head from examples.

    Settings are compared by their log loss on held-out images, each at the temperature that suits it. The best is taken
    if it is better than the default by more than a standard error. An image that is the only one of its class is never
    held out; where fewer than `tuning.LEAST_IMAGES` can be, the default stays.

    Args:
        examples: to learn from.
        method: "prototypes" (text mixed with the mean image), "linear" (logistic regression) or "cache" (Tip-Adapter).
        alpha: how much images count beside text: their share for prototypes, the weight of the cache; None chooses it.
        seed: of the folds.

    Raises:
        UsageProblem: an alpha that the method does not take.
    """
    way = _WAYS[method](alpha)
    fitted = way.fitted(examples)
    held = _HeldOut(examples, way, seed)
    if len(held) < LEAST_IMAGES:
        return Fitted(fitted(way.default), way.named(way.default, examples), 1.0, None)
    taken = held.searched()
    return Fitted(
        head=_tempered(fitted(taken.setting), taken.scale),
        setting=way.named(taken.setting, examples),
        temperature=1 / taken.scale,
        accuracy=held.accuracy(seed),
    )


def check(method: Method, alpha: float | None) -> None:
    """See that a method can be had, and takes this alpha, before the work.

    Raises:
        UsageProblem: it does not take it.
        ClipzsError: scikit-learn is missing, for the linear method.
    """
    _WAYS[method](alpha)
    if method == "linear" and find_spec("sklearn") is None:
        raise ClipzsError("a linear probe needs the scikit-learn package", hint=INSTALL)


class _Way(Protocol):
    """A method of fitting, and which settings it has."""

    default: Setting
    others: Sequence[Setting]

    def named(self, setting: Setting, examples: Examples) -> dict[str, float]:
        """A setting for people."""

    def finer(self, best: Setting, round_: int) -> Sequence[Setting]:
        """Settings near the best so far, in the n-th round from 1; none ends the search."""

    def fitted(self, examples: Examples) -> Callable[[Setting], Head]:
        """What makes heads of the examples; what all settings share is done once."""


class _Prototypes:
    """Each class's mean image, scaled to length 1 and mixed with its text: alpha x image + (1 - alpha) x text.

    Unless alpha is given, it is n / (n + w) for n images a class: the text counts as much as w images. It is the same
    for all classes, because images are nearer to images than to texts, whatever they show.
    """

    def __init__(self, alpha: float | None) -> None:
        if alpha is not None and not 0 <= alpha <= 1:
            raise UsageProblem(
                f"--alpha {alpha:g}: for prototypes it is the images' share", hint="0 is the text alone, 1 the images"
            )
        self._alpha = alpha
        self.default: Setting = (_WORTH,)
        self.others: Sequence[Setting] = [(worth,) for worth in _WORTHS if worth != _WORTH] if alpha is None else []

    def _share(self, setting: Setting, examples: Examples) -> float:
        each = len(examples.images) / len(examples.names)
        return each / (each + setting[0]) if self._alpha is None else self._alpha

    def named(self, setting: Setting, examples: Examples) -> dict[str, float]:
        return {"alpha": self._share(setting, examples)}

    def finer(self, best: Setting, round_: int) -> Sequence[Setting]:
        return ()

    def fitted(self, examples: Examples) -> Callable[[Setting], Head]:
        sums = np.zeros(examples.texts.shape)
        np.add.at(sums, examples.answers, examples.images)
        means, texts = _unit(sums), examples.texts.astype(np.float64)

        def head(setting: Setting) -> Head:
            alpha = self._share(setting, examples)
            return _head(examples, examples.scale * _unit(alpha * means + (1 - alpha) * texts))

        return head


class _Linear:
    """Logistic regression with an L2 penalty; each class has the same weight, whatever its number of images.

    Source: arXiv:2103.00020, appendix A.3: the strength of the penalty is searched for from 1e-6 to 1e6, halving the
    interval around the best until there are eight steps in a decade. Newton's method finds what L-BFGS does there, in
    a third of the time.
    """

    default: Setting = (_DECADE,)
    others: Sequence[Setting] = [(decade,) for decade in _DECADES]

    def __init__(self, alpha: float | None) -> None:
        if alpha is not None:
            raise UsageProblem("--alpha mixes images with text, which a linear probe does not read")

    def named(self, setting: Setting, examples: Examples) -> dict[str, float]:
        return {"C": float(10 ** setting[0])}

    def finer(self, best: Setting, round_: int) -> Sequence[Setting]:
        step = (_DECADES[1] - _DECADES[0]) / 2**round_
        near = (best[0] - step, best[0] + step) if step >= _LEAST_STEP else ()
        return [(decade,) for decade in near if _DECADES[0] <= decade <= _DECADES[-1]]

    def fitted(self, examples: Examples) -> Callable[[Setting], Head]:
        from sklearn.linear_model import LogisticRegression

        # The weights of least length lie in the space of the examples, which has few dimensions if they are few.
        turned, lengths, axes = np.linalg.svd(examples.images.astype(np.float64), full_matrices=False)
        kept = lengths > _NOTHING * lengths[0]
        turned, axes = turned[:, kept] * lengths[kept], axes[kept]

        def head(setting: Setting) -> Head:
            made = LogisticRegression(C=10 ** setting[0], class_weight="balanced", solver="newton-cg")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that iterations ran out, as they may with hardly any penalty
                made.fit(turned, examples.answers)
            weight, bias = made.coef_ @ axes, made.intercept_
            if len(weight) == 1:  # of two classes: the second's against the first's
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            return _head(examples, weight, bias)

        return head


class _TipAdapter:
    """The text's logits, and what the examples say: alpha x the sum of exp(-beta (1 - cosine)) over those of a class.

    Source: arXiv:2111.03930; without its fine-tuning.
    """

    def __init__(self, alpha: float | None) -> None:
        if alpha is not None and not (alpha >= 0 and np.isfinite(alpha)):
            raise UsageProblem(f"--alpha {alpha:g}: the weight of a cache is at least 0", hint="in the paper it is 1")
        self.default: Setting = (_WEIGHT if alpha is None else alpha, _SHARPNESS)
        every = product(_WEIGHTS if alpha is None else (alpha,), _SHARPNESSES)
        self.others: Sequence[Setting] = [setting for setting in every if setting != self.default]

    def named(self, setting: Setting, examples: Examples) -> dict[str, float]:
        return {"alpha": setting[0], "beta": setting[1]}

    def finer(self, best: Setting, round_: int) -> Sequence[Setting]:
        return ()

    def fitted(self, examples: Examples) -> Callable[[Setting], Head]:
        order = np.argsort(examples.answers, kind="stable")
        keys, answers = examples.images[order], examples.answers[order]
        weight = examples.scale * examples.texts.astype(np.float64)
        return lambda setting: _head(examples, weight, cache=Cache(keys, answers, alpha=setting[0], beta=setting[1]))


_WAYS: dict[Method, Callable[[float | None], _Way]] = {
    "prototypes": _Prototypes,
    "linear": _Linear,
    "cache": _TipAdapter,
}


def _unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1; one without length, as opposite images have for a mean, stays 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _head(examples: Examples, weight: Floats, bias: Floats | None = None, cache: Cache | None = None) -> Head:
    bias = np.zeros(len(weight)) if bias is None else bias
    return Head(examples.names, weight.astype(np.float32), bias.astype(np.float32), cache)


def _tempered(head: Head, scale: float) -> Head:
    """With logits that are so many times as large."""
    cache = replace(head.cache, alpha=head.cache.alpha * scale) if head.cache else None
    return Head(head.names, head.weight * np.float32(scale), head.bias * np.float32(scale), cache)


@dataclass(frozen=True)
class _Tried:
    """A setting, and what became of the m held-out images.

    Attributes:
        setting: which.
        scale: by which the logits are multiplied: 1 / temperature.
        loss: float64 [m], in nats, of answers that may be wrong once in m + 2 times: if none of m is wrong, a setting
            that is surer of all of them is not better without end. Source: J. Platt, Probabilistic Outputs for
            Support Vector Machines (1999), section 2.2.
        right: bool [m].
    """

    setting: Setting
    scale: float
    loss: Floats
    right: NDArray[np.bool_]


class _HeldOut:
    """Images that are held out in turn, a fold at a time, while a head is fitted to all others."""

    def __init__(self, examples: Examples, way: _Way, seed: int) -> None:
        self._examples = examples
        self._way = way
        fold = stratified(examples.answers, FOLDS, seed=seed)
        fold[examples.support[examples.answers] == 1] = -1  # so that no class is ever without an image
        parts = [(np.flatnonzero(fold == number), np.flatnonzero(fold != number)) for number in range(FOLDS)]
        self._parts = [(held, rest) for held, rest in parts if len(held)]
        self._held = np.concatenate([held for held, _ in self._parts] or [np.empty(0, np.intp)])
        self._answers = examples.answers[self._held]
        self._tried: list[_Tried] = []

    def __len__(self) -> int:
        return len(self._held)

    def searched(self) -> _Tried:
        """The best of all settings that are worth trying, or the default if that is not clearly worse."""
        fitted = [self._way.fitted(self._examples.at(rest)) for _, rest in self._parts]
        self._tried = [self._try(setting, fitted) for setting in (self._way.default, *self._way.others)]
        for round_ in count(1):
            best = self._tried[int(np.argmin(self._losses().mean(axis=1)))]
            near = self._way.finer(best.setting, round_)
            if not near:
                break
            self._tried += [self._try(setting, fitted) for setting in near]
        return self._tried[_chosen(self._losses())]

    def _try(self, setting: Setting, fitted: Sequence[Callable[[Setting], Head]]) -> _Tried:
        parts = zip(self._parts, fitted, strict=True)
        logits = np.concatenate([made(setting).logits(self._examples.images[held]) for (held, _), made in parts])
        scale = fitted_scale(logits, self._answers, 1.0)
        own = np.take_along_axis(logits, self._answers[:, None], axis=1)[:, 0]
        beyond = scale * (own - logits.mean(axis=1))
        loss = losses(logits, self._answers, scale) + beyond / (len(self) + 2)
        return _Tried(setting, scale, loss, logits.argmax(axis=1) == self._answers)

    def _losses(self) -> Floats:
        """[settings, m]."""
        return np.stack([tried.loss for tried in self._tried])

    def accuracy(self, seed: int) -> float:
        """The share of right answers, corrected for the setting having been chosen by these very images.

        Again and again a setting is chosen by images drawn with replacement, and judged by those not drawn.

        Source: bootstrap bias corrected cross-validation, doi:10.1007/s10994-018-5714-4.
        """
        draw, m = np.random.default_rng(seed), len(self)
        loss, right = self._losses(), np.stack([tried.right for tried in self._tried])
        found = []
        for _ in range(RESAMPLED):
            drawn = draw.integers(0, m, m)
            left = np.setdiff1d(np.arange(m), drawn)
            found.append(right[_chosen(loss[:, drawn]), left].mean() if len(left) else np.nan)
        return float(np.nanmean(found))


def _chosen(loss: Floats) -> int:
    """The row of the least mean, if it is below the first row's by more than a standard error of their difference."""
    best = int(np.argmin(loss.mean(axis=1)))
    gain = loss[0] - loss[best]
    return best if gain.mean() > gain.std() / np.sqrt(len(gain)) else 0
