"""What may be wrong with labels for a model, each as one line however many labels it concerns."""

from collections.abc import Iterable, Sequence

from clipzs.families import in_words
from clipzs.modelspec import ModelSpec
from clipzs.scripts import foreign

NAMED = 3  # labels in one line; of the others, their number
_CHARACTERS = {"Han": "Chinese"}
_CHINESE = {"Han", "Bopomofo"}


def unreadable(labels: Sequence[tuple[str, Sequence[str]]], model: ModelSpec) -> str | None:
    """What to say of labels in a script that none of the model's languages uses; None if there are none.

    Args:
        labels: each label's name and prompts.
        model: its languages may be unknown, and then there is nothing to say.
    """
    found = {name: scripts for name, prompts in labels if (scripts := foreign(prompts, model.languages))}
    if not found:
        return None
    scripts = set().union(*found.values())
    *kinds, last = sorted(_CHARACTERS.get(script, script) for script in scripts)
    written = f"{', '.join(kinds)} and {last}" if kinds else last
    chinese = ", or --model cn-clip:ViT-B-16 for Chinese" if scripts <= _CHINESE else ""
    return (
        f"{model.name} knows {in_words(model.languages)}; it cannot read the {written} characters of "
        f"{_listed(found)}: use --model multilingual{chinese}"
    )


def cut(labels: Sequence[tuple[str, int]], model: ModelSpec) -> str | None:
    """What to say of labels with a prompt that the model does not read to its end; None if there are none.

    Args:
        labels: each label's name and the tokens of its longest prompt.
        model: its context length is what counts.
    """
    most = model.context_length
    found = [(name, tokens) for name, tokens in labels if tokens > most]
    if len(found) > 1:
        counts = _listed(f"{name!r} ({tokens})" for name, tokens in found)
        return f"{model.name} reads {most} tokens of a prompt: the end was cut of longer ones, of labels {counts}"
    for name, tokens in found:
        return f"a prompt of label {name!r} has {tokens} tokens, {model.name} reads {most}: the end was cut"
    return None


def alike(groups: Iterable[Sequence[str]]) -> str | None:
    """What to say of labels that are the same to a model; None if there are none.

    Args:
        groups: names of labels that are the same text to it, each label in one group.
    """
    found = [_listed(names) for names in groups if len(names) > 1]
    if not found:
        return None
    return f"the model reads these labels as the same text: {_listed(found, '; ')}; their score is split"


def _listed(names: Iterable[str], between: str = ", ") -> str:
    """The first few, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return between.join(names[:NAMED]) + more
