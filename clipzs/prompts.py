"""Labels × templates → the exact texts the model reads. Pure: no files, no model."""

from collections.abc import Sequence

from clipzs.labels import Label
from clipzs.templates import fill


def expand(label: Label, templates: Sequence[str]) -> tuple[str, ...]:
    """Every prompt whose embedding goes into this label's average, each once, in order.

    The name goes through the templates, or through the label's own `prompts` where it has some;
    every alias goes through the templates.

    >>> expand(Label("boxer", aliases=("boxer dog",), prompts=("a boxer, a type of dog",)), ["a photo of a <>."])
    ('a boxer, a type of dog', 'a photo of a boxer dog.')
    """
    own = [fill(template, label.name) for template in label.prompts or templates]
    others = [fill(template, alias) for alias in label.aliases for template in templates]
    return tuple(dict.fromkeys([*own, *others]))


def weights(label: Label, templates: Sequence[str]) -> tuple[float, ...]:
    """How much each of the prompts that `expand` gives counts, in their order; none if all count the same.

    Prompts of aliases count 1.
    """
    if not label.weights:
        return ()
    found = dict.fromkeys(expand(label, templates), 0.0)
    for template, weight in zip(label.prompts, label.weights, strict=True):
        found[fill(template, label.name)] += weight
    return tuple(weight or 1.0 for weight in found.values())
