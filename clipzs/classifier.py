"""The whole job as one object: labels and templates to embeddings, images to embeddings, both to results."""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from itertools import repeat
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipzs import defaults, labelchecks, labelfiles, labels, prompts, templates
from clipzs.answers import BEST, RollUp, Rules
from clipzs.configuration import ROLL_UP, Configuration
from clipzs.embedder import Embedder
from clipzs.encoder import Computes, Progress
from clipzs.errors import UsageProblem
from clipzs.images import Blob
from clipzs.modelspec import ModelSpec
from clipzs.options import Options, checked, from_settings
from clipzs.paths import Found
from clipzs.pipeline import Batch, ImageLike
from clipzs.remote import embedder_for
from clipzs.results import Result, Score
from clipzs.score import Array, ranked, sum_groups
from clipzs.scorers import Scorer, ZeroShot
from clipzs.store import LabelEmbedding, key

if TYPE_CHECKING:
    from clipzs.headfile import SavedHead

log = logging.getLogger("clipzs")

SCORED_AT_ONCE = 1 << 20  # scores computed together: enough for a fast product, few enough for the processor's cache


class Classifier:
    """Zero-shot image classification among labels given in words.

    >>> from clipzs import Classifier
    >>> classifier = Classifier(["cat", "rocket", "temple"], model="tiny")  # doctest: +SKIP
    >>> for result in classifier.classify(["examples/cat.jpg"]):  # doctest: +SKIP
    ...     print(result.path, result.label, result.score)

    Labels, templates and names are checked at once; weights are loaded when the first image needs them.
    """

    def __init__(
        self,
        labels: Iterable[str | labels.Label] | Path | None = None,
        *,
        options: Options | None = None,
        progress: Progress | None = None,
        compiling: Progress | None = None,
        embedder: Embedder | None = None,
        **settings: Any,
    ) -> None:
        """Set up.

        Args:
            labels: words, `Label`s with aliases, prompts or groups, or the path of a labels file. None where
                `options.head` has them.
            options: how to classify.
            progress: called with (done, total) while prompts are encoded.
            compiling: called with (done, total) while the model is compiled for this CPU.
            embedder: the model, where it is shared with other classifiers; made of the options unless given.
            settings: fields of `Options`, in place of `options`. `templates` may also be one
                string, and may hold templates ("a photo of a <>") as well as names of sets.

        Raises:
            LabelsError: too few labels, an empty or duplicate one, or others than those of the head.
            HeadError: a head that cannot be read.
            TemplatesError: an unknown or malformed template set.
            UsageProblem: options that contradict each other.
        """
        if options is not None and settings:
            raise TypeError(f"options are given, and apart from them: {', '.join(settings)}")
        self.options = checked(options or from_settings(settings))
        shared = self.options.score == "softmax" and not (self.options.unknown or self.options.multi)
        self.head: SavedHead | None = None
        if self.options.head is not None:
            from clipzs import headfile

            self.head = headfile.read(self.options.head)
        if self.head is not None and self.options.model is None and self.options.model_config is None:
            self.options = replace(self.options, model=self.head.model_to_load)
        if self.head is None or labels:
            self.labels = _labels(labels or (), least=2 if shared else 1)
        if self.head is not None:
            self.labels = self.head.agreeing(self.labels if labels else self.head.labels)
        if self.options.by_group:
            _check_groups(self.labels, alone=self.options.unknown)
        if self.options.roll_up is not None:
            _check_tree(self.labels)
        if self.abstains:
            _check_unknown_label(self.labels, self.options.unknown_label)
        self.embedder = embedder or embedder_for(self.options, progress=progress, compiling=compiling)
        chosen = templates.chosen(
            self.options.templates, self.options.template, self.options.context, self.options.prompts_dir
        )
        self.templates = chosen
        self.prompts = [() if self.head else prompts.expand(label, chosen) for label in self.labels]
        self.weights = [prompts.weights(label, chosen) for label in self.labels]

    @property
    def model(self) -> ModelSpec:
        """The model, found on this machine or downloaded; errors as of `Embedder.model`."""
        return self.embedder.model

    @property
    def encoder(self) -> Computes:
        """How the model computes; errors as of `Embedder.encoder`."""
        return self.embedder.encoder

    @property
    def prompts_encoded(self) -> int:
        """How many different prompts went through the text tower."""
        return self.embedder.prompts_encoded

    def compile(self) -> None:
        """As `Embedder.compile`."""
        self.embedder.compile()

    @cached_property
    def configuration(self) -> Configuration:
        """Everything that determines the numbers."""
        groups = (label.groups if len(label.groups) > 1 else label.group for label in self.labels)
        return Configuration(
            model=self.model.name,
            digest=self.model.digest,
            labels=tuple(zip((label.name for label in self.labels), groups, self.prompts, strict=True)),
            precision=self.encoder.precision,
            exact_decode=self.options.exact_decode,
            score=self.options.score,
            by_group=self.options.by_group,
            settings=tuple(self._settings()),
            unknown=self.options.unknown_label if self.options.unknown else None,
        )

    def _settings(self) -> Iterator[tuple[str, Any, str]]:
        """As `Configuration.settings` takes them."""
        options = self.options
        if self.head is not None:
            yield "--head", self.head.sha256, f"a head by {self.head.method}"
        for option, wanted in (("--unknown", options.unknown), ("--multi", options.multi)):
            if wanted:
                from clipzs.background import CONSTANTS

                yield option, key(self._background_prompts, CONSTANTS).hex(), "set"
        if options.negative:
            yield "--negative", options.negative, ", ".join(options.negative)
        for option, least in (
            ("--min-score", options.min_score),
            ("--min-margin", options.min_margin),
            ("--threshold", options.threshold),
        ):
            if least is not None:
                yield option, least, f"{least:g}"
        if self._thresholds:
            yield "threshold (of labels)", self._thresholds, "set"
        if any(self.weights):
            yield "weights (of labels)", self.weights, "set"
        if self._tuned and self._tuned.logit_scale is not None:
            yield "logit_scale (of labels)", self._tuned.logit_scale, f"{self._tuned.logit_scale:g}"
        if self.abstains and options.unknown_label != defaults.UNKNOWN_LABEL:
            yield "--unknown-label", options.unknown_label, options.unknown_label
        if options.roll_up is not None:
            yield ROLL_UP, options.roll_up, f"{options.roll_up:g}"

    @property
    def config(self) -> str:
        """Short hash of everything that determines the numbers; results that share it can be compared."""
        return self.configuration.hash

    @property
    def scores_kept(self) -> int:
        """How many labels, or groups, a result has scores of."""
        names = len(self.configuration.names)
        return min(self.options.top_k or names, names)

    @cached_property
    def label_vectors(self) -> Array:
        """float32 [c, d], rows of length 1, one per label.

        Logs a warning for labels the model cannot read or tell apart, and for prompts it must cut.
        """
        if self.head is not None:
            raise UsageProblem("a head has no embeddings of labels", hint="name labels in its place")
        if self.options.score == "sigmoid" and self.encoder.logit_bias is None:
            raise UsageProblem(
                f"{self.model.name} was not trained for sigmoid scores (it has no logit bias)",
                hint="use --score softmax, or a SigLIP-type model such as --model multilingual",
            )
        return self._embedded[0]

    @cached_property
    def _embedded(self) -> tuple[Array, Array, Array]:
        """float32 [c, d], [m, d] and [k, d]: of the labels, of the words they are compared with, of what is not wanted.

        Of the two last, nothing where the scores do not need them.
        """
        embedded = self.embedder.labels([*self.prompts, *self._background_prompts], self.weights)
        vectors = np.stack([one.vector for one in embedded])
        del embedded[len(self.prompts) :]
        grouped = self.options.by_group or self.options.roll_up is not None
        for finding in self._findings(embedded, groups=grouped, most=labelchecks.MOST_AT_ONCE):
            log.warning("%s", finding.message)
        count, last = len(self.labels), len(vectors) - len(self.options.negative)
        return vectors[:count], vectors[count:last], vectors[last:]

    def findings(self) -> list[labelchecks.Finding]:
        """What may be wrong with the labels, the worst first; all that classifying warns of, and more."""
        return self._findings(self.embedder.labels(self.prompts, self.weights), groups=True, most=None)

    def _findings(
        self, embedded: Sequence[LabelEmbedding], *, groups: bool, most: int | None
    ) -> list[labelchecks.Finding]:
        def everyday() -> Array:
            return self.embedder.texts([templates.fill(self.templates[0], word) for word in labelchecks.EVERYDAY])

        return labelchecks.findings(
            self.labels, self.prompts, embedded, self.model, everyday=everyday, groups=groups, most=most
        )

    @cached_property
    def _background_prompts(self) -> list[tuple[str, ...]]:
        """The texts of each word that labels are compared with, those that are not wanted last; none where none are."""
        options = self.options
        if not (options.unknown or (options.multi and self.encoder.logit_bias is None)):
            if options.negative:
                raise UsageProblem(
                    f"--negative would change nothing: {self.model.name} was trained to give each label its own score",
                    hint="leave it out, or give it to --unknown",
                )
            return []
        from clipzs.background import words

        return [prompts.expand(labels.Label(text), self.templates) for text in (*words(), *options.negative)]

    @cached_property
    def scorer(self) -> Scorer:
        """What makes scores of image embeddings.

        Raises:
            HeadError: a head that was made with another model.
        """
        if self.head is not None:
            return self.head.scorer(self.model)
        options, names, vectors = self.options, tuple(label.name for label in self.labels), self.label_vectors
        scale, bias = self.logit_scale, self.encoder.logit_bias
        if self._background_prompts:
            from clipzs.background import Background, Contrast, WithUnknown

            background = Background(*self._embedded[1:])
            if options.multi:
                return Contrast(names, vectors, background)
            return WithUnknown(names, vectors, background, scale=scale, unknown=options.unknown_label)
        return ZeroShot(names, vectors, kind="sigmoid" if options.multi else options.score, scale=scale, bias=bias)

    @property
    def _thresholds(self) -> dict[str, float]:
        """What labels have of their own, if it holds here; groups have none."""
        if self.options.by_group or self.options.roll_up is not None:
            return {}
        own = {label.name: label.threshold for label in self.labels if label.tuned is None or self._tuned is not None}
        return {name: threshold for name, threshold in own.items() if threshold is not None}

    @cached_property
    def _tuned(self) -> labels.Tuned | None:
        """What the labels were tuned for, if that is what they are used for: only then thresholds and temperature hold.

        Logs a warning if it is not.
        """
        tuned = next((label.tuned for label in self.labels if label.tuned), None)
        if tuned is None or (tuned.logit_scale is None and all(label.threshold is None for label in self.labels)):
            return None
        problem = self._differs(tuned)
        if problem:
            log.warning("%s: their thresholds and temperature are not used; `clipzs tune` fits new ones", problem)
        return None if problem else tuned

    def _differs(self, tuned: labels.Tuned) -> str | None:
        options, here = self.options, self.model
        if tuned.digest != here.digest:
            other = f"and this is {here.name}" if here.name != tuned.model else "whose weights or settings were others"
            return f"the labels were tuned for {tuned.model}, {other}"
        if any(label.tuned != tuned for label in self.labels) or len(self.labels) != tuned.labels:
            return f"{tuned.labels} labels were tuned together, and there are others than these now"
        way = "--multi" if options.multi else "--unknown" if options.unknown else f"--score {options.score}"
        return None if way == "--score softmax" else f"the labels were tuned for softmax scores, not for {way}"

    @property
    def logit_scale(self) -> float:
        """What similarities are multiplied with: the model's own number, or that of tuned labels."""
        return (self._tuned and self._tuned.logit_scale) or self.encoder.logit_scale

    @property
    def abstains(self) -> bool:
        """Whether the answer may be that no label is right."""
        options = self.options
        common = (options.min_score, options.min_margin, options.threshold, options.roll_up)
        return options.unknown or any(one is not None for one in (*common, *(label.threshold for label in self.labels)))

    @cached_property
    def _rules(self) -> Rules | RollUp | None:
        """When a label is an answer; None where the best always is."""
        if not self.abstains:
            return None
        options, names = self.options, self.configuration.names
        if options.roll_up is not None:
            own, groups = [label.name for label in self.labels], [label.groups for label in self.labels]
            return RollUp(own, groups, least=options.roll_up, unknown=options.unknown_label)
        common = options.threshold if options.multi else options.min_score
        least = dict.fromkeys(names, -math.inf if common is None else common) | self._thresholds
        if options.unknown:
            least[options.unknown_label] = math.inf
        return Rules(
            names, [*least.values()], options.unknown_label, margin=options.min_margin or 0.0, several=options.multi
        )

    def classify(self, images: Iterable[ImageLike] | ImageLike) -> Iterator[Result]:
        """One result per image, in order, as batches are done.

        Args:
            images: paths, files in memory (`Blob`), PIL images, or arrays [height, width], [height, width, 3] or
                [height, width, 4] (uint8, or float in [0, 1]); or one of these.

        Yields:
            Results. An image that cannot be read has `error` set and costs no other anything.
        """
        if isinstance(images, (str, PathLike, Image.Image, np.ndarray, Blob, Found)):
            images = [images]
        for batch in self.batches(images):
            yield from batch

    def batches(
        self, images: Iterable[ImageLike], *, live: bool = False, begun: Callable[[], None] = lambda: None
    ) -> Generator[list[Result], None, None]:
        """As `classify`, a batch at a time.

        Args:
            images: as of `classify`.
            live: hand over what is there instead of filling batches.
            begun: called when a batch goes into the model, which may take a while.
        """

        def before() -> None:
            _ = self.scorer  # labels that cannot be had cost no image pass
            begun()

        with closing(self.embedder.batches(images, live=live, before=before)) as embedded:
            for batch in embedded:
                yield self.results(batch)

    def results(self, batch: Batch) -> list[Result]:
        """Of each image of an embedded batch, in its order."""
        rows = iter(self._scored(batch.vectors) if len(batch.vectors) else ())
        result = partial(
            Result,
            model=self.model.name,
            config=self.config,
            labels=() if self.options.multi else None,
            groups=None if self.options.roll_up is None else (),
        )
        return [
            result(name, **next(rows)) if error is None else result(name, error=error)
            for name, error in zip(batch.names, batch.errors, strict=True)
        ]

    def _scored(self, embedded: Array) -> Iterator[dict[str, Any]]:
        """float32 [n, d] → of each image the kept scores, best first, ties in label order; and what the rules say."""
        rules, scorer = self._rules, self.scorer
        rows = max(1, SCORED_AT_ONCE // (len(self.labels) + len(self._background_prompts)))
        for start in range(0, len(embedded), rows):
            table, names = self.embedder.finite(scorer(embedded[start : start + rows])), scorer.names
            if self.options.by_group:
                groups = {label.name: label.group or label.name for label in self.labels}
                table, names = sum_groups(table, [groups.get(name, name) for name in names])
            columns = ranked(table, self.options.top_k)
            kept = np.take_along_axis(table, columns, axis=1)
            answers = rules(table) if rules else repeat(BEST)
            for some, numbers, answer in zip(columns.tolist(), kept.tolist(), answers, strict=False):
                scores = tuple(Score(names[c], number) for c, number in zip(some, numbers, strict=True))
                label, score = answer.label or scores[0].label, answer.score
                if score is None:
                    score = next((one.score for one in scores if one.label == label), None)
                found = {"label": label, "score": score, "scores": scores}
                yield {**found, "labels": answer.labels, "groups": answer.groups}


def _check_groups(given: Sequence[labels.Label], *, alone: bool) -> None:
    """Raise a `UsageProblem` if there is nothing to choose among; `alone`: one group is enough."""
    if any(label.threshold is not None for label in given):
        log.warning("thresholds of labels count for nothing with --by-group; --min-score is for groups")
    if not any(label.group for label in given):
        raise UsageProblem("--by-group needs labels with a group", hint="give them `group:` in a YAML labels file")
    names = {label.group or label.name for label in given}
    if len(names) == 1 and not alone:
        raise UsageProblem(
            f"all labels are in one group: {names.pop()}", hint="its probability is always 1: leave --by-group out"
        )


def _check_tree(given: Sequence[labels.Label]) -> None:
    """Raise a `ClipzsError` if there is nothing to roll up to, or it could not be told from something else."""
    if any(label.threshold is not None for label in given):
        log.warning("thresholds of labels count for nothing with --roll-up, which has one for all")
    if not any(label.groups for label in given):
        raise UsageProblem("--roll-up needs labels with a group", hint="give them `group:` in a YAML labels file")
    labels.check_tree(given)


def _check_unknown_label(given: Sequence[labels.Label], unknown: str) -> None:
    for label in given:
        if unknown in (label.name, *label.groups):
            what = "a label" if unknown == label.name else "a group"
            raise UsageProblem(
                f"{labels.where(label)}{unknown!r} is {what}, and what is answered where no label is",
                hint="call one of them otherwise: --unknown-label TEXT",
            )


def _labels(given: Iterable[str | labels.Label] | Path, *, least: int) -> tuple[labels.Label, ...]:
    if isinstance(given, Path):
        return labels.checked(labelfiles.read(given), least=least)
    if isinstance(given, str):
        given = labels.split_commas(given)
    return labels.checked([_label(one) for one in given], least=least)


def _label(given: str | labels.Label) -> labels.Label:
    if isinstance(given, labels.Label):
        return given
    if not isinstance(given, str):
        raise TypeError(f"a label is text or a Label, not {given!r}")
    return labels.Label(given.strip())
