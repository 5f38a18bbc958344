"""What may be wrong with labels for a model, each kind as one finding however many labels it concerns."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipzs.families import in_words
from clipzs.labels import Label, parents
from clipzs.modelspec import ModelSpec
from clipzs.score import Array
from clipzs.scripts import foreign
from clipzs.store import LabelEmbedding

NAMED = 3  # labels in one line; of the others, their number
NEAR = 0.95  # the cosine from which on two labels are near-duplicates, where labels usually differ
# As a share of how much everyday words differ to the model: some models read all texts as much alike as 0.95.
NEAR_SHARE = 0.25
EVERYDAY = ("airplane", "apple", "beach", "bicycle", "bridge", "cat", "chair", "house", "man", "shoe", "spider", "tree")
MOST_AT_ONCE = 2_000  # labels that are compared pair by pair in passing
_ROWS = 256  # that are compared with all others at once, so that 50,000 labels take little memory
_FEW = 32  # dimensions
_PAIRS = 10_000  # that are worth a product of all
_SLACK = 1e-4  # of float32
_CHARACTERS = {"Han": "Chinese"}
_CHINESE = {"Han", "Bopomofo"}
# With a hyphen it is part of a name (forget-me-not), and "no" before a full stop or a digit a number.
_NEGATION = re.compile(
    r"(?<![\w-])(?:non-\w+|no(?![\w-]|\.|\s*\d)"
    r"|(?:not|never|without|neither|nor|none|nothing|nobody|cannot|except|excluding)(?![\w-]))|\w+n['’]t\b",
    re.IGNORECASE,
)
_FORBIDDING = re.compile(r"\b(?:sign|symbol|zone)s?\b", re.IGNORECASE)  # can be seen: "a no parking sign"
_ARTICLE = re.compile(r"^(?:an?|the) ")
_GAPS = re.compile(r"[\s_-]+")
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))


@dataclass(frozen=True)
class Concern:
    """One label or several that are in it together, and what it is: the word, the number, the cosine."""

    labels: tuple[str, ...]
    what: str = ""


@dataclass(frozen=True)
class Finding:
    """One kind of doubt about some labels.

    Attributes:
        check: its name: "unreadable", "unknown-words", "cut", "same-text", "same-words", "near-duplicates", "negation",
            "label-as-group", "group-in-two" or "group-of-one".
        message: one line for people, which names the first few.
        concerns: all of them.
    """

    check: str
    message: str
    concerns: tuple[Concern, ...]


def findings(
    labels: Sequence[Label],
    prompts: Sequence[Sequence[str]],
    embedded: Sequence[LabelEmbedding],
    model: ModelSpec,
    *,
    everyday: Callable[[], Array],
    groups: bool = True,
    most: int | None = None,
) -> list[Finding]:
    """All that may be wrong, the worst first.

    Args:
        labels: c of them.
        prompts: the texts of each.
        embedded: what the model made of those.
        model: the model.
        everyday: gives the embeddings of `EVERYDAY`, float32 [n, d], in one of the templates; asked for only where
            some labels are near each other.
        groups: whether groups play a part.
        most: of more labels than these, embeddings are not compared with each other; None compares any number.
    """
    names = [label.name for label in labels]
    same = _same_text(names, embedded)
    alike = _same_words(labels, same)
    near = []
    if most is None or len(labels) <= most:
        near = _near(names, embedded, everyday, known=[*same, *(concern.labels for concern in alike)])
    found = (
        _unreadable(names, prompts, model),
        _unknown(labels, embedded, model),
        _cut([(name, one.longest) for name, one in zip(names, embedded, strict=True)], model),
        _finding(
            "same-text", [Concern(each) for each in same], "the model reads these labels as the same text: ",
            "; their score is split", between="; ",
        ),
        _finding("same-words", alike, "these labels are one word in two forms: ", "", between="; "),
        _finding(
            "near-duplicates", near, f"these labels are almost the same to {model.name}: ", "; their score is split",
            between="; ",
        ),
        _finding(
            "negation", [*_negations(labels)], "labels that say what is not there: ",
            "; models of this kind do not understand negation: name what is there instead",
        ),
        _finding(
            "label-as-group", [*_called_like_groups(labels)] if groups else [], "labels that are called like a group: ",
            "; --by-group takes them for one, --roll-up for none",
        ),
        _finding(
            "group-in-two", [*_in_two(labels)] if groups else [], "groups that are in several others: ",
            "; --by-group takes them for one, --roll-up for none", between="; ",
        ),
        _finding("group-of-one", [*_lonely(labels)] if groups else [], "groups of one label: ", "; is it spelt alike?"),
    )  # fmt: skip
    return [finding for finding in found if finding]


def _finding(
    check: str, concerns: Sequence[Concern], before: str, after: str, *, between: str = ", "
) -> Finding | None:
    """A finding whose message names the first concerns between two texts; None without any."""
    if not concerns:
        return None
    shown = (", ".join(one.labels) + (f" ({one.what})" if one.what else "") for one in concerns)
    return Finding(check, f"{before}{_listed(shown, len(concerns), between)}{after}", tuple(concerns))


def _unreadable(names: Sequence[str], prompts: Sequence[Sequence[str]], model: ModelSpec) -> Finding | None:
    """Labels in a script that none of the model's languages uses; where those are unknown there is nothing to say."""
    found = {
        name: scripts
        for name, texts in zip(names, prompts, strict=True)
        if (scripts := foreign(texts, model.languages))
    }
    if not found:
        return None
    scripts = set().union(*found.values())
    *kinds, last = sorted(_CHARACTERS.get(script, script) for script in scripts)
    written = f"{', '.join(kinds)} and {last}" if kinds else last
    chinese = ", or --model cn-clip:ViT-B-16 for Chinese" if scripts <= _CHINESE else ""
    return Finding(
        "unreadable",
        f"{model.name} knows {in_words(model.languages)}; it cannot read the {written} characters of "
        f"{_listed(found, len(found))}: use --model multilingual{chinese}",
        tuple(Concern((name,), ", ".join(sorted(each))) for name, each in found.items()),
    )


