"""The whole job as one object: labels and templates to embeddings, images to embeddings, both to results."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzs import defaults, images, labelfiles, labels, prompts, stream, templates
from clipzs.devices import chosen_precision
from clipzs.embed import Progress, label_embeddings
from clipzs.errors import ImageError, ModelError, UsageProblem
from clipzs.options import Options, checked, from_settings
from clipzs.paths import Found
from clipzs.resolve import ModelSpec, resolve, resolve_default
from clipzs.results import Result, Score
from clipzs.score import Array, scores, sum_groups
from clipzs.store import LabelStore, key

if TYPE_CHECKING:
    from clipzs.encoder import Encoder, Pixels

log = logging.getLogger("clipzs")

ImageLike = Union[str, "PathLike[str]", Image.Image, "NDArray[Any]", Found]


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
        **settings: Any,
    ) -> None:
        """Set up.

        Args:
            labels: words, `Label`s with aliases, prompts or groups, or the path of a labels file.
            options: how to classify.
            progress: called with (done, total) while prompts are encoded.
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
        self._progress = progress
        chosen = templates.chosen(
            self.options.templates, self.options.template, self.options.context, self.options.prompts_dir
        )
        self.prompts = [prompts.expand(label, chosen) for label in self.labels]
        self.prompts_encoded = 0

    @cached_property
    def model(self) -> ModelSpec:
        """The model, found on this machine or downloaded.

        Raises:
            UnknownModel, ModelUnavailable, ModelError: as `resolve` says.
        """
        options = self.options
        if options.model is None:
            spec, reason = resolve_default()
            if reason:
                log.warning(reason)
            return spec
        return resolve(
            options.model, options.pretrained, quick_gelu=options.quick_gelu, allow_pickle=options.allow_pickle
        )

    @cached_property
    def config(self) -> str:
        """Short hash of everything that determines the numbers; results that share it can be compared."""
        named = [(label.name, label.group, list(texts)) for label, texts in zip(self.labels, self.prompts, strict=True)]
        options = self.options
        precision = chosen_precision(options.precision)
        return key(self.model.digest, precision, options.score, options.by_group, named).hex()[:12]

    @cached_property
    def encoder(self) -> "Encoder":
        """The model itself; its towers are loaded as they are needed."""
        from clipzs.towers import OpenClipEncoder

        return OpenClipEncoder(self.model, device=self.options.device, precision=self.options.precision)

    @cached_property
    def label_vectors(self) -> Array:
        """float32 [c, d], rows of length 1, one per label.

        Logs a warning for labels the model cannot tell apart and for prompts it must cut.
        """
        if self.options.score == "sigmoid" and self.encoder.logit_bias is None:
            raise UsageProblem(
                f"{self.model.name} was not trained for sigmoid scores (it has no logit bias)",
                hint="use --score softmax, or a SigLIP-type model such as --model multilingual",
            )
        options = self.options
        folder = (options.cache_dir or defaults.cache_dir()) if options.cache else None
        store = LabelStore(folder, self.model.name, self.model.digest)
        embedded, self.prompts_encoded = label_embeddings(
            self.prompts, self.encoder, store, digest=self.model.digest, progress=self._progress
        )
        alike: dict[bytes, list[str]] = {}
        for label, one in zip(self.labels, embedded, strict=True):
            alike.setdefault(one.tokens, []).append(label.name)
            if one.longest > self.model.context_length:
                log.warning(
                    "a prompt of label %r has %d tokens, %s reads %d: the end was cut",
                    label.name,
                    one.longest,
                    self.model.name,
                    self.model.context_length,
                )
        for names in alike.values():
            if len(names) > 1:
                log.warning("the model reads these labels as the same text: %s; their score is split", ", ".join(names))
        return self._finite(np.stack([one.vector for one in embedded]))

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

    def batches(self, images: Iterable[ImageLike], *, live: bool = False) -> Iterator[list[Result]]:
        """As `classify`, a batch at a time; `live` hands over what is there instead of filling batches."""
        _ = self.model  # found, or refused, before any image is opened
        numbered = enumerate(images)
        for batch in stream.batches(numbered, self._decoded, size=self.options.batch_size, live=live):
            yield self._results(batch)

    def _decoded(self, numbered: tuple[int, ImageLike]) -> "tuple[str, Pixels | str]":
        """(name, pixels uint8 [height, width, 3]) or (name, reason why there are none)."""
        number, image = numbered
        name = f"image-{number}"
        try:
            if isinstance(image, Found):
                name = image.path
                if image.error:
                    return name, image.error
            elif isinstance(image, (str, PathLike)):
                name = fspath(image)
            return name, self.model.preprocess(self._opened(image))
        except ImageError as error:
            return name, str(error)

    def _opened(self, image: ImageLike) -> Image.Image:
        if isinstance(image, np.ndarray):
            image = images.from_array(image)
        if isinstance(image, Image.Image):
            return images.upright(image)
        path = image.path if isinstance(image, Found) else fspath(image)
        return images.read_image(path, max_megapixels=self.options.max_megapixels)

    def _results(self, batch: "Sequence[tuple[str, Pixels | str]]") -> list[Result]:
        pixels = [one for _, one in batch if not isinstance(one, str)]
        rows = iter(self._scored(np.stack(pixels)) if pixels else ())
        result = partial(Result, model=self.model.name, config=self.config)
        return [
            result(name, error=one) if isinstance(one, str) else result(name, scores=next(rows)) for name, one in batch
        ]

    def _finite(self, numbers: Array) -> Array:
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"{self.model.name} gives numbers that are not finite", hint="try --precision fp32, or other weights"
            )
        return numbers

    def _scored(self, pixels: "Pixels") -> list[tuple[Score, ...]]:
        """uint8 [b, height, width, 3] → the kept scores of each image, best first; ties in label order."""
        vectors = self.label_vectors
        embedded = self._finite(self.encoder.encode_images(pixels))
        kind, scale, bias = self.options.score, self.encoder.logit_scale, self.encoder.logit_bias
        table = self._finite(scores(embedded, vectors, kind=kind, scale=scale, bias=bias))
        names = [label.name for label in self.labels]
        if self.options.by_group:
            table, names = sum_groups(table, [label.group or label.name for label in self.labels])
        order = np.argsort(-table, axis=1, kind="stable")[:, : self.options.top_k]
        return [tuple(Score(names[c], float(row[c])) for c in ranked) for row, ranked in zip(table, order, strict=True)]


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
