"""Which images of results are what somebody looks for."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from clipzs.errors import UsageProblem, quoted
from clipzs.labels import Label
from clipzs.results import Result


class Filter:
    """Picks images whose answer is one of some labels, or whose score for one of them is high enough.

    Attributes:
        matches: images picked so far.
        missing: names that no result has had so far, neither as answer nor as scored label.
    """

    def __init__(
        self,
        names: Sequence[str],
        show: Callable[[Sequence[str]], None],
        *,
        min_score: float | None = None,
        invert: bool = False,
    ) -> None:
        """Say what is looked for.

        Args:
            names: labels or groups; one of them is enough.
            show: called with the paths of a batch that match.
            min_score: the score of a name that makes a match, whatever the answer is; None asks for the answer.
            invert: pick the others. What could not be read is in neither.
        """
        self.matches = 0
        self.missing = dict.fromkeys(names)
        self._names, self._show, self._min_score, self._invert = names, show, min_score, invert
        self._inside: Mapping[str, frozenset[str]] = {name: frozenset([name]) for name in names}
        self._shared = True

    @property
    def again(self) -> str | None:
        """Nothing goes on from where it was stopped."""
        return None

    def expect(self, labels: Iterable[Label], *, unknown: str | None, shared: bool) -> None:
        """See that the names are among the answers; a group stands for all that is in it.

        Args:
            labels: to choose among.
            unknown: the answer that says that no label is right, if there is one.
            shared: labels share one probability, so that a group has the sum of theirs; otherwise the largest.

        Raises:
            UsageProblem: a name is neither a label nor a group.
        """
        inside: dict[str, set[str]] = {} if unknown is None else {unknown: {unknown}}
        for label in labels:
            for place, name in enumerate((*label.groups, label.name)):
                inside.setdefault(name, {name}).update((*label.groups[place:], label.name))
        strange = next((name for name in self._names if name not in inside), None)
        if strange is not None:
            raise UsageProblem(f"--is {strange!r} is none of the labels", hint=f"they are {quoted(list(inside))}")
        self._inside = {name: frozenset(inside[name]) for name in self._names}
        self._shared = shared

    def write(self, batch: Sequence[Result]) -> None:
        """Show those of a batch that match."""
        found = [result.path for result in batch if result.error is None and self._picks(result) != self._invert]
        self.matches += len(found)
        if found:
            self._show(found)

    def close(self, run: Mapping[str, object]) -> None:
        """Nothing: each batch stands by itself."""

    def abandon(self) -> None:
        """Nothing was begun."""

    def _picks(self, result: Result) -> bool:
        scores = {one.label: one.score for one in (*result.scores, *(result.groups or ()))}
        if result.label is not None and result.score is not None:
            scores.setdefault(result.label, result.score)
        for name in [name for name in self.missing if name in scores or name in result.answers]:
            del self.missing[name]
        if self._min_score is None:
            return any(answer in self._inside[name] for name in self._names for answer in result.answers)
        return any(self._score(name, scores) >= self._min_score for name in self._names)

    def _score(self, name: str, scores: Mapping[str, float]) -> float:
        if name in scores:
            return scores[name]
        parts = [scores[one] for one in self._inside[name] if one in scores]
        return (sum(parts) if self._shared else max(parts)) if parts else float("-inf")
