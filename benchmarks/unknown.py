"""`python -m benchmarks.unknown --data DIR`: how well pictures of other things are told from those of the labels.

DIR holds labelled sets, a folder of images for each class. Some classes of a set are the labels; the pictures of its
other classes, or those of other sets, are unknown. Classes are drawn several times; intervals are of images drawn
again. `--write` puts the tables between their marks in a document.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import filled, markdown
from clipzs import metrics, prompts, templates, truth
from clipzs.background import Background, Contrast, WithUnknown, words
from clipzs.defaults import THRESHOLD
from clipzs.embedder import Embedder
from clipzs.labels import Label
from clipzs.options import Options, checked
from clipzs.score import Array, normalise, scores

Wide = NDArray[np.float64]
SETS = ("pacs-photo", "clothing", "scenes", "cats-dogs")
# known set, how many of its classes are labels (0: all), unknown sets (none: its other classes)
TASKS = (
    ("pacs-photo", 3, ()),
    ("clothing", 5, ()),
    ("pacs-photo", 0, ("scenes", "clothing")),
    ("clothing", 0, ("scenes", "pacs-photo")),
    ("cats-dogs", 0, ("scenes", "clothing")),
)
DRAWS = 20  # of classes
RESAMPLES = 500
GENERIC = ("a photo.", "an image of something.", "a photo of something else.", "a picture of nothing in particular.")
NEAR = 0.05  # the share of words that NegLabel leaves out as too near the labels
COVERAGES = (0.5, 1.0)  # answers for each known image


class Set(NamedTuple):
    """One labelled set: float32 [n, d], the class of each image, and float32 [c, d]."""

    images: Array
    answers: NDArray[np.intp]
    labels: Array


class Verdict(NamedTuple):
    """Of n images: how surely they are of a label, the best label's score, that label, and whether it is the answer."""

    known: Wide
    confidence: Wide
    best: NDArray[np.intp]
    answered: NDArray[np.bool_]


Method = Callable[[Array, Array], Verdict]  # images, labels


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unknown", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sets")
    parser.add_argument("--model", default="tiny", help="as after clipzs --model")
    parser.add_argument("--seed", type=int, default=0, help="of the classes and images that are drawn")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    embedder = Embedder(checked(Options(model=options.model)))
    chosen = templates.chosen()

    def texts(names: Sequence[str]) -> Array:
        return np.stack([one.vector for one in embedder.labels([prompts.expand(Label(n), chosen) for n in names])])

    sets = {name: embedded(options.data / name, embedder, texts) for name in SETS}
    everyday, generic = texts(words()), embedder.texts(GENERIC)
    scale = embedder.encoder.logit_scale
    told, ruled, several = [], [], []
    for task in TASKS:
        null = np.concatenate([one.images for name, one in sets.items() if name not in (task[0], *task[2])])
        methods: dict[str, Method] = {
            "max softmax": partial(max_softmax, scale=scale),
            "generic prompts": partial(with_prompts, generic=generic, scale=scale),
            "NegLabel": partial(neg_label, words=everyday, scale=scale),
            "`--unknown`": partial(unknown, words=everyday, scale=scale),
            "and null images": partial(null_images, words=everyday, null=null),
        }
        told_rows, ruled_row = of_task(task, sets, methods, seed=options.seed)
        told += told_rows
        ruled.append(ruled_row)
    for name, one in sets.items():
        several.append(of_multi(name, one, everyday, seed=options.seed))
    parts = {
        "unknown": markdown(["labels", "unknown", "method", "AUROC", "above max softmax",
                             "accuracy, half as many answers as known", "accuracy, as many"], told, words=3),
        "rules": markdown(["labels", "unknown", "known answered", "unknown refused", "answers right, all answered",
                           "answers right, `--unknown`"], ruled, words=2),
        "multi": markdown(["set", "labels", "AUROC, cosine", "AUROC, `--multi`", "precision at 0.5", "recall at 0.5",
                           "F1 at 0.5", "F1 at best"], several),
    }  # fmt: skip
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


