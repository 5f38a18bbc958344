"""What determines the numbers: a short hash of it in every record, and what differs between two of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, get_args

from clipzs.score import ScoreKind
from clipzs.store import key

_PRECISIONS = ("fp32", "bf16", "fp16")
_SCORES: tuple[ScoreKind, ...] = get_args(ScoreKind)
ROLL_UP = "--roll-up"
_ROLLED_UP = tuple((ROLL_UP, percent / 100, f"{percent / 100:g}") for percent in range(50, 101))  # that are likely


@dataclass(frozen=True)
class Configuration:
    """Everything that determines the numbers.

    Attributes:
        model: its name.
        digest: of the model: weights, architecture, tokenizer, preprocessing.
        labels: name, group (of several the names, the coarsest first) and prompts of each, in order.
        precision: what the model computes in.
        exact_decode: whether every pixel of large images is decoded.
        score: the kind of score.
        by_group: whether the probabilities of a group are added up.
        settings: what is not as it is by default: the option, what determines its effect, and its value in words.
        unknown: the unknown label, where it has a score.
    """

    model: str
    digest: str
    labels: tuple[tuple[str, str | tuple[str, ...] | None, tuple[str, ...]], ...]
    precision: str
    exact_decode: bool
    score: ScoreKind
    by_group: bool
    settings: tuple[tuple[str, Any, str], ...] = ()
    unknown: str | None = None

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits. The first four are of the model alone, so that it can be told from the rest."""
        how = (
            self.precision,
            self.exact_decode,
            self.score,
            self.by_group,
            *(setting[:2] for setting in self.settings),
        )
        return key(self.digest).hex()[:4] + key(self.digest, how, self.labels).hex()[:8]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What is scored: the labels or, with `by_group`, their groups; and the unknown label."""
        names = ((_finest(group) or name) if self.by_group else name for name, group, _ in self.labels)
        return tuple(dict.fromkeys([*names, *([] if self.unknown is None else [self.unknown])]))

    def difference(self, *, model: str, config: str, names: Sequence[str]) -> str | None:
        """Which settings made another record, in words; None if they are these.

        A hash cannot be undone, but the settings that have a few values can be tried.

        Args:
            model: the record's model.
            config: its hash.
            names: the labels it has scores of.
        """
        if config == self.hash:
            return None
        if config[:4] != self.hash[:4]:
            return f"model was {model}, now {self.model}" if model != self.model else f"the weights of {model} differ"
        for other in self._alike(names):
            if other.hash == config:
                return "; ".join(self._unlike(other))
        strange = next((name for name in names if name not in self.names), None)
        if strange is not None:
            return f"labels differ: it has {strange!r}, which is none of yours now"
        if any(option == "--head" for option, *_ in self.settings):
            return "made with another head, or with none"
        if len(names) < len(self.names):
            return "labels differ, or their prompts (templates, context, aliases)"
        values = "".join(f", or the value of {option}" for option, *_ in self.settings)
        return f"prompts differ (templates, context, aliases, groups), or the order of the labels{values}"

    def _alike(self, names: Sequence[str]) -> Iterator["Configuration"]:
        """With other values of the settings that have a few, and with these labels or those of them in `names`."""
        some = tuple(label for label in self.labels if label[0] in names)
        fewer = [tuple(one for one in self.settings if one != without) for without in self.settings]
        for labels, settings in product(dict.fromkeys((self.labels, some)), (self.settings, *fewer, ())):
            for precision, exact, score, grouped in product(_PRECISIONS, (False, True), _SCORES, (False, True)):
                yield replace(
                    self,
                    labels=labels,
                    precision=precision,
                    exact_decode=exact,
                    score=score,
                    by_group=grouped,
                    settings=settings,
                )
        if any(group for _, group, _ in self.labels):
            others = tuple(one for one in self.settings if one[0] != ROLL_UP)
            for rolled_up in _ROLLED_UP:
                yield replace(self, score="softmax", by_group=False, settings=(*others, rolled_up))

    def _unlike(self, other: "Configuration") -> Iterator[str]:
        new = next((name for name, *_ in self.labels if name not in {name for name, *_ in other.labels}), None)
        if new is not None:
            yield f"labels differ: it has no {new!r}"
        for option, theirs, ours in (
            ("--precision", other.precision, self.precision),
            ("--exact-decode", other.exact_decode, self.exact_decode),
            ("--score", other.score, self.score),
            ("--by-group", other.by_group, self.by_group),
        ):
            if theirs != ours:
                yield f"{option} was {_shown(theirs)}, now {_shown(ours)}"
        before, now = ({option: words for option, _, words in one.settings} for one in (other, self))
        for option in dict.fromkeys((*now, *before)):
            if before.get(option) != now.get(option):
                yield f"{option} was {before.get(option, 'not set')}, now {now.get(option, 'not set')}"


def _finest(group: str | tuple[str, ...] | None) -> str | None:
    return group[-1] if isinstance(group, tuple) else group


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else "on" if value else "off"