def _unknown(labels: Sequence[Label], embedded: Sequence[LabelEmbedding], model: ModelSpec) -> Finding | None:
    """Labels with words that the model's tokenizer has no tokens for. Byte pairs have some for everything."""
    found = []
    for label, one in zip(labels, embedded, strict=True):
        if one.unknown:
            own = _letters(" ".join([label.name, *label.aliases, *label.prompts]))
            words = [word for word in one.unknown if _letters(word) in own]  # the rest are the templates'
            found += [Concern((label.name,), " ".join(words))] if words else []
    return _finding(
        "unknown-words", found, f"{model.name} has no tokens for words of ", ": to it they are all the same"
    )


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _cut(labels: Sequence[tuple[str, int]], model: ModelSpec) -> Finding | None:
    """Labels with a prompt that the model does not read to its end.

    Args:
        labels: each label's name and the tokens of its longest prompt.
        model: its context length is what counts.
    """
    most = model.context_length
    found = [Concern((name,), str(tokens)) for name, tokens in labels if tokens > most]
    if not found:
        return None
    counts = _listed((f"{one.labels[0]!r} ({one.what})" for one in found), len(found))
    message = f"{model.name} reads {most} tokens of a prompt: the end was cut of longer ones, of labels {counts}"
    if len(found) == 1:
        (name,), tokens = found[0].labels, found[0].what
        message = f"a prompt of label {name!r} has {tokens} tokens, {model.name} reads {most}: the end was cut"
    return Finding("cut", message, tuple(found))


def _same_text(names: Sequence[str], embedded: Sequence[LabelEmbedding]) -> list[tuple[str, ...]]:
    """Labels whose prompts are the same tokens."""
    groups = defaultdict(list)
    for name, one in zip(names, embedded, strict=True):
        groups[one.tokens].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _same_words(labels: Sequence[Label], same: Sequence[Sequence[str]]) -> list[Concern]:
    """Labels that differ only in case, gaps, an article or an English plural, and those that share an alias."""
    named: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for label in labels:
        for text in (label.name, *label.aliases):
            named[_ARTICLE.sub("", _GAPS.sub(" ", text.casefold()).strip())][label.name] = None
    groups: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for text, names in named.items():
        one = next((single for single in _singulars(text) if single in named), text)
        groups[one] |= names
    known = {name: number for number, group in enumerate(same) for name in group}
    return [
        Concern(tuple(group))
        for group in groups.values()
        if len(group) > 1 and len({known.get(name, name) for name in group}) > 1
    ]


def _singulars(text: str) -> list[str]:
    """What an English text may be the plural of.

    >>> _singulars("ponies")
    ['ponie', 'poni', 'pony']
    """
    return [text.removesuffix(many) + one for many, one in _PLURALS if text.endswith(many)]