def embedded(folder: Path, embedder: Embedder, texts: Callable[[Sequence[str]], Array]) -> Set:
    """A set, read and embedded."""
    labelled = truth.from_folder(folder)
    images = np.concatenate([batch.vectors for batch in embedder.batches(labelled.paths)])
    return Set(images, np.array(labelled.answers), texts(labelled.classes))


def of_task(
    task: tuple[str, int, tuple[str, ...]], sets: dict[str, Set], methods: dict[str, Method], *, seed: int
) -> tuple[list[list[str]], list[str]]:
    """Rows of the two tables on the unknown."""
    name, count, others = task
    own = sets[name]
    far = [sets[other].images for other in others]
    images = np.concatenate([own.images, *far])
    draw = np.random.default_rng(seed)
    classes = len(own.labels)
    choices = [np.sort(draw.choice(classes, count, replace=False)) for _ in range(DRAWS)] if count else [
        np.arange(classes)
    ]  # fmt: skip
    verdicts = {method: [judge(images, own.labels[chosen]) for chosen in choices] for method, judge in methods.items()}
    truths = []
    for chosen in choices:
        columns = np.full(len(images), -1)  # of the right label; -1 where none is
        for column, number in enumerate(chosen):
            columns[: len(own.answers)][own.answers == number] = column
        truths.append(columns)

    def figures(rows: NDArray[np.intp]) -> Wide:
        """AUROC and accuracies of each method, then what `--unknown` answers."""
        found: list[float] = []
        for judged in verdicts.values():
            of_draws = [
                [auroc(v.known[rows], t[rows] >= 0), *(surest(v, t, rows, coverage) for coverage in COVERAGES)]
                for v, t in zip(judged, truths, strict=True)
            ]
            found += np.mean(of_draws, axis=0).tolist()
        ruled = [answers(v, t, rows) for v, t in zip(verdicts["`--unknown`"], truths, strict=True)]
        return np.array([*found, *np.nanmean(ruled, axis=0)])

    all_ = figures(np.arange(len(images)))
    drawn = metrics.bootstrap(figures, len(images), seed=seed, resamples=RESAMPLES)
    ends = metrics.intervals(drawn)
    gains, gain_ends = all_ - all_[0], metrics.intervals(drawn - drawn[:, :1])
    labels = f"{name}, {count} of {classes} classes" if count else f"{name}, all {classes} classes"
    rest = " and ".join(others) or "its other classes"
    rows = [
        [labels, rest, method, shown(all_[n], ends[n]), shown(gains[n], gain_ends[n], sign="+") if n else "",
         *(share(all_[m], ends[m]) for m in range(n + 1, n + 1 + len(COVERAGES)))]
        for n, method in zip(range(0, len(all_), 1 + len(COVERAGES)), methods, strict=False)
    ]  # fmt: skip
    last = len(all_) - 4
    return rows, [labels, rest, *(share(all_[n], ends[n]) for n in range(last, len(all_)))]


def of_multi(name: str, one: Set, everyday: Array, *, seed: int) -> list[str]:
    """Row of the table on labels each for itself: one label of each image is right, the others are wrong."""
    table = Contrast((), one.labels, Background(everyday, everyday[:0]))(one.images)
    cosine = one.images @ one.labels.T
    right = one.answers[:, None] == np.arange(len(one.labels))

    def figures(rows: NDArray[np.intp]) -> Wide:
        found, wanted = table[rows] >= THRESHOLD, right[rows]
        hits = (found & wanted).sum()
        order = np.argsort(-table[rows], axis=None)
        f1 = 2 * np.cumsum(wanted.ravel()[order]) / (np.arange(1, order.size + 1) + wanted.sum())
        return np.array([
            auroc(cosine[rows].ravel().astype(np.float64), wanted.ravel()),
            auroc(table[rows].ravel().astype(np.float64), wanted.ravel()),
            hits / found.sum() if found.any() else np.nan,
            hits / wanted.sum(),
            2 * hits / (found.sum() + wanted.sum()),
            f1.max(),
        ])  # fmt: skip

    all_ = figures(np.arange(len(right)))
    ends = metrics.intervals(metrics.bootstrap(figures, len(right), seed=seed, resamples=RESAMPLES))
    return [name, str(len(one.labels)), shown(all_[0], ends[0]), shown(all_[1], ends[1]),
            *(share(all_[n], ends[n]) for n in range(2, 6))]  # fmt: skip


