"""The classes to choose among: named on the command line or in code, checked. Files are read by `labelfiles`."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clipzs.errors import LabelsError

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6  # beyond that, averages are no numbers any more
WEIGHT_RANGE = "from 1e-6 to 1e6"
LEVELS = " > "  # parts the levels of a group that is written as one text
_BETWEEN = re.compile(r"(?<!\S)>(?!\S)")


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
    templates for this label (a `<>` in them is filled with the name). `groups` name coarser classes that it
    is in, the coarsest first. `threshold` is the score from which on it is an answer. `weights` say how much
    each of the `prompts` counts; without them all count the same. `tuned` is what thresholds and weights were
    fitted to. `place` is the file and line that it is from, for messages; it makes no label another.
    """

    name: str
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    threshold: float | None = None
    weights: tuple[float, ...] = ()
    tuned: Tuned | None = None
    place: str | None = field(default=None, compare=False, repr=False)

    @property
    def group(self) -> str | None:
        """The finest of its groups."""
        return self.groups[-1] if self.groups else None


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


def as_it_is(text: str, *, place: str | None = None) -> Label:
    """A label that the model reads as it is, in no template."""
    return Label(text.strip(), prompts=("<>",), place=place)


def levels(given: object) -> tuple[str, ...]:
    """Groups as a file has them: one text, whose levels ` > ` parts, or a list of texts; the coarsest first.

    >>> levels("animal > dog"), levels(["animal", "dog"]), levels(None)
    (('animal', 'dog'), ('animal', 'dog'), ())

    Raises:
        ValueError: it is something else, has an empty level, or has one twice; in words.
    """
    if given is None:
        return ()
    parts = _BETWEEN.split(given) if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("`group` must be text or a list of texts, the coarsest first")
    groups = tuple(part.strip() for part in parts)
    if not all(groups):
        raise ValueError("`group` has an empty level" if len(groups) > 1 else "`group` is empty")
    if len(set(groups)) < len(groups):
        raise ValueError("`group` has a level twice")
    return groups


def written(groups: tuple[str, ...]) -> str | list[str] | None:
    """As `levels` reads them back: none, one as text, several as a list."""
    if len(groups) == 1 and not _BETWEEN.search(groups[0]):
        return groups[0]
    return list(groups) or None


def parents(labels: Iterable[Label]) -> dict[str, dict[str | None, Label]]:
    """Of each group the groups right above it (None: it is at the top), each with the first label that says so.

    In a tree each group has one.
    """
    found: dict[str, dict[str | None, Label]] = {}
    for label in labels:
        for above, group in zip((None, *label.groups), label.groups, strict=False):
            found.setdefault(group, {}).setdefault(above, label)
    return found


def check_tree(labels: Sequence[Label]) -> None:
    """See that every answer, label or group, can be told by its name alone.

    Raises:
        LabelsError: a group is in two others, or a label is called like a group.
    """
    names = {label.name: label for label in labels}
    for group, above in parents(labels).items():
        if len(above) > 1:
            (one, first), (other, second), *_ = above.items()
            raise LabelsError(
                f"{where(second)}group {group!r} is {_under(other)} with label {second.name!r}, "
                f"and {_under(one)} with {first.name!r}",
                hint="a group has one place among the others: call one of the two otherwise",
            )
        if group in names:
            raise LabelsError(
                f"{where(names[group])}{group!r} is a label and a group: an answer could be either",
                hint="call one of them otherwise",
            )


def where(label: Label) -> str:
    """Where the label is from, to begin a message with: "FILE:LINE: ", or nothing."""
    return f"{label.place}: " if label.place else ""


def _under(group: str | None) -> str:
    return "in no other" if group is None else f"in {group!r}"


def checked(labels: Sequence[Label], *, least: int = 2) -> tuple[Label, ...]:
    """The labels, if they can be chosen among.

    Args:
        labels: in the order they were given.
        least: how many there must be: two where scores are shared among them.

    Raises:
        LabelsError: none, too few, an empty one, one that occurs twice, one that is not Unicode text, or groups or
            weights that are none.
    """
    if not labels:
        raise LabelsError("no labels given", hint="name at least two: --labels cat,dog or --labels-file FILE")
    names = [label.name for label in labels]
    if not all(names):
        raise LabelsError(
            f"label {names.index('') + 1} of {len(names)} is empty", hint="look for two commas in a row in --labels"
        )
    wrong = next((label for label in labels if not _grouped(label)), None)
    if wrong is not None:
        raise LabelsError(f"the groups of label {wrong.name!r} must be a tuple of different texts, the coarsest first")
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
        raise LabelsError(
            f"label {wrong.name!r} needs a weight for each of its {len(wrong.prompts)} prompts, {WEIGHT_RANGE}"
        )
    if len(labels) < least:
        raise LabelsError(
            f"only one label given: {names[0]}",
            hint=f"a softmax over one class is always 1: add what else it could be (--labels {names[0]},other), "
            "ask whether it is one with --unknown, or for the raw similarity with --score cosine",
        )
    return tuple(labels)


def _grouped(label: Label) -> bool:
    groups = label.groups
    right = isinstance(groups, tuple) and all(isinstance(one, str) and one.strip() for one in groups)
    return right and len(set(groups)) == len(groups)


def is_weight(value: float) -> bool:
    """Whether a prompt may count so much."""
    return LEAST_WEIGHT <= value <= MOST_WEIGHT


def _weighs(label: Label) -> bool:
    return len(label.weights) in (0, len(label.prompts)) and all(map(is_weight, label.weights))


def _texts_of(label: Label) -> tuple[str, ...]:
    return (label.name, *label.aliases, *label.prompts, *label.groups)


def _is_broken(text: str) -> bool:
    """Whether there are lone surrogates in it: bytes of an argument that are not UTF-8, or halves of a JSON escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