def _near(
    names: Sequence[str],
    embedded: Sequence[LabelEmbedding],
    everyday: Callable[[], Array],
    known: Iterable[Iterable[str]],
) -> list[Concern]:
    """Labels with their nearest other one, where that is nearer than labels usually are; those of `known` once."""
    first = dict.fromkeys(names, "")
    for group in known:
        for name in group:
            first[name] = first[name] or next(iter(group))
    rows = [row for row, name in enumerate(names) if first[name] in ("", name)]
    if len(rows) < 2:
        return []
    vectors = np.stack([embedded[row].vector for row in rows])
    nearest, cosines = _nearest(vectors)
    if cosines.max() <= NEAR:
        return []
    usual = everyday()
    cosine = np.sort((usual @ usual.T)[np.triu_indices(len(usual), 1)])
    apart = 1.0 - float(cosine[len(cosine) // 2])  # np.median imports much
    least = max(NEAR, 1.0 - NEAR_SHARE * apart)
    pairs = {
        (min(row, other), max(row, other)): cosine
        for row, (other, cosine) in enumerate(zip(nearest.tolist(), cosines.tolist(), strict=True))
        if cosine > least
    }
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Concern((names[rows[one]], names[rows[other]]), f"{cosine:.3f}") for (one, other), cosine in ordered]


def _nearest(vectors: Array) -> tuple[np.ndarray, Array]:
    """float32 [c, d], rows of length 1 → of each row the nearest other one [c], and their cosine, float32 [c].

    Only of cosines over `NEAR`, -inf where there is none. Rows that are as near as that in all dimensions are so in
    those few in which most differ, where nearly all pairs are told apart at a fraction of the work.
    """
    count, distance = len(vectors), 2.0 * (1.0 - NEAR) + _SLACK  # squared
    nearest, cosines = np.zeros(count, np.intp), np.full(count, -np.inf, np.float32)
    few = np.argsort(-vectors.var(axis=0))[:_FEW]
    part = np.ascontiguousarray(vectors[:, few])
    squares = np.square(part).sum(axis=1)
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        apart = (
            squares[start:stop, None] + squares[start:] - 2.0 * (part[start:stop] @ part[start:].T)
        )  # what is before
        one, other = np.nonzero(apart < distance)  # was seen
        one, other = one[other > one] + start, other[other > one] + start
        if len(one) > _PAIRS:
            found = (vectors[start:stop] @ vectors[start:].T)[one - start, other - start]
        else:
            found = np.einsum("ij,ij->i", vectors[one], vectors[other])
        one, other, found = one[found > NEAR], other[found > NEAR], found[found > NEAR]
        for this, that in ((one, other), (other, one)):
            np.maximum.at(cosines, this, found)
            best = found == cosines[this]
            nearest[this[best]] = that[best]
    return nearest, cosines


def _negations(labels: Sequence[Label]) -> Iterator[Concern]:
    """Labels with a negation in English; in other languages none is known."""
    for label in labels:
        for text in (label.name, *label.aliases, *label.prompts):
            if _NEGATION.search(text) and not _FORBIDDING.search(text):
                yield Concern((label.name,))
                break


def _called_like_groups(labels: Sequence[Label]) -> Iterator[Concern]:
    groups = {group for label in labels for group in label.groups}
    return (Concern((label.name,)) for label in labels if label.name in groups)


def _in_two(labels: Sequence[Label]) -> Iterator[Concern]:
    """Groups with the labels that put them into different others, or at the top."""
    for group, above in parents(labels).items():
        if len(above) > 1:
            where = " and ".join("at the top" if one is None else f"in {one}" for one in above)
            yield Concern(tuple(label.name for label in above.values()), f"{group}, {where}")


def _lonely(labels: Sequence[Label]) -> Iterator[Concern]:
    """Groups with one label; of those that are in each other, the coarsest."""
    members = Counter(group for label in labels for group in label.groups)
    for label in labels:
        alone = next((group for group in label.groups if members[group] == 1), None)
        if alone is not None:
            yield Concern((label.name,), alone)


def _listed(names: Iterable[str], count: int, between: str = ", ") -> str:
    """The first few, and how many more there are."""
    first = [name for name, _ in zip(names, range(NAMED), strict=False)]
    return between.join(first) + (f" and {count - NAMED:,} more" if count > NAMED else "")
