"""The whole job as one object: labels and templates to embeddings, images to embeddings, both to results."""

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipzs import labelchecks, labelfiles, labels, prompts, templates
from clipzs.configuration import Configuration
from clipzs.embedder import Embedder
from clipzs.encoder import Progress
from clipzs.engine import Engine
from clipzs.errors import UsageProblem
from clipzs.modelspec import ModelSpec
from clipzs.options import Options, checked, from_settings
from clipzs.paths import Found
from clipzs.pipeline import Batch, ImageLike
from clipzs.results import Result, Score
from clipzs.score import Array, ranked, sum_groups
from clipzs.scorers import Scorer, ZeroShot

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
        labels: Iterable[str | labels.Label] | Path,
        *,
        options: Options | None = None,
        progress: Progress | None = None,
        compiling: Progress | None = None,
        **settings: Any,
    ) -> None:
        """Set up.

        Args:
            labels: words, `Label`s with aliases, prompts or groups, or the path of a labels file.
            options: how to classify.
            progress: called with (done, total) while prompts are encoded.
            compiling: called with (done, total) while the model is compiled for this CPU.
            settings: fields of `Options`, in place of `options`. `templates` may also be one
                string, and may hold templates ("a photo of a <>") as well as names of sets.

        Raises:
            LabelsError: too few labels, or an empty or duplicate one.
            TemplatesError: an unknown or malformed template set.
            UsageProblem: options that contradict each other.
        """
        if options is not None and settings:
            raise TypeError(f"options are given, and apart from them: {', '.join(settings)}")
        self.options = checked(options or from_settings(settings))
        self.labels = _labels(labels, least=2 if self.options.score == "softmax" else 1)
        if self.options.by_group:
            _check_groups(self.labels)
        self.embedder = Embedder(self.options, progress=progress, compiling=compiling)
        chosen = templates.chosen(
            self.options.templates, self.options.template, self.options.context, self.options.prompts_dir
        )
        self.prompts = [prompts.expand(label, chosen) for label in self.labels]

    @property
    def model(self) -> ModelSpec:
        """The model, found on this machine or downloaded; errors as of `Embedder.model`."""
        return self.embedder.model

    @property
    def encoder(self) -> Engine:
        """The model itself; errors as of `Embedder.encoder`."""
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
        named = ((label.name, label.group, texts) for label, texts in zip(self.labels, self.prompts, strict=True))
        return Configuration(
            model=self.model.name,
            digest=self.model.digest,
            labels=tuple(named),
            precision=self.encoder.precision,
            exact_decode=self.options.exact_decode,
            score=self.options.score,
            by_group=self.options.by_group,
        )

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
        if self.options.score == "sigmoid" and self.encoder.logit_bias is None:
            raise UsageProblem(
                f"{self.model.name} was not trained for sigmoid scores (it has no logit bias)",
                hint="use --score softmax, or a SigLIP-type model such as --model multilingual",
            )
        embedded = self.embedder.labels(self.prompts)
        names, alike = [label.name for label in self.labels], defaultdict(list)
        for name, one in zip(names, embedded, strict=True):
            alike[one.tokens].append(name)
        for problem in (
            labelchecks.unreadable([*zip(names, self.prompts, strict=True)], self.model),
            labelchecks.cut([(name, one.longest) for name, one in zip(names, embedded, strict=True)], self.model),
            labelchecks.alike(alike.values()),
        ):
            if problem:
                log.warning("%s", problem)
        return np.stack([one.vector for one in embedded])

    @cached_property
    def scorer(self) -> Scorer:
        """What makes scores of image embeddings."""
        return ZeroShot(
            tuple(label.name for label in self.labels),
            self.label_vectors,
            kind=self.options.score,
            scale=self.encoder.logit_scale,
            bias=self.encoder.logit_bias,
        )

    def classify(self, images: Iterable[ImageLike] | ImageLike) -> Iterator[Result]:
        """One result per image, in order, as batches are done.

        Args:
            images: paths, PIL images, or arrays [height, width], [height, width, 3] or
                [height, width, 4] (uint8, or float in [0, 1]); or one of these.

        Yields:
            Results. An image that cannot be read has `error` set and costs no other anything.
        """
        if isinstance(images, (str, PathLike, Image.Image, np.ndarray, Found)):
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
            _ = self.label_vectors  # labels that cannot be had cost no image pass
            begun()

        with closing(self.embedder.batches(images, live=live, before=before)) as embedded:
            for batch in embedded:
                yield self._results(batch)

    def _results(self, batch: Batch) -> list[Result]:
        rows = iter(self._scored(batch.vectors) if len(batch.vectors) else ())
        result = partial(Result, model=self.model.name, config=self.config)
        return [
            result(name, scores=next(rows)) if error is None else result(name, error=error)
            for name, error in zip(batch.names, batch.errors, strict=True)
        ]

    def _scored(self, embedded: Array) -> Iterator[tuple[Score, ...]]:
        """float32 [n, d] → the kept scores of each image, best first; ties in label order."""
        scorer, rows = self.scorer, max(1, SCORED_AT_ONCE // len(self.labels))
        for start in range(0, len(embedded), rows):
            table, names = self.embedder.finite(scorer(embedded[start : start + rows])), scorer.names
            if self.options.by_group:
                table, names = sum_groups(table, [label.group or label.name for label in self.labels])
            columns = ranked(table, self.options.top_k)
            kept = np.take_along_axis(table, columns, axis=1)
            for some, numbers in zip(columns.tolist(), kept.tolist(), strict=True):
                yield tuple(Score(names[c], number) for c, number in zip(some, numbers, strict=True))


def _check_groups(given: Sequence[labels.Label]) -> None:
    if not any(label.group for label in given):
        raise UsageProblem("--by-group needs labels with a group", hint="give them `group:` in a YAML labels file")
    names = {label.group or label.name for label in given}
    if len(names) == 1:
        raise UsageProblem(
            f"all labels are in one group: {names.pop()}", hint="its probability is always 1: leave --by-group out"
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
