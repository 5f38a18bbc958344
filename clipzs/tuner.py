"""From labelled images to a labels file: embeds what `tuning` needs, writes down what it found, and the evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipzs import __version__, metrics, prompts, templates, tuning
from clipzs.classifier import Classifier
from clipzs.defaults import TEMPLATES
from clipzs.labelled import embedded
from clipzs.labels import Label, Tuned, written
from clipzs.metrics import DIGITS, Figure, Floats
from clipzs.options import Options
from clipzs.score import Array
from clipzs.templates import fill
from clipzs.truth import Truth
from clipzs.tuning import Examples, Tuning

MORE_TEMPLATES = "imagenet80"  # to choose from, besides those of `defaults.TEMPLATES`


@dataclass(frozen=True)
class TunedLabels:
    """Labels with all that was fitted, and why.

    Attributes:
        labels: with prompts, and where it helps weights and thresholds.
        tuning: what was found.
        templates: those that were chosen among; `tuning.weights` are of these.
        unchanged: how many of them the labels had before.
        unreadable: number in the truth and reason of each image that could not be read.
        model_scale: what the model multiplies similarities with.
        seed: of the folds and the intervals.
    """

    labels: tuple[Label, ...]
    tuning: Tuning
    templates: tuple[str, ...]
    unchanged: int
    unreadable: dict[int, str]
    model_scale: float
    seed: int

    @property
    def tuned(self) -> Tuned:
        """What the labels hold for."""
        tuned = self.labels[0].tuned
        assert tuned is not None  # noqa: S101  # all have it
        return tuned

    def as_json(self) -> dict[str, Any]:
        """The `tuned` block of a labels file, evidence and all."""
        tuned, evidence = self.tuned, self.tuning.evidence
        scale = {} if tuned.logit_scale is None else {"logit_scale": tuned.logit_scale}
        return {
            "model": tuned.model,
            "digest": tuned.digest,
            **scale,
            "clipzs": __version__,
            "templates": self.tuning.method,
            "evidence": {
                "images": evidence.images,
                "unreadable": len(self.unreadable),
                "folds": evidence.folds,
                "seed": self.seed,
                "templates_tried": len(self.templates),
                "model_logit_scale": round(self.model_scale, DIGITS),
                **{
                    name: _plain(getattr(evidence, name))
                    for name in ("before", "after", "gain", "templates", "temperature", "abstaining")
                },
            },
        }

    def as_yaml(self) -> str:
        """The labels file."""
        import yaml

        def text(value: Any, flow: bool | None) -> str:
            return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow))

        return (
            "# Written by `clipzs tune`, for `clipzs classify --labels-file`.\n"
            f"# Figures are of images left out of what was fitted; low and high end {metrics.LEVEL:.0%} intervals.\n"
            f"{text({'tuned': self.as_json()}, None)}{text({'labels': [_details(one) for one in self.labels]}, False)}"
        )


@dataclass(frozen=True)
class Prepared:
    """Labelled images and labels through a model.

    Attributes:
        classifier: of the labels before.
        examples: of the images that can be read.
        templates: to choose among.
        unchanged: how many of these, from the first on, the labels have before.
        unreadable: number in the truth and reason of each image that could not be read.
    """

    classifier: Classifier
    examples: Examples
    templates: tuple[str, ...]
    unchanged: int
    unreadable: dict[int, str]

    @property
    def start(self) -> Floats:
        """float64 [t], the templates' weights before."""
        return np.where(np.arange(len(self.templates)) < self.unchanged, 1 / self.unchanged, 0.0)

    def tuned(
        self,
        *,
        folds: int = tuning.FOLDS,
        seed: int = 0,
        thresholds: bool = True,
        precision: float | None = None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> TunedLabels:
        """The labels, tuned as `tuning.tune` says."""
        scale, model, labels = self.classifier.encoder.logit_scale, self.classifier.model, self.classifier.labels
        found = tuning.tune(
            self.examples,
            self.start,
            scale,
            folds=folds,
            seed=seed,
            thresholds=thresholds,
            precision=precision,
            progress=progress,
        )
        logit_scale = None if found.scale is None else round(found.scale, DIGITS)
        tuned = Tuned(model.name, model.digest, len(labels), logit_scale)
        made = tuple(self._label(label, found, place, tuned) for place, label in enumerate(labels))
        return TunedLabels(made, found, self.templates, self.unchanged, self.unreadable, scale, seed)

    def _label(self, label: Label, found: Tuning, place: int, tuned: Tuned) -> Label:
        """The label with what was found; its aliases become prompts, which no other templates can change."""
        threshold = round(found.thresholds[place], DIGITS) or None if found.thresholds else label.threshold
        if label.prompts:
            before = self.templates[: self.unchanged]
            texts, weights = prompts.expand(label, before), prompts.weights(label, before)
        else:
            used = {text: round(float(w), DIGITS) for text, w in zip(self.templates, found.weights, strict=True) if w}
            words = _words(label)
            texts = (*used, *(fill(template, word) for word in words[1:] for template in used))
            weights = (*used.values(),) * len(words) if found.method == "weighted" else ()
        return replace(label, aliases=(), prompts=texts, weights=weights, threshold=threshold, tuned=tuned)


def untuned(labels: Sequence[Label]) -> list[Label]:
    """The labels without what an earlier tuning found out of scores; prompts stay."""
    return [replace(label, threshold=None, tuned=None) if label.tuned else label for label in labels]


def prepared(truth: Truth, classifier: Classifier, *, done: Callable[[int], object] = lambda images: None) -> Prepared:
    """Embed what tuning needs.

    Labels with prompts of their own will keep them; for the others templates are chosen, from those that the options
    name, or from the default ones and the 80 of CLIP's authors where they name none. What they have before is the mean
    of all that are named.

    Args:
        truth: the images.
        classifier: of the labels.
        done: called with the number of images of each batch.

    Raises:
        LabelsError: a class is none of the labels.
        ClipzsError: no image could be read, or what made the model fail.
    """
    unchanged, tried = _templates(classifier.options)
    texts = _texts(classifier, tried)
    images = embedded(truth, classifier, done=done)
    classifier.compile()
    examples = Examples.of(images.vectors, texts, images.answers.tolist())
    return Prepared(classifier, examples, tried, len(unchanged), images.errors)


def _templates(options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that labels have before, and all to choose among, which begin with these."""

    def chosen(sets: Sequence[str]) -> tuple[str, ...]:
        return templates.chosen(sets, options.template, options.context, options.prompts_dir)

    unchanged = chosen(options.templates)
    named = options.templates or options.template
    return unchanged, unchanged if named else tuple(dict.fromkeys([*unchanged, *chosen([TEMPLATES, MORE_TEMPLATES])]))


def _words(label: Label) -> tuple[str, ...]:
    """What goes into templates; none for a label with prompts of its own."""
    return () if label.prompts else tuple(dict.fromkeys([label.name, *label.aliases]))


def _texts(classifier: Classifier, tried: Sequence[str]) -> Array:
    """float32 [c, t, d], as `Examples.of` takes them."""
    untouched = classifier.label_vectors  # and what is wrong with the labels is said
    wanted = [fill(template, word) for label in classifier.labels for word in _words(label) for template in tried]
    vectors = iter(classifier.embedder.texts(wanted)) if wanted else iter(())
    texts = np.empty((len(classifier.labels), len(tried), untouched.shape[1]), np.float32)
    for place, label in enumerate(classifier.labels):
        words = _words(label)
        if not words:
            texts[place] = untouched[place]
            continue
        own = np.stack([next(vectors) for _ in range(len(words) * len(tried))])
        texts[place] = own.reshape(len(words), len(tried), -1).sum(axis=0)
    return texts


def _details(label: Label) -> dict[str, Any]:
    """As labels files have it."""
    details = {
        "name": label.name,
        "group": written(label.groups),
        "threshold": label.threshold,
        "prompts": list(label.prompts),
        "weights": list(label.weights),
    }
    return {key: value for key, value in details.items() if value or value == 0.0}


def _plain(value: Any) -> Any:
    """Figures, mappings of figures, and what has them as fields, as plain mappings."""
    if value is None or isinstance(value, Figure):
        return value and value.as_json()
    return {name: _plain(one) for name, one in (value if isinstance(value, dict) else vars(value)).items()}