def max_softmax(images: Array, labels: Array, *, scale: float) -> Verdict:
    """Maximum concept matching, arXiv:2211.13445: the best label's softmax."""
    table = scores(images, labels, kind="softmax", scale=scale, bias=None).astype(np.float64)
    return Verdict(table.max(axis=1), table.max(axis=1), table.argmax(axis=1), np.ones(len(table), bool))


def with_prompts(images: Array, labels: Array, *, generic: Array, scale: float) -> Verdict:
    """A few prompts of nothing in particular in the softmax."""
    together = scores(images, np.concatenate([labels, generic]), kind="softmax", scale=scale, bias=None)
    table = together.astype(np.float64)[:, : len(labels)]
    return Verdict(table.sum(axis=1), table.max(axis=1), table.argmax(axis=1), together.argmax(axis=1) < len(labels))


def neg_label(images: Array, labels: Array, *, words: Array, scale: float) -> Verdict:
    """Negative labels, arXiv:2403.20078, without groups: the words in the softmax but for those nearest the labels."""
    near = (words @ labels.T).max(axis=1)
    return with_prompts(images, labels, generic=words[near <= np.quantile(near, 1 - NEAR)], scale=scale)


def unknown(images: Array, labels: Array, *, words: Array, scale: float) -> Verdict:
    """What clipzs does."""
    names = tuple(map(str, range(len(labels))))
    scorer = WithUnknown(names, labels, Background(words, words[:0]), scale=scale, unknown="unknown")
    together = scorer(images).astype(np.float64)
    table = together[:, :-1]
    return Verdict(-together[:, -1], table.max(axis=1), table.argmax(axis=1), together.argmax(axis=1) < len(labels))


def null_images(images: Array, labels: Array, *, words: Array, null: Array) -> Verdict:
    """The evidence for each label in standard deviations above its mean over pictures of other things."""

    def evidence(of: Array) -> Wide:
        each, against = Background(words, words[:0]).evidence(of, labels)
        return each - against[:, None]

    usual = evidence(normalise(null))
    table = (evidence(images) - usual.mean(axis=0)) / usual.std(axis=0)
    return Verdict(table.max(axis=1), table.max(axis=1), table.argmax(axis=1), np.ones(len(table), bool))


def auroc(scored: Wide, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive has the higher score than a negative; ties count half."""
    _, rank, count = np.unique(scored, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # the mean rank of equal scores
    positives = positive.sum()
    pairs = positives * (len(positive) - positives)
    return float((middle[rank[positive]].sum() - positives * (positives + 1) / 2) / pairs) if pairs else np.nan


def surest(verdict: Verdict, truth: NDArray[np.intp], rows: NDArray[np.intp], coverage: float) -> float:
    """The share of right answers among the surest of all images, so many of them for each known one."""
    most = max(1, round(coverage * np.count_nonzero(truth[rows] >= 0)))
    order = np.argsort(-verdict.confidence[rows], kind="stable")[:most]
    return float((verdict.best[rows] == truth[rows])[order].mean())


def answers(verdict: Verdict, truth: NDArray[np.intp], rows: NDArray[np.intp]) -> list[float]:
    """Known images answered, unknown ones refused, and right answers among all images and among those answered."""
    answered, known = verdict.answered[rows], truth[rows] >= 0
    right = verdict.best[rows] == truth[rows]
    return [answered[known].mean(), 1 - answered[~known].mean(), right.mean(),
            right[answered].mean() if answered.any() else np.nan]  # fmt: skip


def shown(value: float, ends: Wide, sign: str = "") -> str:
    """A figure and its interval."""
    return f"{value:{sign}.3f} ({ends[0]:{sign}.3f} … {ends[1]:{sign}.3f})"


def share(value: float, ends: Wide) -> str:
    """A share and its interval."""
    return f"{value:.1%} ({ends[0]:.0%} … {ends[1]:.0%})"


if __name__ == "__main__":
    main()
